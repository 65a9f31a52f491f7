package main

import (
	"fmt"
	"path"
	"regexp"
	"slices"
	"strings"

	"github.com/snapfw/snapfw/core"
)

// work is an intent and its plan.
type work struct {
	core.IntentInfo
	plan func(e scene, in core.Intent, p *core.Plan) error
}

// works are what this driver can plan, by name; intents gives them in an order for people.
var works = map[string]work{}

func init() {
	for _, w := range allWorks {
		works[w.Name] = w
	}
}

func intents() (all []core.IntentInfo) {
	for _, w := range allWorks {
		all = append(all, w.IntentInfo)
	}
	return all
}

func arg(name, kind, usage string) core.ArgInfo {
	return core.ArgInfo{Name: name, Type: kind, Usage: usage}
}

// misused refuses what was asked for: the command line is wrong, and nothing was begun.
func misused(in core.Intent, format string, args ...any) error {
	return core.FieldErrors{{Field: in.Name, Msg: fmt.Sprintf(format, args...)}}
}

// repair is an intent that may be carried out on a node that is down.
func repair(name, summary string, plan func(scene, core.Intent, *core.Plan) error, args ...core.ArgInfo) work {
	return work{core.IntentInfo{Name: name, Summary: summary, Args: args, Down: true}, plan}
}

var allWorks = []work{
	{core.IntentInfo{
		Name: "release", Summary: "publish the snapshots folder: retire, index, check, make torrents",
		Args: []core.ArgInfo{arg("clear-indexes", "bool", "remove all indexes and both salts first: every index gets another hash")},
	}, scene.release},
	repair("retire", "build and merge all that can be in files", func(e scene, _ core.Intent, p *core.Plan) error {
		return e.repair(p, e.retireStep())
	}),
	repair("index", "build the indexes that are missing", func(e scene, in core.Intent, p *core.Plan) error {
		index := e.excused("index")
		if in.Args["rebuild"] == "true" {
			index.Argv = append(index.Argv, "--rebuild")
		}
		// Built files that a stop left half merged would not pass: retire ends that.
		e.still(p, core.Step{Name: "build the indexes", Do: index}, e.retireStep())
		return e.followed(p)
	}, arg("rebuild", "bool", "remove and build all of them; the salts stay")),
	repair("clear-indexes", "remove all indexes and both salts, and build them anew", func(e scene, _ core.Intent, p *core.Plan) error {
		return e.repair(p, core.Step{Name: "clear the indexes", Do: e.erigon("clear-indexes")})
	}),
	repair("torrents", "make the torrents that are missing or stale, and remove what is of no file", scene.fixTorrents,
		arg("full", "bool", "read every file again, also where its sums are remembered")),
	repair("integrity", "run Erigon's own checks on the datadir", scene.fixIntegrity, arg("check", "list", "run these checks only")),
	repair("rm-state", "remove state files: by steps, or the last ones", scene.fixRmState,
		arg("domain", "list", "only of these domains or indexes"), arg("step", "string", "files within these steps: FROM-TO"),
		arg("latest", "bool", "the last files"), arg("dry-run", "bool", "say what would go, and remove nothing")),
	repair("regen", "make domains anew from the blocks", scene.fixRegen, arg("domain", "list", "accounts, storage, code by execution, which goes on while the node is up (fix retire afterwards); receipt, rcache, log… and traces… by trace")),
	repair("rebuild-commitment", "make the commitment domain anew", func(e scene, _ core.Intent, p *core.Plan) error {
		return e.repair(p, core.Step{Name: "rebuild the commitment", Do: e.integration("rebuild-commitment")}, e.retireStep())
	}),
	repair("compact-domains", "compact the domains' files", func(e scene, in core.Intent, p *core.Plan) error {
		c := e.integration("compact-domains")
		for _, d := range listOf(in, "domain") {
			if !slices.Contains(domains, d) {
				return misused(in, "there is no domain %q: name one of %s", d, strings.Join(domains, " "))
			}
			c.Argv = append(c.Argv, "--domain", d)
		}
		return e.repair(p, core.Step{Name: "compact the domains", Do: c})
	}, arg("domain", "list", "only these domains")),
	repair("restore", "fetch published files from where consumers read, checked by piece, and put them in place", scene.fixRestore,
		arg("file", "list", "names as in the published list")),
	repair("backup", "hard links plus real copies of what changes, of the whole datadir or a part", scene.fixBackup,
		arg("into", "string", "an absolute path on the same file system; it must not exist"), arg("only", "list", "these folders of the datadir only: snapshots, chaindata")),
	repair("launch-flags", "see whether erigon is launched as a snapshotter has to be", func(e scene, _ core.Intent, p *core.Plan) error {
		p.Seal = []core.Step{
			{Name: "say how a new one is launched", Do: e.own("launch", "flags", "--datadir", e.Datadir, "--for-chain", e.Chain)},
			{Name: "look at how erigon is launched", Do: e.own("launch", "flags", "--datadir", e.Datadir)},
		}
		return nil
	}),
}

// listOf returns the values of a list argument.
func listOf(in core.Intent, name string) []string {
	return strings.Fields(in.Args[name])
}

// repair stops the node if it runs, does the steps, and follows them by the checklist: indexes and integrity
// (https://github.com/erigontech/erigon/issues/17368). Each verb removes the torrents of what it changed; a
// release makes them again, and so does the repair "torrents".
func (e scene) repair(p *core.Plan, steps ...core.Step) error {
	e.still(p, append(steps, core.Step{Name: "index", Do: e.excused("index")})...)
	return e.followed(p)
}

func (e scene) followed(p *core.Plan) error {
	p.Capture = append(p.Capture, e.integrityDown()...)
	p.Seal = e.integrityUp()
	return nil
}

