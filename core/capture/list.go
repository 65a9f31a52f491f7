package capture

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
)

// Modes of an Item.
const (
	// ModeLink is for a file that never changes again under its name: it may be
	// linked or cloned.
	ModeLink = "link"
	// ModeCopy is for a file that the node goes on writing: it is always a file of its own.
	ModeCopy = "copy"
)

// Item is one line of a live list: one file that makes up the database, and how it may be
// captured. Name is relative to the database's directory, with forward slashes.
type Item struct {
	Name string `json:"name"`
	Mode string `json:"mode"`
}

// Limits of a live list: far above any real database, far below this machine's memory.
const (
	maxItems = 4 << 20
	maxName  = 1024
	maxLine  = 8 << 10
)

// ReadList reads a live list: one JSON Item a line. It refuses what could lead out of
// the database or is ambiguous: absolute names, "..", names twice, a file that is also another's
// folder, unknown modes or fields. An empty list is an error too.
func ReadList(r io.Reader) ([]Item, error) {
	var items []Item
	seen := map[string]bool{}
	sc := bufio.NewScanner(r)
	sc.Buffer(make([]byte, 0, maxLine), maxLine)
	for line := 1; sc.Scan(); line++ {
		if len(bytes.TrimSpace(sc.Bytes())) == 0 {
			continue
		}
		item, ok := plainItem(sc.Bytes())
		if !ok {
			var err error
			if item, err = parseItem(sc.Bytes()); err != nil {
				return nil, fmt.Errorf("live list, line %d: %w", line, err)
			}
		}
		if seen[item.Name] {
			return nil, fmt.Errorf("live list, line %d: %q is named twice", line, item.Name)
		}
		if len(items) == maxItems {
			return nil, fmt.Errorf("live list: more than %d files", maxItems)
		}
		seen[item.Name] = true
		items = append(items, item)
	}
	if err := sc.Err(); err != nil {
		return nil, fmt.Errorf("live list: %w", err)
	}
	if len(items) == 0 {
		return nil, errors.New("live list: it names no files")
	}
	return items, checkFolders(items, seen)
}

var (
	itemBegin = []byte(`{"name":"`)
	linkEnd   = []byte(`","mode":"link"}`)
	copyEnd   = []byte(`","mode":"copy"}`)
)

// plainItem reads a line that is just as WriteList writes one, of a name that needs no escapes. It is
// what nearly all lines are, and the node is down while they are read: decoding JSON takes
// a sixth of the time that the link itself does. It says no to whatever else there is.
func plainItem(line []byte) (Item, bool) {
	name, ok := bytes.CutPrefix(line, itemBegin)
	if !ok {
		return Item{}, false
	}
	mode := ModeLink
	if end, ok := bytes.CutSuffix(name, linkEnd); ok {
		name = end
	} else if name, ok = bytes.CutSuffix(name, copyEnd); ok {
		mode = ModeCopy
	} else {
		return Item{}, false
	}
	if !Plain(name) {
		return Item{}, false
	}
	item := Item{Name: string(name), Mode: mode}
	return item, checkName(item.Name) == nil
}

func parseItem(line []byte) (Item, error) {
	var item Item
	dec := json.NewDecoder(bytes.NewReader(line))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&item); err != nil {
		return Item{}, err
	}
	if _, err := dec.Token(); err != io.EOF {
		return Item{}, errors.New("more than one value")
	}
	if err := checkName(item.Name); err != nil {
		return Item{}, err
	}
	if item.Mode != ModeLink && item.Mode != ModeCopy {
		return Item{}, fmt.Errorf("mode %q of %q is neither %q nor %q", item.Mode, item.Name, ModeLink, ModeCopy)
	}
	return item, nil
}

// checkName refuses a name that does not stay below the directory it is relative to.
func checkName(name string) error {
	if name == "" || len(name) > maxName {
		return fmt.Errorf("a name of %d bytes", len(name))
	}
	if strings.ContainsRune(name, 0) || strings.ContainsRune(name, '\n') {
		return fmt.Errorf("name %q has a zero byte or a new line", name)
	}
	for part := range strings.SplitSeq(name, "/") {
		if part == "" || part == "." || part == ".." {
			return fmt.Errorf("name %q is not a plain relative path", name)
		}
		if len(part) > 255 {
			return fmt.Errorf("name %q is too long for a file system", name)
		}
	}
	return nil
}

// checkFolders refuses a list in which one name is a folder of another.
func checkFolders(items []Item, files map[string]bool) error {
	for _, item := range items {
		for dir, i := item.Name, 0; ; {
			if i = strings.LastIndexByte(dir, '/'); i < 0 {
				break
			}
			if dir = dir[:i]; files[dir] {
				return fmt.Errorf("live list: %q is a file and a folder of %q", dir, item.Name)
			}
		}
	}
	return nil
}

// WriteList writes a live list to a file, replacing it in one go. It refuses what
// ReadList would refuse.
func WriteList(file string, items []Item) error {
	var buf bytes.Buffer
	enc := json.NewEncoder(&buf)
	enc.SetEscapeHTML(false)
	for _, item := range items {
		if item.Mode == ModeLink && Plain(item.Name) {
			buf.Write(itemBegin)
			buf.WriteString(item.Name)
			buf.Write(linkEnd)
			buf.WriteByte('\n')
		} else if err := enc.Encode(item); err != nil {
			return fmt.Errorf("live list: %w", err)
		}
	}
	if _, err := ReadList(bytes.NewReader(buf.Bytes())); err != nil {
		return err
	}
	return writeFile(file, buf.Bytes(), 0o644)
}

func readListFile(file string) ([]Item, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, fmt.Errorf("live list: %w", err)
	}
	defer f.Close()
	return ReadList(f)
}
