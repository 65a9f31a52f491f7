package engine

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"path"
	"slices"
	"strings"
	"sync"

	"github.com/snapfw/snapfw/core"
	"github.com/snapfw/snapfw/core/internal/manifest"
)

// Where keys are replaced in place, the pointer is a list that the chain's Catalog renders, and what
// a run has to remember while it waits for a review lies in the bucket, under its stage:
// replacements under their keys, and these.
const (
	stageRoot    = ".staged"
	stagedList   = "list"          // what is proposed
	stagedMerged = "merged"        // what the review let through
	stagedAll    = "entries.jsonl" // core.Upload lines: every entry; those that are sent are marked in stagedSent
	stagedSent   = "changes.jsonl" // core.Upload lines: what this run sends
)

func (n *Node) inPlace() bool { return n.Plan != nil && n.Plan.Publish.InPlace }

func (r *Run) stage() string { return stageRoot + "/" + r.ID }

// lists is where the pointer lies.
func (r *Run) lists() *Sink {
	if r.Lists != nil {
		return r.Lists
	}
	return r.Sink
}

// objectsKey is the key of the manifest.Objects beside the pointer's name.
func objectsKey(n *Node) string {
	name := path.Base(n.Plan.Publish.Pointer)
	return strings.TrimSuffix(name, path.Ext(name)) + ".objects.json"
}

func keyOf(n *Node, name string) string { return path.Join(n.Plan.Publish.Prefix, name) }

// published reads the list that the bucket holds now; nil if there is none.
func (r *Run) published(ctx context.Context, n *Node) (body []byte, named []core.Entry, o core.Object, err error) {
	s := r.lists()
	body, o, err = r.getFrom(ctx, s, n.Plan.Publish.Pointer)
	if err != nil || body == nil {
		return nil, nil, o, err
	}
	if named, err = r.parse(ctx, body); err != nil {
		return nil, nil, o, fmt.Errorf("the published list %s: %w; put it right before you publish another", n.Plan.Publish.Pointer, err)
	}
	return body, named, o, nil
}

// remembered is the memory of earlier releases. One that can't be read is none: everything counts as unknown.
func (r *Run) remembered(ctx context.Context, n *Node) (manifest.Objects, error) {
	body, err := r.get(ctx, objectsKey(n))
	if err != nil {
		return manifest.Objects{}, err
	}
	o, err := reading(&r.readings, "objects", body, func() (manifest.Objects, error) { return manifest.ParseObjects(body) })
	o.Objects = maps.Clone(o.Objects) // it is changed and put back
	if err != nil {
		err = r.note(n.Name, "%s is forgotten, so unknown objects are sent again: %v", objectsKey(n), err)
	}
	return o, err
}

// listed lists what lies under the plan's prefix, by key, but for the stage.
func (r *Run) listed(ctx context.Context, n *Node) (map[string]core.Object, error) {
	prefix := n.Plan.Publish.Prefix
	if prefix != "" {
		prefix += "/"
	}
	all, err := r.list(ctx, prefix, func(key string) bool { return !strings.HasPrefix(key, stageRoot+"/") })
	if err == nil {
		n.there, n.listedAt = all, r.Clock.Now()
	}
	return all, err
}

func (r *Run) list(ctx context.Context, prefix string, want func(string) bool) (all map[string]core.Object, err error) {
	err = r.retry(ctx, nil, "list "+prefix, func() error {
		all = map[string]core.Object{}
		for o, err := range r.Sink.List(ctx, r.Sink.Target, prefix) {
			if err != nil {
				return fmt.Errorf("list %s: %w", prefix, err)
			}
			if want == nil || want(o.Key) {
				all[o.Key] = o
			}
		}
		return nil
	})
	return all, err
}

// holds is held, without another list if nothing has changed since this process listed everything.
func (r *Run) holds(ctx context.Context, n *Node) (known manifest.Objects, there map[string]core.Object, err error) {
	if n.there == nil {
		return r.held(ctx, n)
	}
	known, err = r.remembered(ctx, n)
	return known, n.there, err
}

// held is what the bucket holds: as earlier releases remember it, and as it is listed now. A list is long in coming.
func (r *Run) held(ctx context.Context, n *Node) (known manifest.Objects, there map[string]core.Object, err error) {
	var listErr error
	var wg sync.WaitGroup
	wg.Go(func() { there, listErr = r.listed(ctx, n) })
	known, err = r.remembered(ctx, n)
	wg.Wait()
	return known, there, errors.Join(err, listErr)
}