// retireStep comes after what makes files anew: it is normal that they overlap then.
func (e scene) retireStep() core.Step { return core.Step{Name: "retire", Do: e.excused("retire")} }

// still does steps while no Erigon runs. The programs that they call are looked for before it is stopped.
func (e scene) still(p *core.Plan, steps ...core.Step) {
	if e.held {
		p.Prepare = append(p.Prepare, e.saveLaunch()...)
	}
	uses := func(flag string) bool {
		return slices.ContainsFunc(steps, func(s core.Step) bool { return slices.Contains(s.Do.Argv, flag) })
	}
	if uses("--erigon") {
		p.Prepare = append(p.Prepare, e.erigonIsThere()...)
	}
	if uses("--integration") {
		p.Prepare = append(p.Prepare, e.there("integration is there", e.Programs.Integration))
	}
	p.Freeze, p.Capture = e.freeze(), steps
}

func (e scene) fixTorrents(in core.Intent, p *core.Plan) error {
	c := e.own("torrents", "--datadir", e.Datadir, "--clean")
	if in.Args["full"] == "true" {
		in.Args["verify"] = "full"
	}
	c.Argv = append(c.Argv, verifyFlag(in)...)
	p.Seal = []core.Step{{Name: "torrents", Do: c}}
	return nil
}

func (e scene) fixIntegrity(in core.Intent, p *core.Plan) error {
	checks := listOf(in, "check")
	for _, c := range checks {
		if !plainName.MatchString(c) {
			return misused(in, "%q is no name of a check", c)
		}
	}
	if len(checks) == 0 {
		checks = e.Integrity.Checks
	}
	e.Integrity.Checks = checks
	e.still(p, core.Step{Name: "check the files", Do: e.checkFiles()}, core.Step{Name: "integrity", Do: e.integrity(e.Datadir, checks)})
	return nil
}

var stepsForm = regexp.MustCompile(`^[0-9]+-[0-9]+$`)

// fixRmState removes nothing without a range: that form of Erigon's command removes everything.
func (e scene) fixRmState(in core.Intent, p *core.Plan) error {
	var what []string
	switch step, latest := in.Args["step"], in.Args["latest"] == "true"; {
	case step != "" && latest, step == "" && !latest:
		return misused(in, "say which files: --step FROM-TO, or --latest")
	case latest:
		what = []string{"--latest"}
	case !stepsForm.MatchString(step):
		return misused(in, "--step %q is no range: write FROM-TO", step)
	default:
		what = []string{"--step", step}
	}
	for _, d := range listOf(in, "domain") {
		what = append(what, "--domain", d)
	}
	dry := core.Step{Name: "see what would go", Do: e.erigon("rm-state", append(slices.Clone(what), "--dry-run")...)}
	if in.Args["dry-run"] == "true" {
		e.still(p, dry)
		return nil
	}
	p.Settle = catchUpTime
	remove := e.erigon("rm-state", append(what, "--integration", e.Programs.Integration, "--chain", e.Chain)...)
	return e.repair(p, dry, core.Step{Name: "remove state files", Do: remove})
}

func (e scene) fixRegen(in core.Intent, p *core.Plan) error {
	domains := listOf(in, "domain")
	if fault := regenFault(domains); fault != "" {
		return misused(in, "%s", fault)
	}
	c := e.integration("regen", "--erigon", e.Programs.Erigon)
	for _, d := range domains {
		c.Argv = append(c.Argv, "--domain", d)
	}
	if slices.ContainsFunc(domains, func(d string) bool { return slices.Contains(executed, d) }) {
		// The node executes them when it is up again, so only then there is something to retire, to index and to check.
		p.Settle = catchUpTime
		e.still(p, core.Step{Name: "set execution back; once it has caught up, fix retire", Do: c})
		return nil
	}
	return e.repair(p, core.Step{Name: "make them anew", Do: c}, e.retireStep())
}

// fixRestore fetches while the node serves, so that it is stopped only to put whole files in place, and for what follows every repair.
func (e scene) fixRestore(in core.Intent, p *core.Plan) error {
	files := listOf(in, "file")
	if len(files) == 0 {
		return misused(in, "say which files, by their names in the published list")
	}
	for _, f := range files {
		if !safeName(f) {
			return misused(in, "%q is no name of a published file", f)
		}
	}
	p.Publish = e.layout() // tells where consumers read
	place := core.Step{Name: "put them in place", Do: e.own(append([]string{"restore", "--datadir", e.Datadir, "--place-only"}, files...)...)}
	if err := e.repair(p, place); err != nil {
		return err
	}
	fetch := core.Step{Name: "fetch what consumers read", Do: e.own(append([]string{"restore", "--datadir", e.Datadir, "--fetch-only"}, files...)...)}
	p.Prepare = append(p.Prepare, fetch)
	return nil
}

func (e scene) fixBackup(in core.Intent, p *core.Plan) error {
	into := in.Args["into"]
	if !path.IsAbs(into) || path.Clean(into) != into {
		return misused(in, "--into %q is no clean absolute path", into)
	}
	argv := []string{"backup", "--datadir", e.Datadir, "--into", into}
	only := listOf(in, "only")
	if len(only) > 0 {
		argv = append(argv, "--only", strings.Join(only, ","))
	}
	if slices.Equal(only, []string{"snapshots"}) { // they are replaced by renaming only, so erigon may run
		p.Seal = []core.Step{{Name: "back up", Do: e.own(argv...)}}
		return nil
	}
	drop := e.own("backup", "drop", into)
	e.still(p, core.Step{Name: "back up", Do: e.own(argv...), Undo: &drop})
	return nil
}
