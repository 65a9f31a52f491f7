package plugintest

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/snapfw/snapfw/core"
	"github.com/snapfw/snapfw/core/plugin"
)

// SinkCase is what the suite has to know of a sink.
type SinkCase struct {
	// Target is a storage that the suite may write to, below Prefix, which it empties
	// before and after.
	Target core.Target
	Prefix string // "" is "plugintest"

	// Many objects are listed, more than one page of the storage holds; 0 is 1,050.
	Many int

	// Run runs an upload's command on this machine, its "@self" and secrets filled in, and
	// returns its exit code. Where it is nil the command is only looked at.
	Run func(ctx context.Context, c core.Command) (int, error)
}

type sinkCheck struct {
	c      SinkCase
	client *plugin.Client
	sink   core.Sink
	does   map[string]bool
}

// CheckSink is Sink without package testing.
func CheckSink(ctx context.Context, t T, cmd plugin.Command, c SinkCase) {
	client := load(ctx, t, cmd, core.KindSink)
	if client == nil {
		return
	}
	defer client.Close()
	sink, err := client.Sink()
	if err != nil {
		t.Errorf("%v", err)
		return
	}
	if c.Prefix == "" {
		c.Prefix = "plugintest"
	}
	if c.Many == 0 {
		c.Many = 1050
	}
	k := &sinkCheck{c: c, client: client, sink: sink, does: map[string]bool{}}
	for _, e := range client.Description().Enforces {
		k.does[e] = true
	}
	if !t.Run("Empty", func(t T) { k.empty(ctx, t) }) {
		return
	}
	t.Run("Describe", func(t T) {
		if s := describe(t, client.Description()); s != nil {
			if err := valid(s, c.Target.Config); err != nil {
				t.Errorf("the schema refuses the target's configuration: %v", err)
			}
		}
	})
	for _, part := range []struct {
		name  string
		check func(context.Context, T)
	}{
		{"Nothing", k.checkNothing}, {"PutGet", k.checkPutGet}, {"Replace", k.checkReplace}, {"Delete", k.checkDelete},
		{"List", k.checkList}, {"Conditions", k.checkConditions}, {"OneWins", k.checkOneWins}, {"Stateless", k.checkStateless},
		{"Cancelled", k.checkCancelled}, {"Copy", k.checkCopy}, {"Purge", k.checkPurge}, {"Front", k.checkFront}, {"Upload", k.checkUpload},
	} {
		t.Run(part.name, func(t T) { part.check(ctx, t) })
	}
	t.Run("EmptyAfterwards", func(t T) { k.empty(ctx, t) })
}

func (k *sinkCheck) key(name string) string { return k.c.Prefix + "/" + name }

func (k *sinkCheck) list(ctx context.Context, t T, prefix string) (keys []string) {
	for o, err := range k.sink.List(ctx, k.c.Target, prefix) {
		if err != nil {
			t.Errorf("List %s: %v", prefix, err)
			return nil
		}
		keys = append(keys, o.Key)
	}
	slices.Sort(keys)
	return keys
}

func (k *sinkCheck) empty(ctx context.Context, t T) {
	keys := k.list(ctx, t, k.c.Prefix+"/")
	if err := k.sink.Delete(ctx, k.c.Target, keys...); err != nil {
		t.Errorf("Delete %d keys: %v", len(keys), err)
	}
	if left := k.list(ctx, t, k.c.Prefix+"/"); len(left) > 0 {
		t.Errorf("%d keys are left, the first is %s", len(left), left[0])
	}
}

func (k *sinkCheck) put(ctx context.Context, t T, name, body string) core.Object {
	o, err := k.sink.Put(ctx, k.c.Target, k.key(name), []byte(body), core.Condition{})
	if err != nil {
		t.Errorf("Put %s: %v", name, err)
	}
	return o
}

func (k *sinkCheck) holds(ctx context.Context, t T, name, body string) {
	got, o, err := k.sink.Get(ctx, k.c.Target, k.key(name))
	if err != nil || string(got) != body {
		t.Errorf("Get %s: %d bytes and %v; %d bytes were put", name, len(got), err, len(body))
		return
	}
	if o.Key != k.key(name) || o.Size != int64(len(body)) {
		t.Errorf("Get %s: its Object says %s, %d bytes", name, o.Key, o.Size)
	}
}

