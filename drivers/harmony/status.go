package main

import (
	"context"
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/snapfw/snapfw/core"
	"github.com/snapfw/snapfw/drivers/docker"
)

// Status looks at a node: at its RPC, at its database, and at what stops and starts it.
func (d driver) Status(ctx context.Context, n core.Node, h core.Host) (core.Status, error) {
	s, err := readSpec(n)
	if err != nil {
		return core.Status{}, err
	}
	e, err := examine(ctx, s, h)
	if err != nil {
		return core.Status{}, err
	}
	a, err := ask(ctx, h, s.RPCPort)
	if err != nil {
		return core.Status{}, err
	}
	st := core.Status{Up: a.MetaErr == nil && a.HeadErr == nil, Version: shortVersion(a.Meta.Version)}
	st.Checks = append(st.Checks, answerCheck(s, a))
	if a.HeadErr == nil {
		st.Height, st.Hash, st.HeadTime = *a.Head.Number, a.Head.Hash, time.Unix(a.Head.Unix, 0).UTC()
	}
	if a.MetaErr == nil {
		st.Checks = append(st.Checks, metaChecks(s, a.Meta)...)
	}
	if a.HeadErr == nil && e.LookErr == "" {
		st.Checks = append(st.Checks, ageCheck(s, a.Head, e.Look.Now))
	}
	if st.Up {
		st.Checks = append(st.Checks, dnsCheck(ctx, d.resolver, s.Shard, n.Addr, a))
	}
	st.Checks = append(st.Checks, databaseCheck(s, e))
	if e.LookErr == "" {
		st.Checks = append(st.Checks, launchCheck(s, e))
	}
	if s.Condition.Force {
		letThrough(st.Checks)
	}
	return st, nil
}

// letThrough is condition.force: what protects neither data nor people counts as good, and
// each check that was bypassed says so.
func letThrough(checks []core.Check) {
	for i, c := range checks {
		if !c.OK && !c.Safety {
			checks[i].OK, checks[i].Got = true, c.Got+" (let through by condition.force)"
		}
	}
}

func answerCheck(s spec, a answers) core.Check {
	c := core.Check{Name: "answers", OK: true, Safety: true, Want: fmt.Sprintf("answers on port %d", s.RPCPort), Got: "answers",
		Fix: "see whether the node runs and whether rpc_port is its HTTP port"}
	for _, err := range []error{a.MetaErr, a.HeadErr} {
		if err != nil {
			c.OK, c.Got = false, err.Error()
			return c
		}
	}
	return c
}

// metaChecks compare what the node says of itself with the configuration. Shard and network
// protect data: under another's name a database is poison for whoever fetches it.
func metaChecks(s spec, m metadata) []core.Check {
	shard := core.Check{Name: "shard", Safety: true, Want: strconv.Itoa(s.Shard), Got: "not said",
		Fix: "compare the machine's shard in the configuration with the node's"}
	if m.Shard != nil {
		shard.Got = strconv.FormatUint(uint64(*m.Shard), 10)
		shard.OK = shard.Got == shard.Want
	}
	checks := []core.Check{shard}
	if s.Condition.Network != "" {
		checks = append(checks, core.Check{Name: "network", Safety: true, OK: m.Network == s.Condition.Network,
			Want: s.Condition.Network, Got: clip(m.Network), Fix: "compare condition.network with the node's network"})
	}
	if s.Condition.Role != "" {
		checks = append(checks, core.Check{Name: "role", OK: m.Role == s.Condition.Role,
			Want: s.Condition.Role, Got: clip(m.Role), Fix: "take a node of that role, or change condition.role"})
	}
	leader := flagCheck("leader", s.Condition.IsLeader, m.IsLeader)
	leader.Fix = "try again later, since leadership rotates, or take a node that holds no leader's key"
	archival := flagCheck("archival", s.Condition.IsArchival, m.IsArchival)
	archival.Fix = "take another node, or change condition.is_archival: it decides between full/ and pruned/"
	return append(checks, leader, archival)
}

