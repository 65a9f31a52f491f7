package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/snapfw/snapfw/core"
	"github.com/snapfw/snapfw/drivers/docker"
)

// never lists what must not leave a node.
var never = []string{"nodekey", "jwt.hex", "*.key", "UTC--*"}

const (
	commandGrace = time.Minute      // after a command was told to end
	endGrace     = 30 * time.Minute // Erigon's tools finish what they write when they are told to end
	startTime    = 5 * time.Minute
	settleTime   = 30 * time.Minute // until it answers and follows the chain again
	catchUpTime  = 24 * time.Hour   // the same, where it was set back and executes blocks again
	downTime     = 24 * time.Hour   // retire and integrity take hours
)

// scene is what the driver saw on the machine.
type scene struct {
	settings
	held  bool // an Erigon runs on the datadir
	saved bool // it is known how it is launched
	unit  map[string]string
	box   docker.State // its container
}

// Plan looks at how Erigon runs now, and plans a release or a repair.
func (driver) Plan(ctx context.Context, n core.Node, h core.Host, in core.Intent) (core.Plan, error) {
	var s settings
	if err := json.Unmarshal(n.Spec, &s); err != nil {
		return core.Plan{}, fmt.Errorf("read the node's spec: %w", err)
	}
	e, err := lookAround(ctx, s, h)
	if err != nil {
		return core.Plan{}, err
	}
	w, ok := works[in.Name]
	if !ok {
		return core.Plan{}, fmt.Errorf("plan %q: %w", in.Name, core.ErrUnsupported)
	}
	p := core.Plan{Owner: s.Owner, Settle: settleTime, MaxDown: downTime, Returns: e.returns()}
	if err := w.plan(e, in, &p); err != nil {
		return core.Plan{}, fmt.Errorf("%s: %w", in.Name, err)
	}
	return p, nil
}

// lookAround asks who holds the datadir, and how what runs Erigon would stop it.
func lookAround(ctx context.Context, s settings, h core.Host) (scene, error) {
	e := scene{settings: s}
	out, err := h.Run(ctx, "@self", "launch", "status", "--datadir", s.Datadir, "--json")
	if err != nil {
		return e, err
	}
	var st launchState
	if out.Exit != 0 {
		return e, fmt.Errorf("look at who runs on %s: %s", s.Datadir, strings.TrimSpace(string(out.Stderr)))
	}
	if err := json.Unmarshal(out.Stdout, &st); err != nil {
		return e, fmt.Errorf("look at who runs on %s: %w", s.Datadir, err)
	}
	if st.Tool != "" {
		return e, core.Skipf("%s is at work on %s", st.Tool, s.Datadir)
	}
	e.held, e.saved = st.Held, st.Saved
	switch {
	case s.Service != "":
		e.unit, err = unitProperties(ctx, s, h)
		if err == nil {
			err = unitStops(s, e.unit)
		}
	case s.Container != "":
		if e.box, err = lookAtContainer(ctx, s, h); err == nil {
			err = e.containerStops()
		}
	case st.Unit != "":
		err = fmt.Errorf("erigon on %s belongs to the unit %s, which would start it while it should be down: write service: %s", s.Datadir, st.Unit, st.Unit)
	}
	return e, err
}

func unitProperties(ctx context.Context, s settings, h core.Host) (map[string]string, error) {
	out, err := h.Run(ctx, s.Programs.Systemctl, "show", s.Service, "-p", "LoadState,UnitFileState,TimeoutStopUSec,SendSIGKILL")
	if err != nil {
		return nil, err
	}
	if out.Exit != 0 {
		return nil, fmt.Errorf("systemctl show %s: %s", s.Service, strings.TrimSpace(string(out.Stderr)))
	}
	props := map[string]string{}
	for line := range strings.Lines(string(out.Stdout)) {
		if name, value, ok := strings.Cut(strings.TrimSpace(line), "="); ok {
			props[name] = value
		}
	}
	if props["LoadState"] != "loaded" {
		return nil, fmt.Errorf("there is no unit %s on this machine (LoadState=%s)", s.Service, props["LoadState"])
	}
	return props, nil
}

