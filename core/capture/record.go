package capture

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// Method is how the files of ModeLink get into a copy.
type Method string

// The methods, and Auto: the cheapest sound one that works here.
const (
	Auto  Method = "auto"
	Clone Method = "clone"
	Link  Method = "link"
	Copy  Method = "copy"
)

// Captured is what captured.json says of a copy.
type Captured struct {
	Method Method    `json:"method"`
	Files  int       `json:"files"`
	Bytes  int64     `json:"bytes"`
	Linked int       `json:"linked"` // files that share an inode with the node's
	Cloned int       `json:"cloned"` // files that share blocks with the node's
	Copied int       `json:"copied"` // files whose bytes were copied by this capture
	Reused int       `json:"reused"` // files copied by a warm pass or an earlier capture, and unchanged since
	From   string    `json:"from"`
	Run    string    `json:"run,omitempty"` // that took it
	When   time.Time `json:"when"`
	Sealed time.Time `json:"sealed,omitzero"` // zero: not yet, its bytes may not be on the disk

	Data uint64 `json:"data"` // inode of the directory that this describes
	Boot string `json:"boot"` // boot id of the machine when it was taken
	List string `json:"list"` // the file of records beside it
}

// ident tells whether a file is still the same: for all that is known, its bytes are those
// that were there when the four were. The change time is left out since linking sets it.
type Ident struct {
	Dev   uint64 `json:"dev"`
	Ino   uint64 `json:"ino"`
	Size  int64  `json:"size"`
	Mtime int64  `json:"mtime"` // ns
}

// IdentOf is a file's ident, of what stat says.
func IdentOf(st *unix.Stat_t) Ident {
	return Ident{Dev: uint64(st.Dev), Ino: st.Ino, Size: st.Size, Mtime: st.Mtim.Nano()}
}

// How a file came into a copy.
const (
	linked = "linked"
	cloned = "cloned"
	copied = "copied"
)

// record is one line of files-N.jsonl or warm.jsonl.
type Record struct {
	Name string `json:"name"`
	How  string `json:"how"`
	Src  Ident  `json:"src"`           // the node's file when it was captured
	Own  *Ident `json:"own,omitempty"` // the copy's own, unless linked: then it is Src
}

func (r Record) own() Ident {
	if r.Own != nil {
		return *r.Own
	}
	return r.Src
}

// sumKey is the file whose bytes a sum of this record's bytes stands for. A clone has the
// bytes of its source for good, and a new inode at each capture: so a sum of it is remembered
// for the source, and the next capture's clone need not be read.
func (r Record) sumKey() Ident {
	if r.How == cloned {
		return r.Src
	}
	return r.own()
}

func encodeRecords(w io.Writer, recs []Record) error {
	buf := bufio.NewWriterSize(w, 1<<16)
	for i := range recs {
		line, ok := appendRecord(buf.AvailableBuffer(), &recs[i])
		if !ok {
			var err error
			if line, err = encodeLine(&recs[i]); err != nil {
				return err
			}
		}
		if _, err := buf.Write(line); err != nil {
			return err
		}
	}
	return buf.Flush()
}

// readRecords reads what encodeRecords wrote. It is as strict with names as ReadList is,
// since what they name is read and removed. With an error come the records before it.
func readRecords(r io.Reader) ([]Record, error) {
	var recs []Record
	sc := bufio.NewScanner(r)
	sc.Buffer(make([]byte, 0, maxLine), maxLine)
	for line := 1; sc.Scan(); line++ {
		rec, ok := plainRecord(sc.Bytes())
		if !ok {
			rec = Record{}
			if err := json.Unmarshal(sc.Bytes(), &rec); err != nil {
				return recs, fmt.Errorf("line %d: %w", line, err)
			}
		}
		if err := checkName(rec.Name); err != nil {
			return recs, fmt.Errorf("line %d: %w", line, err)
		}
		if rec.How != linked && rec.How != cloned && rec.How != copied {
			return recs, fmt.Errorf("line %d: %q is no way to capture a file", line, rec.How)
		}
		if len(recs) == maxItems {
			return recs, fmt.Errorf("more than %d files", maxItems)
		}
		recs = append(recs, rec)
	}
	return recs, sc.Err()
}

func readRecordsFile(file string) ([]Record, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	recs, err := readRecords(f)
	if err != nil {
		return recs, fmt.Errorf("%s: %w", file, err)
	}
	return recs, nil
}

func readCaptured(file string) (Captured, error) {
	var c Captured
	b, err := os.ReadFile(file)
	if err != nil {
		return c, err
	}
	if err := json.Unmarshal(b, &c); err != nil {
		return Captured{}, fmt.Errorf("%s: %w", file, err)
	}
	if c.List == "" || c.List != filepath.Base(c.List) {
		return Captured{}, fmt.Errorf("%s: %q is not a file beside it", file, c.List)
	}
	return c, nil
}

func encodeLine(v any) ([]byte, error) {
	var buf bytes.Buffer
	enc := json.NewEncoder(&buf)
	enc.SetEscapeHTML(false)
	err := enc.Encode(v)
	return buf.Bytes(), err
}

// bootID names the time since the machine was started. "" where the system does not tell.
func bootID() string {
	b, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return ""
	}
	return string(bytes.TrimSpace(b))
}

// writeFile replaces a file in one go and waits until it is on the disk.
func writeFile(file string, body []byte, mode os.FileMode) error {
	return replaceFile(file, mode, true, func(w io.Writer) error {
		_, err := w.Write(body)
		return err
	})
}

// replaceFile replaces a file in one go by what write writes. Without durable it does not wait for
// the disk.
func replaceFile(file string, mode os.FileMode, durable bool, write func(io.Writer) error) error {
	f, err := os.CreateTemp(filepath.Dir(file), tempPrefix)
	if err != nil {
		return err
	}
	defer os.Remove(f.Name()) // gone already when it was renamed
	defer f.Close()
	if err := write(f); err != nil {
		return err
	}
	if err := f.Chmod(mode); err != nil {
		return err
	}
	if durable {
		if err := f.Sync(); err != nil {
			return err
		}
	}
	if err := f.Close(); err != nil {
		return err
	}
	if err := os.Rename(f.Name(), file); err != nil {
		return err
	}
	if durable {
		return syncDir(filepath.Dir(file))
	}
	return nil
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	if err := d.Sync(); err != nil {
		return fmt.Errorf("sync %s: %w", dir, err)
	}
	return nil
}

func replaceRecords(file string, recs []Record) error {
	return replaceFile(file, 0o644, false, func(w io.Writer) error { return encodeRecords(w, recs) })
}
