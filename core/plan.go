package core

import "time"

// Plan says how to carry out an intent on one node. It is data: snapfw prints it, journals
// it before it acts, and arms the undo on the node's own machine. It has no conditions, no
// loops and no templates; what must be decided on the host is one verb of the plugin's
// ("@self …") that ends with one of the exit codes below.
type Plan struct {
	Prepare []Step // while the node serves: make room, try one link, warm the copy
	Freeze  []Step // make the data stand still; undone as soon as Capture ends
	Capture []Step // take the copy; the node is down, so be quick
	Seal    []Step // the node is back: fsync, sums, the head of the copy; writes entries.jsonl beside Data
	Prove   []Step // after the upload: read back what consumers will read

	// Data is the directory, absolute on the host, that Capture leaves, holding what to
	// publish. Seal leaves "entries.jsonl" in Data's parent: one JSON Entry a line. It is
	// "" where nothing is to be published: a repair.
	//
	// Where keys are replaced in place, "prove.jsonl" lies in Data's parent when Prove runs: the
	// entries whose keys changed. Prove's commands have SNAPFW_FRONT_URL, and SNAPFW_FRONT_HEADER
	// ("Name: value"), where the sink says what consumers read from: see Front.
	Data string

	Publish Layout
	MaxDown time.Duration // the longest that the node may be down, where none is configured; 0 is five minutes
	Settle  time.Duration // how long it may take, once started, to answer and to move on; 0 is ten minutes
	Owner   string        // the user who owns the data; "" the login user

	// Returns says that the node's own unit or supervisor starts it after a reboot of
	// its machine. Where it is false the guard leaves an @reboot line while it is armed.
	Returns bool
}

// Step is one command and the one that takes it back.
//
// The undo of a Freeze step is paid when Capture ends, whatever its end, in reverse order;
// that of a Prepare or Capture step when the run is over, or at once when the node was not
// captured.
type Step struct {
	Name string // unique in the plan, for people: "stop the node"
	Do   Command
	Undo *Command // owed from the moment before Do starts until Undo succeeds; right also when Do never ran or the node is up
	Keep string   // if set, names Do's output (white space trimmed) among the run's facts: "height"
}

// Command is one program run on the node's machine. It is safe to run twice.
type Command struct {
	Argv    []string          // never a shell string; Argv[0] may be "@self", "@core" or "@program:NAME", later words too
	Dir     string            // absolute; "" is the user's home
	Env     map[string]string // added to a clean environment; "secret:NAME" is filled in at the last moment and never written down
	User    string            // "" the login user, the data's owner, or "root" (only for an absolute system program)
	Timeout time.Duration     // kept by the helper on the host: snapfw may be gone; 0 is none
	End     string            // the signal that ends it at the timeout: "TERM" (also "") or "INT"
	Grace   time.Duration     // after End: then it has failed. It is never killed in the middle of the node's data
}

// Exit codes of a verb on the host. Anything else is a failure.
const (
	ExitDone    = 0
	ExitRefused = 3  // it must not be done; the last line of stderr says why
	ExitAgain   = 75 // put the node back and look at it again, at most twice (EX_TEMPFAIL of sysexits.h)
)

// Progress is a line of JSON that a long verb prints on its standard output.
// Bytes, or files where there are no bytes; Total 0 where it is not known.
type Progress struct {
	Done  int64 `json:"done"`
	Total int64 `json:"total"`
}

// Layout says where in a sink a plan's data goes.
type Layout struct {
	Prefix  string // may hold {NAME} for a value kept under NAME, the only substitution there is
	Pointer string // the key of what consumers read first, written last; its folder is the series that retention looks at

	// InPlace says that keys are replaced in place, staged and then moved, instead of new ones being made, and
	// that the pointer is the list that the chain's Catalog renders: for a Chain that is a
	// Catalog and a Judge. Prefix "" is the storage's root.
	InPlace bool
}

// Entry is one file of a snapshot. Name is relative to Plan.Data, with forward slashes.
type Entry struct {
	Name string            `json:"name"`
	Size int64             `json:"size"`
	Sums map[string]string `json:"sums,omitempty"` // by algorithm, lower-case hex: "sha256", "infohash"
}