func (k *sinkCheck) checkNothing(ctx context.Context, t T) {
	if _, _, err := k.sink.Get(ctx, k.c.Target, k.key("nothing")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("Get of nothing says %v and not fs.ErrNotExist", err)
	}
	if keys := k.list(ctx, t, k.key("nothing/")); len(keys) > 0 {
		t.Errorf("List of nothing yields %v", keys)
	}
	if err := k.sink.Delete(ctx, k.c.Target, k.key("nothing")); err != nil {
		t.Errorf("Delete of nothing: %v", err)
	}
	if err := k.sink.Delete(ctx, k.c.Target); err != nil {
		t.Errorf("Delete of no keys: %v", err)
	}
}

func (k *sinkCheck) checkPutGet(ctx context.Context, t T) {
	for name, body := range map[string]string{
		"empty": "", "one": "x", "binary": "\x00\xff\r\n", "large": strings.Repeat("0123456789abcdef", 5<<20/16),
		"deep/er/key.json": "{}", "sp ace+plus%41": "a", "ünïcode": "b", "dots..": "c", "a&b=c;d'e": "d",
	} {
		o := k.put(ctx, t, name, body)
		if o.Key != k.key(name) || o.Size != int64(len(body)) {
			t.Errorf("Put %s: its Object says %s, %d bytes", name, o.Key, o.Size)
		}
		k.holds(ctx, t, name, body)
		if _, got, err := k.sink.Get(ctx, k.c.Target, k.key(name)); err == nil && o.ETag != "" && got.ETag != o.ETag {
			t.Errorf("%s: Put says the ETag %q and Get %q", name, o.ETag, got.ETag)
		}
	}
}

func (k *sinkCheck) checkReplace(ctx context.Context, t T) {
	first := k.put(ctx, t, "replaced", "old and longer")
	second := k.put(ctx, t, "replaced", "new")
	k.holds(ctx, t, "replaced", "new")
	if first.ETag != "" && first.ETag == second.ETag {
		t.Errorf("two bodies have one ETag %q", first.ETag)
	}
}

func (k *sinkCheck) checkDelete(ctx context.Context, t T) {
	k.put(ctx, t, "gone/1", "1")
	k.put(ctx, t, "gone/2", "2")
	k.put(ctx, t, "gone", "3") // a key that is also the beginning of others
	for range 2 {
		if err := k.sink.Delete(ctx, k.c.Target, k.key("gone/1"), k.key("gone/missing"), k.key("gone")); err != nil {
			t.Errorf("Delete: %v", err)
		}
	}
	if _, _, err := k.sink.Get(ctx, k.c.Target, k.key("gone/1")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("Get of what was deleted: %v", err)
	}
	k.holds(ctx, t, "gone/2", "2")
}

func (k *sinkCheck) checkList(ctx context.Context, t T) {
	var work sync.WaitGroup
	turn := make(chan int)
	for range 16 {
		work.Go(func() {
			for i := range turn {
				k.put(ctx, t, fmt.Sprintf("many/%05d", i), "x")
			}
		})
	}
	var want []string
	for i := range k.c.Many {
		turn <- i
		want = append(want, k.key(fmt.Sprintf("many/%05d", i)))
	}
	close(turn)
	work.Wait()
	k.put(ctx, t, "many-more", "yy")
	if got := k.list(ctx, t, k.key("many/")); !slices.Equal(got, want) {
		t.Errorf("List of %d objects yields %d", len(want), len(got))
	}
	if got := k.list(ctx, t, k.key("many/0000")); len(got) != min(10, k.c.Many) {
		t.Errorf("a prefix is the beginning of a key and no folder: many/0000 yields %d", len(got))
	}
	for o, err := range k.sink.List(ctx, k.c.Target, k.key("many-")) {
		if err != nil || o.Key != k.key("many-more") || o.Size != 2 {
			t.Errorf("List many-: %+v, %v", o, err)
		}
	}
	seen := 0
	for range k.sink.List(ctx, k.c.Target, k.key("many/")) {
		if seen++; seen == 3 {
			break
		}
	}
	k.holds(ctx, t, "many-more", "yy") // after a List that was broken off
}