// unitStops refuses a unit that systemd kills before Erigon may have stopped: a killed merge leaves a
// gap (https://github.com/erigontech/erigon/issues/10485).
func unitStops(s settings, props map[string]string) error {
	if props["SendSIGKILL"] == "no" || s.KillAfter != "" {
		return nil
	}
	limit, endless, err := systemdTime(props["TimeoutStopUSec"])
	if err != nil {
		return fmt.Errorf("unit %s: TimeoutStopUSec: %w", s.Service, err)
	}
	if endless || limit >= s.stopTimeout() {
		return nil
	}
	return fmt.Errorf("systemd kills %s %s after it told it to stop, and a merge that is killed leaves a gap: set TimeoutStopSec=%d in the unit, or a kill_after in the configuration",
		s.Service, limit, int(s.stopTimeout().Seconds()))
}

// systemdTime reads a time as systemd prints it: "1min 30s", "infinity" (systemd.time(7)).
func systemdTime(text string) (d time.Duration, endless bool, err error) {
	if text == "infinity" {
		return 0, true, nil
	}
	units := map[string]time.Duration{
		"us": time.Microsecond, "ms": time.Millisecond, "s": time.Second, "min": time.Minute, "h": time.Hour,
		"d": 24 * time.Hour, "w": 7 * 24 * time.Hour, "month": 2629800 * time.Second, "y": 31557600 * time.Second,
	}
	words := strings.Fields(text)
	if len(words) == 0 {
		return 0, false, errors.New("systemd does not say")
	}
	var sum float64
	for _, word := range words {
		i := strings.IndexFunc(word, func(r rune) bool { return r >= 'a' && r <= 'z' })
		if i <= 0 || units[word[i:]] == 0 || strings.Trim(word[:i], "0123456789.") != "" {
			return 0, false, fmt.Errorf("%q is no time", text)
		}
		n, err := strconv.ParseFloat(word[:i], 64)
		if err != nil {
			return 0, false, fmt.Errorf("%q is no time", text)
		}
		sum += n * float64(units[word[i:]])
	}
	if sum > 1<<62 {
		return 0, false, fmt.Errorf("%q is more than systemd knows", text)
	}
	return time.Duration(sum), false, nil
}

func lookAtContainer(ctx context.Context, s settings, h core.Host) (docker.State, error) {
	out, err := h.Run(ctx, docker.Inspect(s.Programs.Docker, s.Container)...)
	if err != nil {
		return docker.State{}, err
	}
	if out.Exit != 0 {
		return docker.State{}, fmt.Errorf("docker inspect %s: %s", s.Container, strings.TrimSpace(string(out.Stderr)))
	}
	return docker.Read(out.Stdout)
}

// containerStops refuses a container that Erigon does not run in, and one that would not end it in order. How soon "docker stop"
// would kill it does not matter: it is not used.
func (e scene) containerStops() error {
	if !e.held {
		return nil
	}
	if !e.box.State.Running {
		return fmt.Errorf("erigon runs on %s, and not in the container %s, which is down: write what runs it", e.Datadir, e.Container)
	}
	if _, err := e.box.StopSignal(); err != nil {
		return fmt.Errorf("container %s: %w: give it --stop-signal SIGINT", e.Container, err)
	}
	return nil
}

// returns tells whether the node comes back by itself when its machine starts anew though it was stopped by us.
func (e scene) returns() bool {
	switch {
	case e.Service != "":
		return e.unit["UnitFileState"] == "enabled" || e.unit["UnitFileState"] == "alias" || e.unit["UnitFileState"] == "generated"
	case e.Container != "":
		return e.box.Returns()
	}
	return false
}

func (e scene) snapshots() string { return path.Join(e.Datadir, "snapshots") }

// view is where core/capture keeps the linked view of snapshots/.
func (e scene) view() string { return path.Join(e.Datadir, ".snapfw", "snapshots") }

// mirror is beside the datadir, so on its file system.
func (e scene) mirror() string { return e.Datadir + ".snapfw-mirror" }

// own is a verb of this plugin, run by the datadir's owner.
func (e scene) own(argv ...string) core.Command {
	return core.Command{Argv: append([]string{"@self"}, argv...), User: e.Owner, Grace: commandGrace}
}

// capture is a verb of core/capture, run by the datadir's owner.
func (e scene) capture(argv ...string) core.Command {
	return core.Command{Argv: append([]string{"@core", "capture"}, argv...), User: e.Owner, Grace: commandGrace}
}

// tool is a verb that runs one of Erigon's own commands, which ends by SIGINT and is waited for.
func (e scene) tool(verb string, argv ...string) core.Command {
	c := e.own(append([]string{verb, "--datadir", e.Datadir}, argv...)...)
	c.End, c.Grace = "INT", endGrace
	return c
}

func (e scene) erigon(verb string, argv ...string) core.Command {
	return e.tool(verb, append([]string{"--erigon", e.Programs.Erigon}, argv...)...)
}

