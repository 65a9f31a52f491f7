// Package onhost is snapfw-host: what snapfw places on a machine to run jobs that outlive a
// connection, to guard a stopped node, and to look around. cmd/snapfw-host is
// its main package and core/internal/host its control side; this file is what they say
// to each other: one JSON value on standard input, JSON lines on standard output.
//
// It imports the standard library and golang.org/x/sys only, so that the
// binary is small, static and needs nothing of the host.
package onhost

import "time"

// Job is one command as snapfw-host runs it. It is claimed by its ID: a second "job run" of
// the same ID joins the job that is there, running or done, and changes nothing.
type Job struct {
	ID      string            // run/node/step/attempt: one folder under jobs/
	Argv    []string          // "@self", "@core" and "@program:…" are absolute paths by now
	Dir     string            // "" is the user's home
	Env     map[string]string // beside a clean PATH, HOME, USER, LANG; no secrets
	Secrets []string          // names whose values come in Secret; they are never written down
	User    string            // "" the login user
	Timeout time.Duration     // 0 is none
	End     string            // "TERM" (also "") or "INT"
	Grace   time.Duration     // 0 is as long as it takes
	Guard   string            // key of a guard: the job refuses to start once that guard has fired
	Settle  bool              // its last act, after exit 0: the guard's state goes from armed to copied; else it is void
	Nice    int               // 0 to 19
	Idle    bool              // ionice class idle
}

// Start is what "job run" reads from standard input.
type Start struct {
	Job    Job
	Secret map[string]string `json:",omitempty"` // values for Job.Secrets, in memory only
}

// Report is a line that "job run" prints. The last one has Done.
type Report struct {
	Done     *Result   `json:",omitempty"`
	Progress *Progress `json:",omitempty"`
	Log      string    `json:",omitempty"` // a line of the job's standard error
}

// Progress is core.Progress.
type Progress struct {
	Done  int64 `json:"done"`
	Total int64 `json:"total"`
}

// Result is how a job ended.
type Result struct {
	ID       string
	Exit     int       // 128+n: ended by signal n
	Stdout   string    // without progress lines; its first 1 MiB
	Stderr   string    // its last 64 KiB
	Started  time.Time // by the host's clock
	Ended    time.Time
	TimedOut bool   `json:",omitempty"` // it was ended because its time was up
	Stuck    bool   `json:",omitempty"` // … and is running still, its grace over
	Void     bool   `json:",omitempty"` // the guard won: whatever it did does not count
	Lost     bool   `json:",omitempty"` // its helper died or the machine was started anew; nobody knows how it ended
	Err      string `json:",omitempty"` // why it could not be started
}

// Guard is what is armed on a host before a node's data is made to stand still.
type Guard struct {
	Key   string        // one folder under guard/: run.node
	Run   string        // whose jobs it ends when it fires
	Node  string        //
	Undo  []Job         // in the order in which they run; each is tried until it exits 0
	After time.Duration // it fires when this has passed since it was armed
	Lease time.Duration // it fires when nobody renewed it for this long
	// Reboot asks for an @reboot line in the login user's crontab while it is armed.
	Reboot bool
}

// States of a guard. They are settled by renaming one file: the capture's "armed" to "copied"
// and the guard's "armed" to "fired" can't both succeed.
const (
	Armed    = "armed"    // the node may be down, the copy is not whole
	Copied   = "copied"   // the copy is whole; the undo is still owed
	Fired    = "fired"    // the guard won before the copy was whole: the copy is void
	Returned = "returned" // the guard paid after the copy was whole: the copy is good
	Disarmed = "disarmed" // snapfw paid itself
	None     = "none"     // there is no such guard on this host
)

// GuardState is a guard as it is now.
type GuardState struct {
	Key   string
	State string
	Paid  bool     // Fired or Returned, and every undo has exited 0
	Undo  []Result `json:",omitempty"` // what the guard's own undo did so far
	Note  string   `json:",omitempty"` // "no @reboot line: crontab is not installed"
	By    string   `json:",omitempty"` // how it runs: "systemd-run" or "setsid"
}

// Facts is what "facts" prints: the machine as the login user sees it.
type Facts struct {
	OS, Arch string // as runtime.GOOS and GOARCH
	User     string
	UID      int
	Home     string
	Host     string    // its name
	Boot     string    // boot id
	Root     string    // where jobs/, guard/ and lock/ lie
	Now      time.Time // to tell how far its clock is off
	Systemd  bool      // systemd runs as PID 1
}

// LockState is what "lock take" prints. Holder is a run's id.
type LockState struct {
	Taken  bool
	Holder string
	Since  time.Time
	Until  time.Time // when its lease ends
}