func flagCheck(name string, want bool, got *bool) core.Check {
	c := core.Check{Name: name, Want: strconv.FormatBool(want), Got: "not said"}
	if got != nil {
		c.Got = strconv.FormatBool(*got)
		c.OK = *got == want
	}
	return c
}

// ageCheck compares the head's time with the host's own clock.
func ageCheck(s spec, h header, now time.Time) core.Check {
	age := now.Sub(time.Unix(h.Unix, 0)).Round(time.Second)
	c := core.Check{Name: "age of the head", Want: "at most " + s.Condition.MaxAge.String(), Got: age.String(),
		OK:  age <= s.Condition.MaxAge && age >= -s.Condition.MaxAge,
		Fix: "let the node catch up; if the whole shard stands still, use force"}
	if age < 0 {
		c.Got += ": the head is in the future"
		c.Fix = "see whether the clock of the node's machine is right"
	}
	return c
}

// scene is what was found on a node's machine, apart from its RPC.
type scene struct {
	Look      look
	Unit      map[string]string // systemctl show, for a service
	Container docker.State
	LookErr   string // why the rest is empty
	LaunchErr string // why the service or container can't be looked at
}

// examine looks at the machine. Its error is one of reaching the machine.
func examine(ctx context.Context, s spec, h core.Host) (scene, error) {
	var e scene
	argv := []string{"@self", "look", "--db", s.database()}
	if s.Run.Log != "" {
		argv = append(argv, "--log", s.Run.Log, "--program", s.Run.Stop[0], "--program", s.Run.Start[0])
	}
	if s.Run.Service != "" {
		argv = append(argv, "--service", s.Run.Service)
	}
	out, err := h.Run(ctx, argv...)
	if err != nil {
		return e, fmt.Errorf("look at the node's machine: %w", err)
	}
	if out.Exit != 0 {
		e.LookErr = lastLine(out.Stderr, "exit "+strconv.Itoa(out.Exit))
	} else if err := json.Unmarshal(out.Stdout, &e.Look); err != nil {
		e.LookErr = err.Error()
	}
	switch {
	case e.LookErr != "":
	case s.Run.Service != "":
		err = e.askSystemd(ctx, s, h)
	case s.Run.Container != "":
		err = e.askDocker(ctx, s, h)
	}
	return e, err
}

func (e *scene) askSystemd(ctx context.Context, s spec, h core.Host) error {
	systemctl := e.Look.Programs["systemctl"]
	if systemctl == "" {
		e.LaunchErr = "systemctl is not installed there"
		return nil
	}
	out, err := h.Run(ctx, showUnit(systemctl, s.Run.Service)...)
	if err != nil {
		return fmt.Errorf("ask systemd about %s: %w", s.Run.Service, err)
	}
	if out.Exit != 0 {
		e.LaunchErr = lastLine(out.Stderr, "systemctl gives no answer")
		return nil
	}
	e.Unit = properties(out.Stdout)
	return nil
}

func (e *scene) askDocker(ctx context.Context, s spec, h core.Host) error {
	program := e.Look.Programs["docker"]
	if program == "" {
		e.LaunchErr = "docker is not installed there"
		return nil
	}
	out, err := h.Run(ctx, docker.Inspect(program, s.Run.Container)...)
	if err != nil {
		return fmt.Errorf("ask docker about %s: %w", s.Run.Container, err)
	}
	if out.Exit != 0 {
		e.LaunchErr = lastLine(out.Stderr, "docker gives no answer")
		return nil
	}
	if e.Container, err = docker.Read(out.Stdout); err != nil {
		e.LaunchErr = err.Error()
	}
	return nil
}