// choose finds what differs from what the bucket holds: by sum, never by size alone. What replaces a key
// that exists or is published is parked. The choice is kept in the bucket, so that a run that is carried
// on sends what it began to send.
func (r *Run) choose(ctx context.Context, n *Node, p *proposal) ([]core.Upload, error) {
	if n.Chosen != nil {
		return r.staged(ctx, n, stagedSent)
	}
	n.grewYoung()
	if r.Clock.Now().Sub(n.listedAt) > recent {
		n.there = nil
	}
	known, there, err := r.holds(ctx, n)
	if err != nil {
		return nil, err
	}
	_, named, _, err := r.published(ctx, n)
	if err != nil {
		return nil, err
	}
	names := map[string]bool{}
	for _, e := range named {
		names[keyOf(n, e.Name)] = true
	}
	all, some := []core.Upload{}, []core.Upload{}
	for _, e := range p.entries {
		key := keyOf(n, e.Name)
		o, exists := there[key]
		if exists && known.Holds(e, o) {
			e.Size = o.Size // of what is there: the same sum may be that of other bytes
		} else {
			some = append(some, core.Upload{Entry: e, Replace: exists || names[key]})
		}
		all = append(all, core.Upload{Entry: e})
	}
	if err := r.expect(ctx, n, known, some); err != nil {
		return nil, err
	}
	c := Chosen{Sums: map[string]string{}}
	for name, body := range map[string][]byte{stagedList: p.list, stagedAll: lines(all), stagedSent: lines(some)} {
		c.Sums[name] = manifest.SHA256(body)
		if err := r.put(ctx, r.stage()+"/"+name, body); err != nil {
			return nil, err
		}
		r.readings.keep("kept", c.Sums[name], body)
	}
	r.readings.keep("uploads", c.Sums[stagedAll], all)
	r.readings.keep("uploads", c.Sums[stagedSent], some)
	for _, u := range some {
		if c.Files++; u.Replace {
			c.Replaced++
		}
		c.Bytes += u.Size
	}
	return some, r.fact(factChosen, n.Name, "", c)
}

// expect writes down which new keys are about to be sent, before they are: an upload that is killed would leave objects that
// nobody knows and nobody deletes. Nothing counts as held by that.
func (r *Run) expect(ctx context.Context, n *Node, known manifest.Objects, some []core.Upload) error {
	now, changed := r.Clock.Now().UTC(), false
	for _, u := range some {
		key := keyOf(n, u.Name)
		if _, ok := known.Objects[key]; ok || u.Replace {
			continue
		}
		known.Objects[key], changed = manifest.Remembered{Size: u.Size, Sums: u.Sums, Unnamed: &now}, true
	}
	if !changed {
		return nil
	}
	return r.putObjects(ctx, n, known)
}

func lines(uploads []core.Upload) []byte {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	for _, u := range uploads {
		if err := enc.Encode(u); err != nil {
			panic(err) // strings and numbers
		}
	}
	return b.Bytes()
}

// kept reads a file of the stage. The bucket is somebody else's: it must be what was put there. What this process put or read there
// it knows.
func (r *Run) kept(ctx context.Context, n *Node, name string) ([]byte, error) {
	if body, ok := r.readings.find("kept", n.Chosen.Sums[name]).([]byte); ok {
		return body, nil
	}
	key := r.stage() + "/" + name
	body, err := r.get(ctx, key)
	if err != nil {
		return nil, err
	}
	if body == nil {
		return nil, r.lost(n, key+" is gone from the bucket")
	}
	if manifest.SHA256(body) != n.Chosen.Sums[name] {
		return nil, r.lost(n, key+" is not what this run put there; something else writes to this bucket")
	}
	r.readings.keep("kept", n.Chosen.Sums[name], body)
	return body, nil
}

// lost is the end of a run whose bucket does not hold what it put or found there: a review takes days, and buckets expire objects. Before
// published bytes were replaced that is a refusal, which closes the run.
func (r *Run) lost(n *Node, what string) error {
	switch {
	case n.committed():
		return fmt.Errorf("%s: put that right and resume, or `snapfw cancel %s --force --reason \"…\"` and release again at once", what, r.ID)
	case n.Proposed != nil && n.Reviewed == nil:
		what += ", so its proposal is withdrawn"
	}
	return &RefusedError{what + "; nothing was published by this run, and it is closed: release again"}
}