func (k *sinkCheck) checkConditions(ctx context.Context, t T) {
	o := k.put(ctx, t, "condition", "first")
	refused := func(what string, c core.Condition, enforced bool) {
		_, err := k.sink.Put(ctx, k.c.Target, k.key("condition"), []byte("second"), c)
		want := core.ErrCondition
		if !enforced {
			want = core.ErrUnsupported
		}
		if !errors.Is(err, want) && !(!k.does[what] && errors.Is(err, core.ErrCondition)) {
			t.Errorf("Put with %s says %v and not %q", what, err, want)
		}
		k.holds(ctx, t, "condition", "first")
	}
	refused("if-none-match", core.Condition{IfNoneMatch: true}, k.does["if-none-match"])
	refused("if-match", core.Condition{IfMatch: "0123456789abcdef0123456789abcdef"}, k.does["if-match"])
	if k.does["if-match"] {
		if _, err := k.sink.Put(ctx, k.c.Target, k.key("condition"), []byte("third"), core.Condition{IfMatch: o.ETag}); err != nil {
			t.Errorf("Put if it matches: %v", err)
		}
		k.holds(ctx, t, "condition", "third")
	}
	if k.does["if-none-match"] {
		if _, err := k.sink.Put(ctx, k.c.Target, k.key("condition-new"), []byte("x"), core.Condition{IfNoneMatch: true}); err != nil {
			t.Errorf("Put of a new key if there is none: %v", err)
		}
	}
}

func (k *sinkCheck) checkOneWins(ctx context.Context, t T) {
	if !k.does["if-none-match"] {
		t.Logf("it does not enforce if-none-match")
		return
	}
	var won atomic.Int32
	var all sync.WaitGroup
	for i := range 8 {
		all.Go(func() {
			_, err := k.sink.Put(ctx, k.c.Target, k.key("race"), fmt.Appendf(nil, "%d", i), core.Condition{IfNoneMatch: true})
			if err == nil {
				won.Add(1)
			} else if !errors.Is(err, core.ErrCondition) {
				t.Errorf("Put: %v", err)
			}
		})
	}
	all.Wait()
	if won.Load() != 1 {
		t.Errorf("%d of 8 puts of one new key succeeded", won.Load())
	}
}

func (k *sinkCheck) checkStateless(ctx context.Context, t T) {
	k.put(ctx, t, "stateless", "x")
	kill(t, k.client)
	k.holds(ctx, t, "stateless", "x")
	kill(t, k.client)
	if got := k.list(ctx, t, k.key("stateless")); len(got) != 1 {
		t.Errorf("List after a death yields %v", got)
	}
}

func (k *sinkCheck) checkCancelled(ctx context.Context, t T) {
	ctx, cancel := context.WithCancel(ctx)
	cancel()
	if _, _, err := k.sink.Get(ctx, k.c.Target, k.key("x")); !errors.Is(err, context.Canceled) {
		t.Errorf("a cancelled Get says %v", err)
	}
	var last error
	for _, err := range k.sink.List(ctx, k.c.Target, k.c.Prefix) {
		last = err
	}
	if !errors.Is(last, context.Canceled) {
		t.Errorf("a cancelled List says %v", last)
	}
}

func (k *sinkCheck) checkCopy(ctx context.Context, t T) {
	k.put(ctx, t, "copy/from1", "one")
	k.put(ctx, t, "copy/from2", "two")
	moves := []core.Move{
		{From: k.key("copy/from1"), To: k.key("copied/1"), Size: 3},
		{From: k.key("copy/from2"), To: k.key("copied/2"), Size: 3},
	}
	for turn := range 2 { // a second call yields them again
		var done []core.Move
		for m, err := range k.sink.(core.Copier).Copy(ctx, k.c.Target, moves) {
			if errors.Is(err, core.ErrUnsupported) {
				t.Logf("it has no Copier")
				return
			}
			if err != nil {
				t.Errorf("Copy, call %d: %v", turn+1, err)
				break
			}
			done = append(done, m)
		}
		slices.SortFunc(done, func(a, b core.Move) int { return strings.Compare(a.To, b.To) })
		if !slices.Equal(done, moves) {
			t.Errorf("Copy, call %d, yields %v", turn+1, done)
		}
		k.holds(ctx, t, "copied/1", "one")
		k.holds(ctx, t, "copied/2", "two")
		k.holds(ctx, t, "copy/from1", "one")
	}
	var last error
	for _, err := range k.sink.(core.Copier).Copy(ctx, k.c.Target, []core.Move{{From: k.key("copy/nothing"), To: k.key("copied/3")}}) {
		last = err
	}
	if last == nil {
		t.Errorf("Copy of what is not there says nothing")
	}
}

