package manifest

import (
	"bufio"
	"bytes"
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/snapfw/snapfw/core"
)

// Version is that of Manifest, Pointer, Mark and Index.
const Version = 1

// Manifest says what a snapshot consists of and how it was made.
type Manifest struct {
	Version     int               `json:"version"`
	Chain       string            `json:"chain"`
	Node        string            `json:"node"`
	Run         string            `json:"run"`
	Intent      string            `json:"intent"`
	Prefix      string            `json:"prefix"` // relative to where the sink's configuration points
	Height      uint64            `json:"height"`
	Hash        string            `json:"hash,omitempty"` // of the block at that height, lower-case hex with 0x
	NodeVersion string            `json:"node_version,omitempty"`
	Facts       map[string]string `json:"facts,omitempty"` // what else the plan kept
	Taken       time.Time         `json:"taken"`
	DownSeconds float64           `json:"down_seconds"`     // from the stop to the node's first answer
	Method      string            `json:"method,omitempty"` // of the capture: "link", "clone", "copy"
	Forced      string            `json:"forced,omitempty"` // the reason, where conditions were bypassed
	Files       int               `json:"files"`
	Bytes       int64             `json:"bytes"`
	Entries     []core.Entry      `json:"entries"` // sorted by name
}

// Fill sets the version, and the entries sorted by name with their number and bytes.
// The caller's slice is left as it is.
func (m *Manifest) Fill(entries []core.Entry) {
	m.Version = Version
	m.Entries = slices.SortedFunc(slices.Values(entries), func(a, b core.Entry) int { return cmp.Compare(a.Name, b.Name) })
	m.Files, m.Bytes = len(m.Entries), 0
	for _, e := range m.Entries {
		m.Bytes += e.Size
	}
}

// Check refuses a manifest that contradicts itself or names what it must not.
func (m Manifest) Check() error {
	if m.Version > Version || m.Version < 1 {
		return fmt.Errorf("version %d: this snapfw knows %d; use a newer one", m.Version, Version)
	}
	if err := CheckName(m.Prefix); err != nil {
		return fmt.Errorf("prefix: %w", err)
	}
	for _, f := range []struct{ name, text string }{
		{"chain", m.Chain}, {"node", m.Node}, {"run", m.Run}, {"intent", m.Intent},
		{"node_version", m.NodeVersion}, {"method", m.Method}, {"forced", m.Forced},
	} {
		if err := checkText(f.name, f.text); err != nil {
			return err
		}
	}
	if len(m.Facts) > 1000 {
		return fmt.Errorf("%d facts", len(m.Facts))
	}
	for k, v := range m.Facts {
		if err := errors.Join(checkText("fact", k), checkText("fact "+k, v)); err != nil {
			return err
		}
	}
	if err := checkHash(m.Hash); err != nil {
		return err
	}
	if m.Taken.IsZero() || m.DownSeconds < 0 {
		return errors.New("taken is missing or down_seconds is negative")
	}
	if err := checkSHA256(m.Entries); err != nil {
		return err
	}
	if !slices.IsSortedFunc(m.Entries, func(a, b core.Entry) int { return cmp.Compare(a.Name, b.Name) }) {
		return errors.New("the entries are not sorted by name")
	}
	var bytes int64
	for _, e := range m.Entries {
		bytes += e.Size
	}
	if m.Files != len(m.Entries) || m.Bytes != bytes {
		return fmt.Errorf("says %d files with %d bytes, holds %d with %d", m.Files, m.Bytes, len(m.Entries), bytes)
	}
	return nil
}

// Encode writes a manifest that passes Check as JSON: one field a line, one entry a line.
func (m Manifest) Encode() ([]byte, error) {
	if err := m.Check(); err != nil {
		return nil, fmt.Errorf("manifest of %s: %w", m.Prefix, err)
	}
	entries := m.Entries
	m.Entries = []core.Entry{}
	head, err := json.MarshalIndent(m, "", "  ")
	if err != nil {
		return nil, err
	}
	var b bytes.Buffer
	b.Write(bytes.TrimSuffix(head, []byte("[]\n}")))
	b.WriteByte('[')
	for i, e := range entries {
		line, err := json.Marshal(e)
		if err != nil {
			return nil, err
		}
		if i > 0 {
			b.WriteByte(',')
		}
		b.WriteString("\n    ")
		b.Write(line)
	}
	if len(entries) > 0 {
		b.WriteString("\n  ")
	}
	b.WriteString("]\n}\n")
	if b.Len() > MaxManifest {
		return nil, fmt.Errorf("manifest of %s: %d bytes: %d are the most", m.Prefix, b.Len(), MaxManifest)
	}
	return b.Bytes(), nil
}

// Parse reads what Encode wrote, from a bucket.
func Parse(body []byte) (Manifest, error) {
	var m Manifest
	if err := decode(body, MaxManifest, &m); err != nil {
		return Manifest{}, fmt.Errorf("read manifest: %w", err)
	}
	if err := m.Check(); err != nil {
		return Manifest{}, fmt.Errorf("read manifest: %w", err)
	}
	return m, nil
}

// decode reads exactly one JSON value.
func decode(body []byte, limit int, v any) error {
	if len(body) > limit {
		return fmt.Errorf("%d bytes: %d are the most", len(body), limit)
	}
	return json.Unmarshal(body, v)
}

// SHA256 is the sum of a manifest's bytes as a Pointer names it.
func SHA256(body []byte) string {
	sum := sha256.Sum256(body)
	return hex.EncodeToString(sum[:])
}

// ReadEntries reads entries.jsonl, one core.Entry a line as a plan's Seal leaves it,
// and refuses what CheckEntries refuses. An empty list is an error: nobody wants an empty snapshot.
func ReadEntries(r io.Reader) ([]core.Entry, error) {
	limited := &io.LimitedReader{R: r, N: MaxManifest + 1}
	lines := bufio.NewScanner(limited)
	lines.Buffer(nil, 64<<10)
	var entries []core.Entry
	for n := 1; lines.Scan(); n++ {
		if len(bytes.TrimSpace(lines.Bytes())) == 0 {
			continue
		}
		var e core.Entry
		if err := json.Unmarshal(lines.Bytes(), &e); err != nil {
			return nil, fmt.Errorf("read entries: line %d: %w", n, err)
		}
		entries = append(entries, e)
	}
	if err := lines.Err(); err != nil {
		return nil, fmt.Errorf("read entries: %w", err)
	}
	if limited.N <= 0 {
		return nil, fmt.Errorf("read entries: more than %d bytes", MaxManifest)
	}
	if len(entries) == 0 {
		return nil, errors.New("read entries: there are none")
	}
	if err := CheckEntries(entries); err != nil {
		return nil, fmt.Errorf("read entries: %w", err)
	}
	return entries, nil
}

// WriteUploads writes the list that core.UploadRequest.List names: one core.Upload a line.
func WriteUploads(w io.Writer, uploads []core.Upload) error {
	b := bufio.NewWriter(w)
	enc := json.NewEncoder(b)
	for _, u := range uploads {
		if err := enc.Encode(u); err != nil {
			return fmt.Errorf("write the list of uploads: %w", err)
		}
	}
	if err := b.Flush(); err != nil {
		return fmt.Errorf("write the list of uploads: %w", err)
	}
	return nil
}
