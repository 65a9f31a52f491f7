package manifest

import (
	"encoding/json"
	"errors"
	"fmt"
	"path"
	"slices"
	"time"
)

// Snapshot names one snapshot that consumers may read.
type Snapshot struct {
	Prefix   string    `json:"prefix"`
	Manifest string    `json:"manifest"`        // key of its manifest, under Prefix
	SHA256   string    `json:"manifest_sha256"` // of the manifest's bytes
	Height   uint64    `json:"height"`
	Hash     string    `json:"hash,omitempty"`
	Taken    time.Time `json:"taken"`
	Files    int       `json:"files"`
	Bytes    int64     `json:"bytes"`
}

// Snapshot makes the short form of a manifest whose encoded bytes are body.
func (m Manifest) Snapshot(body []byte) Snapshot {
	return Snapshot{
		Prefix: m.Prefix, Manifest: m.Prefix + "/" + File, SHA256: SHA256(body),
		Height: m.Height, Hash: m.Hash, Taken: m.Taken, Files: m.Files, Bytes: m.Bytes,
	}
}

// Pointer is what consumers read first: the newest snapshot of a series, and those before
// it that are kept. Readers follow Manifest, check its sha256, and then trust its entries.
type Pointer struct {
	Version int    `json:"version"`
	Chain   string `json:"chain"`
	Node    string `json:"node"`
	Run     string `json:"run"` // that wrote the pointer
	Snapshot
	NodeVersion string     `json:"node_version,omitempty"`
	Published   time.Time  `json:"published"`
	Previous    []Snapshot `json:"previous"` // newest first
}

// Next makes the pointer that names a manifest whose encoded bytes are body; p, which may be
// the zero Pointer, is the one before it, whose snapshot becomes the first of Previous. To
// point at the same prefix again changes nothing of Previous.
func (p Pointer) Next(m Manifest, body []byte, now time.Time) Pointer {
	next := Pointer{
		Version: Version, Chain: m.Chain, Node: m.Node, Run: m.Run,
		Snapshot: m.Snapshot(body), NodeVersion: m.NodeVersion, Published: now.UTC().Truncate(time.Second),
		Previous: []Snapshot{},
	}
	for _, s := range append([]Snapshot{p.Snapshot}, p.Previous...) {
		if s.Prefix != "" && s.Prefix != m.Prefix && len(next.Previous) < maxPrevious {
			next.Previous = append(next.Previous, s)
		}
	}
	return next
}

// Without leaves prefixes out of Previous: those that are about to be deleted, so that
// no pointer ever names what is gone.
func (p Pointer) Without(prefixes ...string) Pointer {
	kept := []Snapshot{}
	for _, s := range p.Previous {
		if !slices.Contains(prefixes, s.Prefix) {
			kept = append(kept, s)
		}
	}
	p.Previous = kept
	return p
}

// Check refuses a pointer that names what it must not.
func (p Pointer) Check() error {
	if p.Version > Version || p.Version < 1 {
		return fmt.Errorf("version %d: this snapfw knows %d; use a newer one", p.Version, Version)
	}
	for _, f := range []struct{ name, text string }{
		{"chain", p.Chain}, {"node", p.Node}, {"run", p.Run}, {"node_version", p.NodeVersion},
	} {
		if err := checkText(f.name, f.text); err != nil {
			return err
		}
	}
	if len(p.Previous) > maxPrevious {
		return fmt.Errorf("%d previous snapshots: %d are the most", len(p.Previous), maxPrevious)
	}
	seen := map[string]bool{}
	for _, s := range append([]Snapshot{p.Snapshot}, p.Previous...) {
		if err := s.check(); err != nil {
			return err
		}
		if seen[s.Prefix] {
			return fmt.Errorf("prefix %q: twice", s.Prefix)
		}
		seen[s.Prefix] = true
	}
	return nil
}

func (s Snapshot) check() error {
	if err := CheckName(s.Prefix); err != nil {
		return fmt.Errorf("prefix: %w", err)
	}
	if err := CheckName(s.Manifest); err != nil {
		return fmt.Errorf("manifest: %w", err)
	}
	if path.Dir(s.Manifest) != s.Prefix {
		return fmt.Errorf("manifest %q: not in %q", s.Manifest, s.Prefix)
	}
	if err := checkSum("sha256", s.SHA256); err != nil {
		return fmt.Errorf("manifest_%w", err)
	}
	if err := checkHash(s.Hash); err != nil {
		return err
	}
	if s.Taken.IsZero() || s.Files < 0 || s.Bytes < 0 {
		return errors.New("taken is missing, or files or bytes are negative")
	}
	return nil
}

// Encode writes a pointer that passes Check as indented JSON.
func (p Pointer) Encode() ([]byte, error) {
	if err := p.Check(); err != nil {
		return nil, fmt.Errorf("pointer to %s: %w", p.Prefix, err)
	}
	return encode(p)
}

// ParsePointer reads what Encode wrote, from a bucket.
func ParsePointer(body []byte) (Pointer, error) {
	var p Pointer
	if err := decode(body, MaxPointer, &p); err != nil {
		return Pointer{}, fmt.Errorf("read pointer: %w", err)
	}
	if err := p.Check(); err != nil {
		return Pointer{}, fmt.Errorf("read pointer: %w", err)
	}
	return p, nil
}

// Mark is MarkFile: it says that what lies beside it is not, or not yet, a snapshot. snapfw
// writes it before the first file and deletes it when the pointer names the prefix, so retention
// knows the leftovers of its own failed runs from what others put there.
type Mark struct {
	Version int       `json:"version"`
	Run     string    `json:"run"`
	Started time.Time `json:"started"`
	Note    string    `json:"note"`
}

// EncodeMark makes the Mark of a run.
func EncodeMark(run string, now time.Time) ([]byte, error) {
	return encode(Mark{
		Version: Version, Run: run, Started: now.UTC().Truncate(time.Second),
		Note: "This snapshot is being uploaded, or its upload failed. Don't use it.",
	})
}

func encode(v any) ([]byte, error) {
	body, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return nil, err
	}
	return append(body, '\n'), nil
}
