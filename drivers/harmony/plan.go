package main

import (
	"context"
	"fmt"
	"path/filepath"
	"regexp"
	"strconv"
	"time"

	"github.com/snapfw/snapfw/core"
)

const (
	grace     = 30 * time.Second // after the end of a command's time
	startTime = 2 * time.Minute
	startWait = 30 * time.Second // in which a node that was started has to show itself
	settle    = 10 * time.Minute // until a large database is open and peers are found
)

// Plan says how to take a snapshot of a node. How the node runs now is part of the
// plan (the unit's invocation, the container's start, the end of its log), so that the stop is
// judged by the very process that was to be stopped.
func (d driver) Plan(ctx context.Context, n core.Node, h core.Host, in core.Intent) (core.Plan, error) {
	if in.Name != "snapshot" {
		return core.Plan{}, fmt.Errorf("plan %q: %w", in.Name, core.ErrUnsupported)
	}
	verify, err := verifyArgs(in.Args["verify"])
	if err != nil {
		return core.Plan{}, err
	}
	s, err := readSpec(n)
	if err != nil {
		return core.Plan{}, err
	}
	e, err := examine(ctx, s, h)
	if err != nil {
		return core.Plan{}, err
	}
	for _, c := range []core.Check{databaseCheck(s, e), launchCheck(s, e)} {
		if !c.OK {
			return core.Plan{}, fmt.Errorf("%s: wanted %s, found %s: %s", c.Name, c.Want, c.Got, c.Fix)
		}
	}
	force := in.Force || s.Condition.Force
	if err := notNow(ctx, s, h, force); err != nil {
		return core.Plan{}, err
	}
	return snapshot(s, e, verify, force), nil
}

// notNow asks once more who leads: leadership rotates, and the status is a moment old.
func notNow(ctx context.Context, s spec, h core.Host, force bool) error {
	if force || s.Condition.IsLeader {
		return nil
	}
	a, err := ask(ctx, h, s.RPCPort)
	if err != nil {
		return err
	}
	if a.MetaErr == nil && a.Meta.IsLeader != nil && *a.Meta.IsLeader {
		return core.Skipf("the node leads its shard's consensus")
	}
	return nil
}

var verifyWord = regexp.MustCompile(`^(full|sample:[0-9]{1,3})$`)

func verifyArgs(v string) ([]string, error) {
	if v == "" {
		return nil, nil
	}
	if !verifyWord.MatchString(v) {
		return nil, fmt.Errorf("verify is %q: write full or sample:N", v)
	}
	return []string{"--verify", v}, nil
}

// snapshot is the plan itself. It follows from what was seen on the machine, the time in the
// snapshot's name included.
func snapshot(s spec, e scene, verify []string, force bool) core.Plan {
	db := e.Look.DB.Path
	owner := s.Owner
	if owner == "" {
		owner = e.Look.DB.Owner
	}
	if owner == e.Look.User {
		owner = ""
	}
	to := filepath.Join(filepath.Dir(db), ".snapfw", filepath.Base(db))
	p := core.Plan{
		Data:    filepath.Join(to, "data"),
		Publish: publish(s, e.Look.Now.UTC()),
		Settle:  settle + s.Condition.MaxAge,
		Owner:   owner,
		Returns: returns(s, e),
	}
	mine := func(c core.Command) core.Command { c.User = owner; return c }
	p.Prepare = prepare(db, to, mine)
	p.Freeze = freeze(s, e, mine)
	p.Capture = capture(db, to, mine)
	p.Seal = seal(s, to, verify, force, mine)
	return p
}

// publish keeps the layout of the tool that this replaces, which consumers' scripts know: a
// database of a state dump is pruned like any that is not archival.
func publish(s spec, at time.Time) core.Layout {
	kind := "pruned"
	if s.Condition.IsArchival {
		kind = "full"
	}
	series := fmt.Sprintf("%s/%d", kind, s.Shard)
	return core.Layout{
		Prefix:  fmt.Sprintf("%s/harmony_db_%d.%s.{height}", series, s.Shard, at.Format("06-01-02-15-04-05")),
		Pointer: series + "/latest.json",
	}
}

// returns tells whether the node comes back by itself when its machine starts anew, though it was
// stopped by us.
func returns(s spec, e scene) bool {
	switch {
	case s.Run.Service != "":
		switch e.Unit["UnitFileState"] {
		case "enabled", "alias", "generated":
			return true
		}
		return false
	case s.Run.Container != "":
		return e.Container.Returns()
	}
	return false
}

func prepare(db, to string, mine func(core.Command) core.Command) []core.Step {
	check := []string{"@core", "capture", "check", "--from", db, "--to", to}
	for _, p := range never {
		check = append(check, "--never", p)
	}
	return []core.Step{
		{Name: "see that the copy can be taken", Do: mine(core.Command{Argv: check, Timeout: 10 * time.Minute, Grace: grace})},
		{
			// It does nothing where links or clones work.
			Name: "warm the copy",
			Do:   mine(core.Command{Argv: []string{"@core", "capture", "warm", "--from", db, "--to", to}, Grace: grace}),
		},
	}
}

