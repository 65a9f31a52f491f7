package manifest

import (
	"fmt"
	"iter"
	"strings"

	"github.com/snapfw/snapfw/core"
)

// Same makes the list of uploads for entries. A file that the previous snapshot holds under
// the same name, with the same size and sha256, is marked as Previous. The zero Manifest holds none.
func Same(previous Manifest, entries []core.Entry) []core.Upload {
	held := make(map[string]core.Entry, len(previous.Entries))
	for _, e := range previous.Entries {
		held[e.Name] = e
	}
	uploads := make([]core.Upload, len(entries))
	for i, e := range entries {
		old, ok := held[e.Name]
		sum := e.Sums["sha256"]
		uploads[i] = core.Upload{Entry: e, Previous: ok && sum != "" && old.Size == e.Size && old.Sums["sha256"] == sum}
	}
	return uploads
}

// Work says what a list of uploads costs.
type Work struct {
	NewFiles, CopiedFiles int // to be uploaded, to be copied inside the storage
	NewBytes, CopiedBytes int64
}

// Sum adds a list of uploads up.
func Sum(uploads []core.Upload) Work {
	var w Work
	for _, u := range uploads {
		if u.Previous {
			w.CopiedFiles++
			w.CopiedBytes += u.Size
		} else {
			w.NewFiles++
			w.NewBytes += u.Size
		}
	}
	return w
}

// Arrived compares what a sink lists under prefix with the entries that must lie there: each
// is there, has its size, and the sha256 where the storage itself says one. The error names the first
// few that do not; objects beside them are no error.
func Arrived(prefix string, entries []core.Entry, objects iter.Seq2[core.Object, error]) error {
	want := make(map[string]core.Entry, len(entries))
	for _, e := range entries {
		want[prefix+"/"+e.Name] = e
	}
	var wrong []string
	for o, err := range objects {
		if err != nil {
			return fmt.Errorf("list %s: %w", prefix, err)
		}
		e, ok := want[o.Key]
		if !ok {
			continue
		}
		delete(want, o.Key)
		if o.Size != e.Size {
			wrong = append(wrong, fmt.Sprintf("%s has %d bytes instead of %d", e.Name, o.Size, e.Size))
		} else if sum := o.Sums["sha256"]; sum != "" && !strings.EqualFold(sum, e.Sums["sha256"]) {
			wrong = append(wrong, e.Name+" has another sha256")
		}
	}
	for _, e := range entries {
		if _, missing := want[prefix+"/"+e.Name]; missing {
			wrong = append(wrong, e.Name+" is missing")
		}
	}
	if len(wrong) == 0 {
		return nil
	}
	const few = 5
	more := ""
	if len(wrong) > few {
		more = fmt.Sprintf(", and %d more", len(wrong)-few)
		wrong = wrong[:few]
	}
	return fmt.Errorf("%s is not whole in the storage: %s%s; resume the run to upload them again", prefix, strings.Join(wrong, ", "), more)
}
