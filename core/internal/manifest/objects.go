package manifest

import (
	"errors"
	"fmt"
	"time"

	"github.com/snapfw/snapfw/core"
)

const objectsFormat = 1

// Objects is what a release remembers of the bucket whose keys it replaces in place:
// <chain>.objects.json. A later release compares it with one list of the bucket
// instead of asking for every object. It is a memory, not a truth: what
// the bucket lists otherwise counts as unknown.
type Objects struct {
	Format  int                   `json:"format"`
	Chain   string                `json:"chain"`
	Run     string                `json:"run"` // that wrote it
	Written time.Time             `json:"written"`
	Objects map[string]Remembered `json:"objects"` // by key
}

// Remembered is one object. Unnamed is when its key was first no longer published, or not published yet. One with neither
// ETag nor Modified was about to be sent, and nobody saw it arrive.
type Remembered struct {
	Size     int64             `json:"size"`
	ETag     string            `json:"etag,omitempty"` // "" where the storage has none: then Modified tells
	Modified time.Time         `json:"modified"`
	Sums     map[string]string `json:"sums"`
	Unnamed  *time.Time        `json:"unnamed,omitempty"`
}

// Encode returns the bytes that ParseObjects reads.
func (o Objects) Encode() ([]byte, error) {
	o.Format = objectsFormat
	return encode(o)
}

// ParseObjects reads what Encode wrote. nil gives an empty memory.
func ParseObjects(body []byte) (Objects, error) {
	o := Objects{Objects: map[string]Remembered{}}
	if body == nil {
		return o, nil
	}
	if err := decode(body, MaxManifest, &o); err != nil {
		return Objects{Objects: map[string]Remembered{}}, fmt.Errorf("read the objects: %w", err)
	}
	err := o.check()
	if err != nil {
		o = Objects{Objects: map[string]Remembered{}}
	}
	return o, err
}

func (o Objects) check() error {
	if o.Format != objectsFormat {
		return fmt.Errorf("read the objects: format %d is not known", o.Format)
	}
	if len(o.Objects) > maxEntries || o.Objects == nil {
		return errors.New("read the objects: none or too many")
	}
	for key, r := range o.Objects {
		if err := checkEntry(core.Entry{Name: key, Size: r.Size, Sums: r.Sums}); err != nil {
			return fmt.Errorf("read the objects: %w", err)
		}
	}
	return nil
}

// Holds tells whether the bucket has an entry under a key: what is listed is what is remembered, and
// that has the entry's sums. A size alone never says so, and a file whose content may differ under the
// same sum (a .torrent has a date) is not compared by its size.
func (o Objects) Holds(e core.Entry, listed core.Object) bool {
	r, ok := o.Objects[listed.Key]
	return ok && r.Is(listed) && SameSums(r.Sums, e.Sums)
}

// Is tells whether a listed object is the one that is remembered. One that nobody saw arrive never is.
func (r Remembered) Is(o core.Object) bool {
	return r.Size == o.Size && r.ETag == o.ETag && (r.ETag != "" || !r.Modified.IsZero() && r.Modified.Equal(o.Modified))
}

// SameSums tells whether two sets of sums have one in common and none that differs.
func SameSums(a, b map[string]string) bool {
	common := false
	for alg, sum := range a {
		if other, both := b[alg]; both {
			if other != sum {
				return false
			}
			common = true
		}
	}
	return common
}