func (k *sinkCheck) checkPurge(ctx context.Context, t T) {
	for range 2 {
		err := k.sink.(core.Purger).Purge(ctx, k.c.Target, k.key("stateless"))
		if errors.Is(err, core.ErrUnsupported) {
			t.Logf("it has no Purger")
			return
		}
		if err != nil {
			t.Errorf("Purge: %v", err)
		}
	}
}

func (k *sinkCheck) checkFront(ctx context.Context, t T) {
	f, err := k.sink.(core.Fronted).Front(ctx, k.c.Target)
	if errors.Is(err, core.ErrUnsupported) {
		t.Logf("it has no Front")
		return
	}
	if err != nil || f.URL == "" || strings.HasSuffix(f.URL, "/") || (f.Header == "") != (f.Secret == "") {
		t.Errorf("Front: %+v, %v: want a URL without a slash at its end, and header and secret both or none", f, err)
	}
}

func (k *sinkCheck) checkUpload(ctx context.Context, t T) {
	dir, err := os.MkdirTemp("", "plugintest")
	if err != nil {
		t.Errorf("%v", err)
		return
	}
	defer os.RemoveAll(dir)
	u := uploadFiles(t, dir)
	u.Prefix, u.Stage = k.key("up/1"), k.key("staged")
	target := k.c.Target
	target.Secrets = nil
	c, err := k.sink.Upload(ctx, target, u)
	if err != nil {
		t.Errorf("Upload: %v", err)
		return
	}
	checkCommand(t, "Upload", c, false)
	said, _ := json.Marshal(c)
	for name, value := range k.c.Target.Secrets {
		if value != "" && bytes.Contains(said, []byte(value)) {
			t.Errorf("Upload's command holds the secret %s", name)
		}
	}
	if k.c.Run == nil {
		t.Logf("SinkCase.Run is nil: the upload's command was not run")
		return
	}
	for turn := range 2 { // it is run again after a failure, so also after a success
		if exit, err := k.c.Run(ctx, c); err != nil || exit != core.ExitDone {
			t.Errorf("the upload's command, run %d: exit %d, %v", turn+1, exit, err)
			return
		}
		k.holds(ctx, t, "up/1/CURRENT", "MANIFEST-000001\n")
		k.holds(ctx, t, "up/1/sub/sp ace.ldb", "table")
		k.holds(ctx, t, "up/1/empty", "")
	}
	// A file that is gone must not pass for one that was uploaded.
	if err := os.Remove(filepath.Join(u.Dir, "CURRENT")); err != nil {
		t.Errorf("%v", err)
	}
	u.Prefix = k.key("up/2")
	c, err = k.sink.Upload(ctx, target, u)
	if err != nil {
		t.Errorf("Upload: %v", err)
		return
	}
	if exit, err := k.c.Run(ctx, c); err == nil && exit == core.ExitDone {
		t.Errorf("an upload of a file that is gone succeeded")
	}
}

// uploadFiles makes a folder to upload, and its list.
func uploadFiles(t T, dir string) core.UploadRequest {
	r := core.UploadRequest{Dir: filepath.Join(dir, "data"), List: filepath.Join(dir, "list")}
	var list bytes.Buffer
	for name, body := range map[string]string{"CURRENT": "MANIFEST-000001\n", "sub/sp ace.ldb": "table", "empty": ""} {
		file := filepath.Join(r.Dir, filepath.FromSlash(name))
		err := os.MkdirAll(filepath.Dir(file), 0o755)
		if err == nil {
			err = os.WriteFile(file, []byte(body), 0o644)
		}
		if err == nil {
			err = json.NewEncoder(&list).Encode(core.Upload{Entry: core.Entry{Name: name, Size: int64(len(body))}})
		}
		if err != nil {
			t.Errorf("%v", err)
		}
	}
	if err := os.WriteFile(r.List, list.Bytes(), 0o644); err != nil {
		t.Errorf("%v", err)
	}
	return r
}
