package manifest

import (
	"testing"
	"time"

	"github.com/snapfw/snapfw/core"
)

// Holds believes what was seen: the same object as it is remembered, with the same sums. What was only about to be sent
// was never seen, whatever the storage says of ETags and times.
func TestHolds(t *testing.T) {
	at := time.Date(2026, 11, 21, 10, 11, 12, 0, time.UTC)
	sums := map[string]string{"sha256": SHA256([]byte("x"))}
	other := map[string]string{"sha256": SHA256([]byte("y"))}
	for name, c := range map[string]struct {
		r    Remembered
		o    core.Object
		sums map[string]string
		want bool
	}{
		"the same":               {Remembered{Size: 1, ETag: "a", Modified: at, Sums: sums}, core.Object{Size: 1, ETag: "a"}, sums, true},
		"another ETag":           {Remembered{Size: 1, ETag: "a", Modified: at, Sums: sums}, core.Object{Size: 1, ETag: "b", Modified: at}, sums, false},
		"another size":           {Remembered{Size: 1, ETag: "a", Sums: sums}, core.Object{Size: 2, ETag: "a"}, sums, false},
		"other content":          {Remembered{Size: 1, ETag: "a", Sums: sums}, core.Object{Size: 1, ETag: "a"}, other, false},
		"by its time":            {Remembered{Size: 1, Modified: at, Sums: sums}, core.Object{Size: 1, Modified: at}, sums, true},
		"another time":           {Remembered{Size: 1, Modified: at, Sums: sums}, core.Object{Size: 1, Modified: at.Add(1)}, sums, false},
		"about to be sent":       {Remembered{Size: 1, Sums: sums, Unnamed: &at}, core.Object{Size: 1, ETag: "a", Modified: at}, sums, false},
		"… and no ETag, no time": {Remembered{Size: 1, Sums: sums, Unnamed: &at}, core.Object{Size: 1}, sums, false},
	} {
		o := Objects{Objects: map[string]Remembered{"k": c.r}}
		c.o.Key = "k"
		if got := o.Holds(core.Entry{Name: "k", Size: 1, Sums: c.sums}, c.o); got != c.want {
			t.Errorf("%s: %v", name, got)
		}
	}
}
