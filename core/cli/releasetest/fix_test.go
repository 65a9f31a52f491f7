package releasetest

import (
	"crypto/sha256"
	"encoding/json"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/snapfw/snapfw/core/cli"
)

type sums = map[string][sha256.Size]byte

// snap is the path of a file in snapshots/.
func (w *world) snap(name string) string {
	return filepath.Join(w.datadir, "snapshots", filepath.FromSlash(name))
}

// sums are the sha256 of every file in snapshots/, by name; torrents, which have a time in them, left out.
func (w *world) sums() sums {
	w.t.Helper()
	of := sums{}
	root := filepath.Join(w.datadir, "snapshots")
	err := filepath.WalkDir(root, func(file string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || strings.HasSuffix(file, ".torrent") {
			return err
		}
		body, err := os.ReadFile(file)
		name, _ := filepath.Rel(root, file)
		of[filepath.ToSlash(name)] = sha256.Sum256(body)
		return err
	})
	if err != nil {
		w.t.Fatal(err)
	}
	return of
}

// fix runs a repair, and wants its exit code and words in what people see.
func (w *world) fix(exit int, says string, args ...string) result {
	w.t.Helper()
	return w.want(exit, says, append([]string{"fix", "--chain", chainName}, args...)...)
}

// json runs a command that prints JSON.
func (w *world) json(exit int, into any, args ...string) {
	w.t.Helper()
	if err := json.Unmarshal([]byte(w.want(exit, "", append(args, "--output", "json")...).out), into); err != nil {
		w.t.Fatal(err)
	}
}

// shown is what `snapfw show` says of the newest run.
func (w *world) shown() string {
	w.t.Helper()
	var runs []cli.RunSummary
	w.json(0, &runs, "runs", "-n", "1")
	if len(runs) != 1 {
		w.t.Fatal("there is no run")
	}
	return w.want(0, runs[0].Run, "show", runs[0].Run).out
}

// restarted wants the node to be another process than before, and well.
func (w *world) restarted(before int) {
	w.t.Helper()
	w.well()
	if now := w.pid(); now == before || now == 0 {
		w.t.Errorf("pid %d runs, and it was %d before", now, before)
	}
}

// checked wants every file in order, its torrent too, by the plugin's own check.
// checked wants all files in order, and no torrent that is not of its file.
func (w *world) checked() {
	w.t.Helper()
	self := filepath.Join(programs.Plugins, "snapfw-erigon")
	w.must(w.command(self, "check", "--datadir", w.datadir, "--no-torrents"))
	if said := w.must(w.command(self, "torrents", "--datadir", w.datadir, "--dry-run")); !strings.Contains(said, "remake 0 ") {
		w.t.Errorf("stale torrents are left: %s", said)
	}
}

func (w *world) remove(names ...string) {
	w.t.Helper()
	for _, name := range names {
		if err := os.Remove(w.snap(name)); err != nil {
			w.t.Fatal(err)
		}
	}
}

func (w *world) write(name, body string) {
	w.t.Helper()
	if err := os.WriteFile(w.snap(name), []byte(body), 0o644); err != nil {
		w.t.Fatal(err)
	}
}

var repairs = []string{
	"retire", "index", "clear-indexes", "torrents", "integrity", "rm-state", "regen", "rebuild-commitment", "compact-domains",
	"restore", "backup", "launch-flags",
}

// runbook are the repairs that docs/erigon-repairs.md shows, without "snapfw fix --chain NAME".
func runbook(t *testing.T) (all [][]string) {
	t.Helper()
	body, err := os.ReadFile("../../../docs/erigon-repairs.md")
	if err != nil {
		t.Fatal(err)
	}
	shown := map[string]bool{}
	for line := range strings.Lines(string(body)) {
		if args, ok := strings.CutPrefix(strings.TrimSpace(line), "snapfw fix --chain NAME "); ok && strings.HasPrefix(line, "    ") {
			all = append(all, strings.Fields(args))
			shown[all[len(all)-1][0]] = true
		}
	}
	for _, name := range repairs {
		if !shown[name] {
			t.Errorf("the runbook never uses %s", name)
		}
	}
	return all
}