func (r *Run) staged(ctx context.Context, n *Node, name string) ([]core.Upload, error) {
	body, err := r.kept(ctx, n, name)
	if err != nil {
		return nil, err
	}
	return reading(&r.readings, "uploads", body, func() (all []core.Upload, err error) {
		for d := json.NewDecoder(bytes.NewReader(body)); d.More(); {
			var u core.Upload
			if err := d.Decode(&u); err != nil {
				return nil, fmt.Errorf("%s: %w", name, err)
			}
			all = append(all, u)
		}
		return all, nil
	})
}

// sendChanges sends what is new to its key and parks what replaces a key.
func (r *Run) sendChanges(ctx context.Context, n *Node) error {
	p, err := r.proposed(ctx, n)
	if err != nil {
		return err
	}
	if err := r.supersede(ctx); err != nil {
		return err
	}
	some, err := r.choose(ctx, n, p)
	if err != nil {
		return err
	}
	began := r.Clock.Now()
	var sent *core.Sent
	if len(some) > 0 {
		n.there = nil
		m, err := r.machine(ctx, n)
		if err != nil {
			return err
		}
		s := shipment{what: "entries", dir: n.Plan.Data, prefix: n.Plan.Publish.Prefix, stage: r.stage(), uploads: some}
		if sent, err = r.send(ctx, m, n, s); err != nil {
			return err
		}
	}
	return r.fact(factUploaded, n.Name, "", Uploaded{
		Prefix: n.Plan.Publish.Prefix, Pointer: n.Plan.Publish.Pointer, Files: len(p.entries), Bytes: n.Bytes,
		NewFiles: len(some), NewBytes: n.Chosen.Bytes, Sent: sent, Took: r.Clock.Now().Sub(began),
	})
}

// verifyChanges sees in the storage that everything arrived, and remembers what lies under its key.
func (r *Run) verifyChanges(ctx context.Context, n *Node) error {
	some, err := r.staged(ctx, n, stagedSent)
	if err != nil {
		return err
	}
	if len(some) == 0 { // choose has just listed all of it
		return r.fact(factVerified, n.Name, "", n.Chosen.Sums[stagedList])
	}
	there, err := r.listed(ctx, n)
	if err != nil {
		return err
	}
	parked, err := r.list(ctx, r.stage()+"/", nil)
	if err != nil {
		return err
	}
	var wrong []string
	now := map[string]core.Entry{}
	for _, u := range some {
		key := keyOf(n, u.Name)
		o, ok := there[key]
		if u.Replace {
			o, ok = parked[r.stage()+"/"+key]
		} else {
			now[key] = u.Entry
		}
		switch {
		case !ok:
			wrong = append(wrong, key+" is missing")
		case o.Size != u.Size:
			wrong = append(wrong, fmt.Sprintf("%s has %d bytes instead of %d", key, o.Size, u.Size))
		}
	}
	if len(wrong) > 0 {
		return fmt.Errorf("the storage does not hold what was sent: %s; `snapfw resume %s` sends it again", few(wrong), r.ID)
	}
	if err := r.remember(ctx, n, now, there); err != nil {
		return err
	}
	return r.fact(factVerified, n.Name, "", n.Chosen.Sums[stagedList])
}

func few(list []string) string {
	const most = 5
	if len(list) <= most {
		return strings.Join(list, ", ")
	}
	return fmt.Sprintf("%s and %d more", strings.Join(list[:most], ", "), len(list)-most)
}

// remember writes down what some keys hold now.
func (r *Run) remember(ctx context.Context, n *Node, now map[string]core.Entry, there map[string]core.Object) error {
	if len(now) == 0 {
		return nil
	}
	known, err := r.remembered(ctx, n)
	if err != nil {
		return err
	}
	for _, key := range slices.Sorted(maps.Keys(now)) {
		o, ok := there[key]
		if !ok {
			return fmt.Errorf("%s is gone from the bucket", key)
		}
		known.Objects[key] = manifest.Remembered{Size: o.Size, ETag: o.ETag, Modified: o.Modified, Sums: now[key].Sums}
	}
	return r.putObjects(ctx, n, known)
}

func (r *Run) putObjects(ctx context.Context, n *Node, known manifest.Objects) error {
	known.Chain, known.Run, known.Written = r.state.Begun.Chain, r.ID, r.Clock.Now().UTC()
	body, err := known.Encode()
	if err != nil {
		return err
	}
	if err := r.put(ctx, objectsKey(n), body); err != nil {
		return err
	}
	r.stored(n, objectsKey(n), body)
	return nil
}

// stored keeps what this process listed true after it has put a small object of a release's own.
func (r *Run) stored(n *Node, key string, body []byte) {
	if n.there != nil {
		n.there[key] = core.Object{Key: key, Size: int64(len(body)), Modified: r.Clock.Now()}
	}
}
