package manifest

import (
	"cmp"
	"fmt"
	"iter"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/snapfw/snapfw/core"
)

// Stored is one folder of a series as the storage lists it.
type Stored struct {
	Prefix string
	Whole  bool      // it has a manifest
	Marked bool      // it has a Mark: a run is at it or died at it
	Taken  time.Time // as a pointer says, else when its manifest, or its newest object, was stored
	Newest time.Time // when its newest object was stored
	Files  int
	Bytes  int64
	Keys   []string // of all its objects, the manifest's first
}

// Series groups what a sink lists under folder+"/" by the folders right below it. What lies
// in folder itself, the pointer, belongs to none. Times come from the pointer where it knows better.
func Series(folder string, objects iter.Seq2[core.Object, error], p Pointer) ([]Stored, error) {
	by := map[string]*Stored{}
	for o, err := range objects {
		if err != nil {
			return nil, fmt.Errorf("list %s: %w", folder, err)
		}
		rest, ok := strings.CutPrefix(o.Key, folder+"/")
		name, file, deep := strings.Cut(rest, "/")
		if folder == "." {
			ok = true
			name, file, deep = strings.Cut(o.Key, "/")
		}
		if !ok || !deep || CheckName(o.Key) != nil {
			continue
		}
		s := by[name]
		if s == nil {
			s = &Stored{Prefix: path.Join(folder, name)}
			by[name] = s
		}
		s.add(file, o)
	}
	known := map[string]time.Time{}
	for _, k := range append([]Snapshot{p.Snapshot}, p.Previous...) {
		known[k.Prefix] = k.Taken
	}
	var series []Stored
	for _, s := range by {
		if t, ok := known[s.Prefix]; ok {
			s.Taken = t
		} else if s.Taken.IsZero() {
			s.Taken = s.Newest
		}
		series = append(series, *s)
	}
	slices.SortFunc(series, newestFirst)
	return series, nil
}

func (s *Stored) add(file string, o core.Object) {
	s.Files++
	s.Bytes += o.Size
	if o.Modified.After(s.Newest) {
		s.Newest = o.Modified
	}
	switch file {
	case File:
		s.Whole, s.Taken = true, o.Modified
		s.Keys = slices.Insert(s.Keys, 0, o.Key)
		return
	case MarkFile:
		s.Marked = true
	}
	s.Keys = append(s.Keys, o.Key)
}

func newestFirst(a, b Stored) int {
	return cmp.Or(b.Taken.Compare(a.Taken), cmp.Compare(b.Prefix, a.Prefix))
}

// Policy says which snapshots of a series to keep.
type Policy struct {
	Count int           // the newest so many, the published one among them; 0 is no limit
	Age   time.Duration // none that is older; 0 is no limit
	Pins  []string      // never these: patterns of path.Match, or literal, for a prefix or its last part
	Grace time.Duration // how long the leftovers of a failed run stay after their newest object; 0 is a day
	Held  []string      // prefixes that a running or parked run still needs
}

// Prune returns what to delete of a series, oldest first: whole snapshots beyond the policy,
// and the leftovers of failed runs. It never returns what the pointer names as the newest, a
// pin, what is held, or what snapfw did not make (neither manifest nor mark). Without a pointer nobody
// knows which snapshot is the last good one, so only leftovers go.
func Prune(series []Stored, policy Policy, p Pointer, now time.Time) []Stored {
	sorted := slices.SortedFunc(slices.Values(series), newestFirst)
	previous := map[string]bool{}
	for _, s := range p.Previous {
		previous[s.Prefix] = true
	}
	grace := policy.Grace
	if grace == 0 {
		grace = 24 * time.Hour
	}
	kept := 0
	if p.Prefix != "" {
		kept = 1 // the published one counts, wherever its age puts it
	}
	var drop []Stored
	for _, s := range sorted {
		switch {
		case s.Prefix == p.Prefix:
		case policy.pinned(s.Prefix) || slices.Contains(policy.Held, s.Prefix):
		case s.Marked && !previous[s.Prefix]:
			if now.Sub(s.Newest) > grace {
				drop = append(drop, s)
			}
		case !s.Whole || p.Prefix == "":
		case policy.Count > 0 && kept >= policy.Count, policy.Age > 0 && now.Sub(s.Taken) > policy.Age:
			drop = append(drop, s)
		default:
			kept++
		}
	}
	slices.Reverse(drop)
	return drop
}

// Check refuses a policy that can't be meant.
func (policy Policy) Check() error {
	if policy.Count < 0 || policy.Age < 0 || policy.Grace < 0 {
		return fmt.Errorf("keep: count, age and grace are not negative")
	}
	for _, pin := range policy.Pins {
		if _, err := path.Match(pin, ""); err != nil {
			return fmt.Errorf("keep: pin %q: %w", pin, err)
		}
	}
	return nil
}

func (policy Policy) pinned(prefix string) bool {
	for _, pin := range policy.Pins {
		for _, s := range []string{prefix, path.Base(prefix)} {
			// A pattern that can't be read pins nothing else, but what it spells literally.
			if ok, err := path.Match(pin, s); pin == s || ok && err == nil {
				return true
			}
		}
	}
	return false
}