// excused is a verb that looks at the files at its end, and knows what this chain is excused for.
func (e scene) excused(verb string) core.Command {
	c := e.erigon(verb)
	if len(e.Skip) > 0 {
		c.Argv = append(c.Argv, "--excuse", string(e.Skip))
	}
	return c
}

func (e scene) integration(verb string, argv ...string) core.Command {
	return e.tool(verb, append([]string{"--integration", e.Programs.Integration, "--chain", e.Chain}, argv...)...)
}

// saveLaunch is a step of Prepare where nobody else knows how Erigon is started.
func (e scene) saveLaunch() []core.Step {
	if e.Service != "" || e.Container != "" {
		return nil
	}
	return []core.Step{{Name: "save how erigon was launched", Do: e.own("launch", "save", "--datadir", e.Datadir)}}
}

// erigonIsThere finds a program that is missing, and names of checks that it does not know, while the node still runs.
func (e scene) erigonIsThere() []core.Step {
	steps := []core.Step{e.there("erigon's commands are there", e.Programs.Erigon, "seg")}
	names := slices.Clone(e.Integrity.Checks)
	for _, s := range e.Integrity.Skip {
		names = append(names, s.Check)
	}
	if len(names) > 0 {
		steps = append(steps, e.there("erigon has these checks", "--names", strings.Join(names, ","), e.Programs.Erigon, "seg", "integrity"))
	}
	return steps
}

// there is a step that wants a program to know a command.
func (e scene) there(what string, program ...string) core.Step {
	c := e.own(append([]string{"has"}, program...)...)
	c.Timeout = time.Minute
	return core.Step{Name: "see that " + what, Do: c}
}

// freeze stops Erigon with patience. Where it is down already nothing is stopped, and nothing will be started.
func (e scene) freeze() []core.Step {
	if !e.held {
		return nil
	}
	wait := e.stopTimeout()
	if kill, err := time.ParseDuration(e.KillAfter); err == nil && e.Service == "" && e.Container == "" {
		wait = max(wait, kill+commandGrace) // as launch stop waits
	}
	stop := core.Step{Name: "stop erigon"}
	switch {
	case e.Service != "":
		stop.Do = core.Command{Argv: []string{e.Programs.Systemctl, "stop", e.Service}, User: "root"}
		stop.Undo = &core.Command{Argv: []string{e.Programs.Systemctl, "start", e.Service}, User: "root"}
	case e.Container != "":
		stop.Do, stop.Undo = e.containerVerb("stop"), new(e.containerVerb("start"))
	default:
		stop.Do = e.own("launch", "stop", "--datadir", e.Datadir, "--wait", e.stopTimeout().String())
		if e.KillAfter != "" {
			stop.Do.Argv = append(stop.Do.Argv, "--kill-after", e.KillAfter)
		}
		// What becomes of it is seen by its status.
		start := e.own("launch", "start", "--datadir", e.Datadir, "--settle", "1s")
		stop.Undo = &start
	}
	stop.Do.Timeout, stop.Do.Grace = wait+commandGrace, commandGrace
	stop.Undo.Timeout, stop.Undo.Grace = startTime, commandGrace
	if e.Container != "" {
		stop.Undo.Timeout += wait // it may have to wait for the stop's end
	}
	gone := e.own("launch", "gone", "--datadir", e.Datadir, "--wait", "30s")
	gone.Timeout = 2 * time.Minute
	return []core.Step{stop, {Name: "see that it is gone", Do: gone}}
}

// containerVerb stops or starts this start of the container. It runs as the login user: who may talk to Docker need not be root,
// and is not the data's owner.
func (e scene) containerVerb(verb string) core.Command {
	return core.Command{Argv: []string{"@self", "container", verb, "--name", e.Container, "--id", e.box.ID, "--started", e.box.State.StartedAt,
		"--docker", e.Programs.Docker, "--wait", e.stopTimeout().String()}}
}