// databaseCheck sees that the database is where the configuration says, of a kind that can be
// taken, and owned by somebody that commands can run as.
func databaseCheck(s spec, e scene) core.Check {
	db := e.Look.DB
	c := core.Check{Name: "database", Safety: true, Want: "a LevelDB at " + s.database(),
		Fix: "compare db_directory with the node's data directory"}
	switch {
	case e.LookErr != "":
		c.Got = "not seen: " + clip(e.LookErr)
		c.Fix = "see whether programs can be run on the machine: `snapfw doctor`"
	case e.Look.Sharded:
		c.Got = fmt.Sprintf("harmony_sharddb_%d, a database split into many (ShardData)", s.Shard)
		c.Fix = "take a node whose ShardData.EnableShardData is false: only a plain harmony_db is supported"
	case db.Err != "" && s.Owner != "":
		c.OK, c.Got = true, fmt.Sprintf("not seen by %s; belongs to %s as configured", e.Look.User, s.Owner)
	case db.Err != "":
		c.Got = db.Err
		if strings.Contains(db.Err, "permission denied") {
			c.Fix = "set the machine's owner to the user who runs the node, or log in as that user"
		}
	case !e.Look.Current && s.Owner == "":
		c.Got = "a directory without a CURRENT that " + e.Look.User + " can see"
		c.Fix = "compare db_directory with the node's data directory, or set the machine's owner to the user who runs the node"
	case s.Owner != "" && db.Owner != s.Owner:
		c.Got = fmt.Sprintf("owned by %q", db.Owner)
		c.Fix = "set the machine's owner to that user, or take it away"
	case db.Owner == "":
		c.Got = fmt.Sprintf("owned by uid %d, which has no name there", db.UID)
		c.Fix = "give the uid a name (useradd) so that commands can run as it"
	default:
		c.OK, c.Got = true, "owned by "+db.Owner
	}
	return c
}

// launchCheck sees that what is configured to stop and start the node does run it.
func launchCheck(s spec, e scene) core.Check {
	c := core.Check{Name: "service", Safety: true}
	switch {
	case s.Run.Service != "":
		c.Want = s.Run.Service + " is active"
		c.Got = fmt.Sprintf("%s, %s", e.Unit["LoadState"], e.Unit["ActiveState"])
		c.OK = e.Unit["LoadState"] == "loaded" && e.Unit["ActiveState"] == "active" && e.Unit["InvocationID"] != ""
		c.Fix = "name the unit that runs the node as service, or use container or commands"
		if c.OK && !remembered(e.Unit) && !e.Look.Journal {
			c.OK, c.Got = false, "active, but systemd forgets how it ended as soon as it is stopped, since nothing wants it"
			c.Fix = "enable the unit (systemctl enable " + s.Run.Service + "), or let the login user read the journal (group systemd-journal)"
		}
		if c.OK && len(e.Look.Refused) > 0 {
			ctl := e.Look.Programs["systemctl"]
			c.OK, c.Got = false, fmt.Sprintf("active, but %s may not run %s as root without a password", e.Look.User, strings.Join(e.Look.Refused, ", "))
			c.Fix = fmt.Sprintf("add this line to /etc/sudoers.d/snapfw there: %s ALL=(root) NOPASSWD: %s stop %s, %s start %s",
				e.Look.User, ctl, s.Run.Service, ctl, s.Run.Service)
		}
	case s.Run.Container != "":
		c.Name, c.Want = "container", s.Run.Container+" is running"
		c.OK = e.Container.State.Running
		c.Got = map[bool]string{true: "running", false: "not running"}[c.OK]
		c.Fix = "see `docker ps -a`; the login user must be allowed to use docker"
		if _, err := e.Container.StopSignal(); c.OK && err != nil {
			c.OK, c.Got, c.Fix = false, err.Error(), "give the container the stop signal SIGTERM"
		}
	default:
		c.Name, c.Want, c.Got = "commands", "stop, start and the log are there", "there"
		c.OK = len(e.Look.Unusable) == 0 && e.Look.Log != nil && e.Look.Log.Err == ""
		c.Fix = "write absolute paths of programs and of a log that are on the node's machine"
		if len(e.Look.Unusable) > 0 {
			c.Got = clip(strings.Join(e.Look.Unusable, "; "))
		} else if e.Look.Log != nil && e.Look.Log.Err != "" {
			c.Got = clip(e.Look.Log.Path + " " + e.Look.Log.Err)
		}
	}
	if e.LaunchErr != "" {
		c.OK, c.Got = false, clip(e.LaunchErr)
	}
	return c
}

// clip makes what a node said fit into a line.
func clip(s string) string {
	s = strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return ' '
		}
		return r
	}, strings.ToValidUTF8(s, ""))
	return s[:min(len(s), 200)]
}