// What can be repaired is listed, helped with, completed and planned without anything being touched.
func TestFixTellsBeforehand(t *testing.T) {
	w := newWorld(t, options{still: true, local: true, byHand: true})
	before, pid := w.sums(), w.pid()
	list := w.fix(2, "say which repair")
	for _, name := range repairs {
		if !strings.Contains(list.err, "\n  "+name+" ") {
			t.Errorf("%s is not listed: %s", name, list)
		}
		w.fix(0, "fix --chain "+chainName+" "+name, name, "--help")
	}
	if help := w.fix(0, "--rebuild", "index", "--help"); !strings.Contains(help.out, "build the indexes that are missing") {
		t.Errorf("the help does not say what it is: %s", help)
	}
	w.fix(0, "regen [DOMAIN…]", "regen", "--help")
	w.fix(2, `no repair "nonsense"`, "nonsense")
	w.fix(2, "--nonsense", "index", "--nonsense")
	w.fix(2, "takes no", "retire", "something")
	w.fix(2, "has no", "release", "--help")
	w.fix(2, "--step FROM-TO, or --latest", "rm-state")
	w.fix(2, "say which domains", "regen")
	w.fix(2, "say which files", "restore")
	w.fix(2, "no clean absolute path", "backup", "--into", "here")
	for _, args := range runbook(t) {
		plan := w.want(0, "snapshotter on", append([]string{"plan", "fix", "--chain", chainName}, args...)...)
		if !strings.Contains(plan.out, "@self") || strings.Contains(plan.out, "stays in") {
			t.Errorf("the plan of %v: %s", args, plan)
		}
	}
	if plan := w.want(0, "--domain receipt --domain rcache", "plan", "fix", "--chain", chainName, "regen", "receipt", "rcache"); !strings.Contains(plan.out, "stop erigon") {
		t.Error(plan)
	}
	for _, c := range []struct {
		want string
		args []string
	}{
		{chainName, []string{"release", "--chain", ""}},
		{"--chain=" + chainName, []string{"release", "--chain=erig"}},
		{chainName, []string{"plan", "fix", "--chain", "e"}},
		{"--clear-indexes", []string{"release", "--chain", chainName, "--cl"}},
		{"--reason", []string{"release", "--chain", chainName, "--re"}},
		{"rebuild-commitment\tmake", []string{"fix", "--chain", chainName, "reb"}},
		{"--latest\tthe last", []string{"fix", "--chain", chainName, "rm-state", "--l"}},
		{"--check\t", []string{"fix", "integrity", "--"}},
	} {
		cmd := w.prepare(append([]string{"__complete", c.args[0], "--config", w.path("snapfw.json")}, c.args[1:]...)...)
		cmd.Args = cmd.Args[:len(cmd.Args)-4]
		if out := w.must(cmd); !strings.Contains(out, "\n"+c.want) && !strings.HasPrefix(out, c.want) {
			t.Errorf("%q is completed by %q, want %q", c.args, out, c.want)
		}
	}
	if w.pid() != pid || !maps.Equal(before, w.sums()) {
		t.Error("the node or its files were touched")
	}

	// Nothing of these needs the node to stop.
	w.fix(0, "torrents made", "torrents")
	flags := w.fix(3, "--caplin.blobs-archive", "launch-flags")
	if !strings.Contains(flags.err, "--chain=mainnet") || !strings.Contains(flags.err, "--no-downloader") || !strings.Contains(w.shown(), "--prune.mode=archive") {
		t.Errorf("no command for a new one: %s", flags)
	}
	first := w.mtime("domain/v2.0-accounts.0-64.kv.torrent")
	w.write("domain/v2.0-accounts.0-64.kv.torrent", "d4:infod6:lengthi1eee")
	w.write("domain/v2.0-accounts.99-100.kv.torrent", "orphan")
	w.fix(0, "1 remade, 1 removed", "torrents")
	if _, err := os.Stat(w.snap("domain/v2.0-accounts.99-100.kv.torrent")); err == nil || w.mtime("domain/v2.0-accounts.0-64.kv.torrent") == first {
		t.Error("the orphan is still there, or the stale one was not made anew")
	}
	w.fix(0, "", "backup", "--into", w.path("backup"), "--only", "snapshots")
	w.fix(3, "is not empty", "backup", "--into", w.path("backup"), "--only", "snapshots")
	if w.pid() != pid {
		t.Error("the node was stopped")
	}
	if err := os.Mkdir(w.path("other"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(w.path("other", "mine"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	w.fix(3, "is not empty", "backup", "--into", w.path("other"))
	w.restarted(pid)
	if _, err := os.Stat(w.path("other", "mine")); err != nil {
		t.Errorf("a folder of somebody's was dropped with a backup that failed: %v", err)
	}
	w.checked()
}

func (w *world) mtime(name string) int64 {
	w.t.Helper()
	info, err := os.Stat(w.snap(name))
	if err != nil {
		w.t.Fatal(err)
	}
	return info.ModTime().UnixNano()
}

// Each repair that stops the node leaves the files in order, no torrent that is stale, and the node up.
func TestFixFiles(t *testing.T) {
	w := newWorld(t, options{still: true, local: true, byHand: true})
	w.fix(0, "torrents made", "torrents")
	at, pid := w.sums(), w.pid()
	repair := func(says string, args ...string) (changed []string) {
		t.Helper()
		w.fix(0, says, args...)
		if shown := w.shown(); !strings.Contains(shown, says) || !strings.Contains(shown, "DONE") {
			t.Errorf("fix %v: show does not tell %q: %s", args, says, shown)
		}
		w.restarted(pid)
		w.checked()
		now := w.sums()
		changed, at, pid = different(at, now), now, w.pid()
		return changed
	}
	only := func(changed []string, what string, ok func(string) bool) {
		t.Helper()
		if i := slices.IndexFunc(changed, func(name string) bool { return !ok(name) }); i >= 0 || len(changed) == 0 {
			t.Errorf("%s changed %v", what, changed)
		}
	}
	none := func(changed []string, what string) {
		t.Helper()
		if len(changed) > 0 {
			t.Errorf("%s changed %v", what, changed)
		}
	}
	none(repair("retired: 0 files new", "retire"), "retire")
	w.remove("domain/v2.0-commitment.0-64.kvi", "v2.0-000000-000100-bodies.idx")
	none(repair("indexed: 2 files new", "index"), "index")
	isIndex := func(name string) bool {
		return slices.Contains([]string{".idx", ".bt", ".kvi", ".kvei", ".vi", ".efi"}, filepath.Ext(name)) || strings.HasPrefix(name, "salt-")
	}
	none(repair("indexed: ", "index", "--rebuild"), "index --rebuild")
	only(repair("every index will have another hash", "clear-indexes"), "clear-indexes", isIndex)

	// The node makes files again of what was removed, and nothing is lost between its database and its files.
	dry := w.fix(0, "domain/v2.0-accounts.68-70.kv", "rm-state", "--latest", "--dry-run")
	if strings.Contains(dry.err, "0-64") || !maps.Equal(at, w.sums()) {
		t.Errorf("a dry run: %s", dry)
	}
	whole := at
	pid = w.pid()
	only(repair("execution was at block", "rm-state", "--latest"), "rm-state", func(name string) bool { return strings.Contains(name, ".68-70.") })
	repair("44 files new", "retire")
	none(different(whole, at), "rm-state and retire")
	repair("made anew", "rm-state", "--step", "64-68", "--domain", "receipt")
	none(different(whole, at), "rm-state of a traced type")
	repair("receipt,rcache made anew", "regen", "receipt", "rcache")
	none(different(whole, at), "regen")
	w.behave("new-bytes")
	only(repair("rcache made anew", "regen", "--domain", "rcache"), "regen", func(name string) bool { return strings.Contains(name, "-rcache.") })
	w.behave("")
	whole = at
	w.fix(0, "execution was set back", "regen", "accounts")
	repair("44 files new", "retire")
	none(different(whole, at), "regen accounts and retire")
	none(repair("commitment made anew", "rebuild-commitment"), "rebuild-commitment")
	none(repair("compacted", "compact-domains", "--domain", "accounts"), "compact-domains")

	// Erigon's own checks: those that are asked for, and one that fails.
	w.fix(0, "2 checks passed: Blocks HeaderNoGaps", "integrity", "--check", "Blocks,HeaderNoGaps")
	w.fix(3, "has no check Nonsense", "integrity", "--check", "Nonsense")
	w.behave("integrity-fails=InvertedIndex")
	w.fix(1, "InvertedIndex: told to fail", "integrity")
	w.behave("budget")
	w.fix(1, "budget", "integrity")
	w.behave("")
	w.well()

	// A backup of all: what changes is no link.
	w.fix(0, "linked", "backup", "--into", w.path("backup"))
	w.well()
	if w.sharesInode("chaindata/mdbx.dat") || !w.sharesInode("snapshots/domain/v2.0-accounts.0-64.kv") {
		t.Error("the database is linked, or a file of data is copied")
	}
	w.must(w.command(filepath.Join(programs.Plugins, "snapfw-erigon"), "backup", "drop", w.path("backup")))
	if _, err := os.Stat(w.path("backup")); err == nil {
		t.Error("the backup is still there")
	}
	none(different(at, w.sums()), "the backup and dropping it")
}

// sharesInode tells whether a file of the backup is a hard link to the datadir's.
func (w *world) sharesInode(name string) bool {
	w.t.Helper()
	a, err := os.Stat(filepath.Join(w.datadir, name))
	if err != nil {
		w.t.Fatal(err)
	}
	b, err := os.Stat(w.path("backup", name))
	if err != nil {
		w.t.Fatal(err)
	}
	return os.SameFile(a, b)
}

func different(a, b sums) (names []string) {
	for name, sum := range a {
		if other, ok := b[name]; !ok || other != sum {
			names = append(names, name)
		}
	}
	for name := range b {
		if _, ok := a[name]; !ok {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

// What is damaged is fetched from where nodes fetch it, while the node serves; it stops only for the moment in which files
// are put in place. A node that is down stays down.
func TestFixRestores(t *testing.T) {
	w := newWorld(t, options{still: true, byHand: true})
	s := w.release(5)
	var all []cli.ChainStatus
	w.json(0, &all, "status")
	if len(all) != 1 || len(all[0].Parked) != 1 || all[0].Parked[0].Run != s.Run || !all[0].Nodes[0].Up {
		t.Errorf("status of a parked run: %+v", all)
	}
	w.want(0, "parked: "+s.Run, "status")
	// A run that waits for its review does not stand in a repair's way.
	w.fix(0, "torrents made", "torrents", "--full")
	w.want(0, "", "approve", s.Run, "--reason", "read it")
	w.want(0, listKey, "resume", s.Run)
	whole, pid := w.sums(), w.pid()

	damaged := []string{"domain/v2.0-accounts.0-64.kv", "v1.1-000000-000100-headers.seg"}
	body, err := os.ReadFile(w.snap(damaged[0]))
	if err != nil {
		t.Fatal(err)
	}
	body[len(body)/2] ^= 1
	w.write(damaged[0], string(body))
	w.remove(damaged[1])
	w.fix(3, "headers", "integrity")
	w.well()
	w.fix(3, "is not in the published list", "restore", "domain/v2.0-accounts.0-65.kv")
	r := w.fix(0, "is in place", append([]string{"restore"}, damaged...)...)
	if d := different(whole, w.sums()); len(d) > 0 {
		t.Errorf("restored, and %v differ: %s", d, r)
	}
	if !strings.Contains(w.shown(), "what was there is "+w.datadir) {
		t.Errorf("it is not said where the damaged file went: %s", w.shown())
	}
	w.restarted(pid)
	w.checked()
	w.fix(0, "checks passed", "integrity")

	// It can't be fetched: nothing is stopped, nothing is changed.
	pid = w.pid()
	w.remove(damaged[1])
	bucket := w.config["sinks"].(table)["bucket"].(map[string]any)
	bucket["public_url"] = w.site.PublicURL + "/nowhere"
	w.fix(1, "404", "restore", damaged[1])
	bucket["public_url"] = w.site.PublicURL
	if w.pid() != pid {
		t.Error("the node was stopped for what could not be fetched")
	}
	down := w.pid()
	if err := syscall.Kill(down, syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	w.eventually("the node is down", func() bool { return w.pid() == 0 })
	w.want(10, "answers", "status")
	w.remove(damaged[0])
	w.fix(0, "stays so", "restore", damaged[0], damaged[1])
	w.want(3, "does not answer", "release", "--chain", chainName)
	w.remove("v2.0-000000-000100-bodies.idx")
	w.fix(0, "indexed: 1 files new", "index")
	if w.pid() != 0 {
		t.Error("a node that was down was started")
	}
}