// release is the plan of a whole release.
func (e scene) release(in core.Intent, p *core.Plan) error {
	if !e.held {
		return fmt.Errorf("no erigon runs on %s: start it, and let it follow the chain; a release is taken from a node that is well", e.Datadir)
	}
	view := e.view()
	check := e.capture("check", "--from", e.snapshots(), "--to", view)
	for _, pattern := range never {
		check.Argv = append(check.Argv, "--never", pattern)
	}
	p.Prepare = append(append(e.saveLaunch(), e.erigonIsThere()...), core.Step{Name: "check what is there", Do: e.checkLive(in)},
		core.Step{Name: "see that the view can be taken", Do: check})
	p.Freeze = e.freeze()
	p.Capture = []core.Step{{Name: "retire", Do: e.excused("retire")}}
	if in.Args["clear-indexes"] == "true" {
		p.Capture = append(p.Capture, core.Step{Name: "clear the indexes", Do: e.erigon("clear-indexes")})
	}
	p.Capture = append(p.Capture, core.Step{Name: "index", Do: e.excused("index")}, core.Step{Name: "check the files", Do: e.checkFiles()})
	p.Capture = append(p.Capture, e.integrityDown()...)
	list := path.Join(view, "live.jsonl")
	drop := e.capture("drop", "--to", view, "--linked")
	p.Capture = append(p.Capture,
		core.Step{Name: "list the live files", Do: e.own("live", "--datadir", e.Datadir, "--to", list)},
		core.Step{
			Name: "take the view", Undo: &drop,
			Do: e.capture("take", "--from", e.snapshots(), "--list", list, "--to", view),
		},
		core.Step{
			Name: "see that nothing changed meanwhile",
			Do:   e.own("view-unchanged", "--datadir", e.Datadir, "--list", list, "--copy", path.Join(view, "data")),
		})
	p.Data = path.Join(view, "data")
	torrents := e.own("torrents", "--datadir", e.Datadir, "--snapshots", p.Data, "--entries", path.Join(view, "entries.jsonl"))
	torrents.Argv = append(torrents.Argv, verifyFlag(in)...)
	p.Seal = append(e.integrityUp(), core.Step{Name: "make the torrents", Do: torrents})
	p.Prove = []core.Step{{Name: "read back what consumers read", Do: e.own("prove", "--list", path.Join(view, "prove.jsonl"))}}
	p.Publish = e.layout()
	return nil
}

func (e scene) layout() core.Layout {
	return core.Layout{Prefix: e.Prefix, Pointer: e.List, InPlace: true}
}

func verifyFlag(in core.Intent) []string {
	if v := in.Args["verify"]; v != "" {
		return []string{"--verify", v}
	}
	return nil
}

// checkFiles looks at names, sizes and companions; the torrents are made later, on the view.
func (e scene) checkFiles() core.Command {
	c := e.own("check", "--datadir", e.Datadir, "--no-torrents", "--erigon", e.Programs.Erigon)
	if len(e.Skip) > 0 {
		c.Argv = append(c.Argv, "--skip", string(e.Skip))
	}
	return c
}

// checkLive looks, while the node serves, at what no later step puts right: such a file must not cost a stop.
func (e scene) checkLive(in core.Intent) core.Command {
	c := e.own("check", "--datadir", e.Datadir, "--live")
	if in.Args["clear-indexes"] == "true" {
		c.Argv = append(c.Argv, "--new-salts")
	}
	if len(e.Skip) > 0 {
		c.Argv = append(c.Argv, "--skip", string(e.Skip))
	}
	return c
}

// integrityDown are the steps of Erigon's own checks while the node is down: the checks, or the mirror that they run on.
func (e scene) integrityDown() []core.Step {
	switch e.Integrity.On {
	case onNever:
		return nil
	case onMirror:
		drop := e.own("backup", "drop", e.mirror())
		return []core.Step{{
			Name: "mirror the datadir", Undo: &drop,
			Do: e.own("backup", "--datadir", e.Datadir, "--into", e.mirror(), "--only", "snapshots,chaindata"),
		}}
	}
	return []core.Step{{Name: "integrity", Do: e.integrity(e.Datadir, e.Integrity.Checks)}}
}

// integrityUp are those steps while the node serves again.
func (e scene) integrityUp() []core.Step {
	if e.Integrity.On != onMirror {
		return nil
	}
	return []core.Step{{Name: "integrity of the mirror", Do: e.integrity(e.mirror(), e.Integrity.Checks)}}
}

func (e scene) integrity(datadir string, checks []string) core.Command {
	c := e.erigon("integrity")
	c.Argv[3] = datadir
	for _, name := range checks {
		c.Argv = append(c.Argv, "--check", name)
	}
	for _, s := range e.Integrity.Skip {
		c.Argv = append(c.Argv, "--skip", s.Check)
	}
	if e.Integrity.Budget != "" {
		c.Argv = append(c.Argv, "--budget", e.Integrity.Budget)
	}
	if e.Integrity.Sample > 0 {
		c.Argv = append(c.Argv, "--sample", strconv.FormatFloat(e.Integrity.Sample, 'g', -1, 64))
	}
	return c
}