func freeze(s spec, e scene, mine func(core.Command) core.Command) []core.Step {
	stop := core.Step{Name: "stop the node"}
	stopped := core.Command{
		Argv:    []string{"@self", "stopped", "--timeout", s.StopTimeout.String()},
		Timeout: s.StopTimeout + grace, Grace: grace,
	}
	switch {
	case s.Run.Service != "":
		systemctl := e.Look.Programs["systemctl"]
		stop.Do = core.Command{Argv: []string{systemctl, "stop", s.Run.Service}, User: "root"}
		stop.Undo = &core.Command{Argv: []string{systemctl, "start", s.Run.Service}, User: "root"}
		stopped.Argv = append(stopped.Argv, "--unit", s.Run.Service, "--invocation", e.Unit["InvocationID"], "--systemctl", systemctl)
	case s.Run.Container != "":
		// As the login user: who may talk to Docker need not be root, and is not the data's owner.
		words := containerWords(s, e)
		stop.Do = core.Command{Argv: append([]string{"@self", "signal"}, words...)}
		stop.Undo = start(s, e, append([]string{"--stop", s.StopTimeout.String()}, words...)...)
		stopped.Argv = append(stopped.Argv, words...)
	default:
		stop.Do = core.Command{Argv: s.Run.Stop}
		stop.Undo = start(s, e, append([]string{"--"}, s.Run.Start...)...)
		stopped.Argv = append(stopped.Argv, "--log", s.Run.Log, "--inode", strconv.FormatUint(e.Look.Log.Inode, 10),
			"--offset", strconv.FormatInt(e.Look.Log.Size, 10), "--db", e.Look.DB.Path)
		if p := e.Look.Holder; p != nil {
			stopped.Argv = append(stopped.Argv, "--pid", strconv.Itoa(p.PID), "--pid-start", strconv.FormatUint(p.Start, 10))
		}
		stopped = mine(stopped)
	}
	stop.Do.Timeout, stop.Do.Grace = s.StopTimeout, grace
	stop.Undo.Timeout, stop.Undo.Grace = startTime, grace
	if s.Run.Container != "" {
		stop.Undo.Timeout += s.StopTimeout // it may have to wait for the stop's end
	}
	return []core.Step{stop, {Name: "see that it stopped cleanly", Do: stopped}}
}

// start watches what nobody else watches: a container or an operator's own command.
func start(s spec, e scene, how ...string) *core.Command {
	return &core.Command{Argv: append([]string{"@self", "start", "--rpc", strconv.Itoa(s.RPCPort),
		"--db", e.Look.DB.Path, "--wait", startWait.String()}, how...)}
}

func capture(db, to string, mine func(core.Command) core.Command) []core.Step {
	list := filepath.Join(to, "live.jsonl")
	drop := mine(core.Command{Argv: []string{"@core", "capture", "drop", "--to", to, "--linked"}, Timeout: 30 * time.Minute, Grace: grace})
	return []core.Step{
		{
			Name: "list the live files",
			Do:   mine(core.Command{Argv: []string{"@self", "live", db, "--to", list}, Timeout: 5 * time.Minute, Grace: grace}),
		},
		{
			Name: "take the copy",
			Do:   mine(core.Command{Argv: []string{"@core", "capture", "take", "--from", db, "--list", list, "--to", to}, Grace: grace}),
			// A linked copy pins tables that the node deletes; a real one is what the next
			// run's difference is taken from.
			Undo: &drop,
		},
		{
			Name: "see that nothing started it meanwhile",
			Do: mine(core.Command{Argv: []string{"@self", "unchanged", db, "--copy", filepath.Join(to, "data"), "--list", list},
				Timeout: time.Minute, Grace: grace}),
		},
	}
}

func seal(s spec, to string, verify []string, force bool, mine func(core.Command) core.Command) []core.Step {
	data := filepath.Join(to, "data")
	height := []string{"@self", "head", "height", data}
	if s.Condition.IsSnapDB != nil && !force {
		height = append(height, "--snapdb", strconv.FormatBool(*s.Condition.IsSnapDB))
	}
	return []core.Step{
		{
			Name: "read the height of the copy", Keep: "height",
			Do: mine(core.Command{Argv: height, Timeout: 10 * time.Minute, Grace: grace}),
		},
		{
			Name: "read the block hash of the copy", Keep: "hash",
			Do: mine(core.Command{Argv: []string{"@self", "head", "hash", data}, Timeout: 10 * time.Minute, Grace: grace}),
		},
		{
			Name: "seal the copy",
			Do:   mine(core.Command{Argv: append([]string{"@core", "capture", "seal", "--to", to}, verify...), Grace: grace}),
		},
	}
}
