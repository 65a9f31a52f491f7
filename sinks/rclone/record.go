package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"syscall"
)

// record remembers, beside the list of uploads, which files rclone said are there. Storage that
// writes in place may hold half a file of the right size when rclone was killed; what is in the
// record is whole. It counts for one destination and until the machine is started anew.
type record struct {
	file *os.File
	done map[string]string // name to sha256
}

type recordLine struct {
	Boot string `json:"boot,omitempty"` // first line
	To   string `json:"to,omitempty"`   // first line
	Name string `json:"name,omitempty"`
	Sum  string `json:"sum,omitempty"`
}

// openRecord reads or begins the record of a list. One that belongs to something else is begun anew.
func openRecord(path, boot, to string) (*record, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_APPEND|syscall.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open the record of what is uploaded: %w", err)
	}
	r := &record{file: f, done: map[string]string{}}
	if boot != "" && r.read(boot, to) {
		// A line that was torn by a kill must not swallow the next one.
		_, err = f.WriteString("\n")
	} else {
		r.done = map[string]string{}
		if err = f.Truncate(0); err == nil {
			err = r.write(recordLine{Boot: boot, To: to})
		}
	}
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("write the record of what is uploaded: %w", err)
	}
	return r, nil
}

// read tells whether the file is the record of this destination, since this boot.
func (r *record) read(boot, to string) bool {
	lines := bufio.NewScanner(r.file)
	lines.Buffer(nil, 64<<10)
	first := true
	for ; lines.Scan(); first = false {
		var l recordLine
		bad := json.Unmarshal(lines.Bytes(), &l) != nil
		if first && (bad || l.Boot != boot || l.To != to) {
			return false
		}
		if !bad && l.Name != "" {
			r.done[l.Name] = l.Sum
		}
	}
	return lines.Err() == nil && !first
}

func (r *record) write(l recordLine) error {
	line, err := json.Marshal(l)
	if err != nil {
		return err
	}
	_, err = r.file.Write(append(line, '\n'))
	return err
}

// has tells whether a file of this sum was uploaded. A nil record remembers nothing.
func (r *record) has(name, sum string) bool {
	if r == nil {
		return false
	}
	s, ok := r.done[name]
	return ok && s == sum
}

func (r *record) add(name, sum string) {
	if r != nil && r.write(recordLine{Name: name, Sum: sum}) == nil {
		r.done[name] = sum
	}
}

func (r *record) close() {
	if r != nil {
		r.file.Close()
	}
}

// bootID is the kernel's, or "" where it has none: then nothing is remembered.
func bootID() string {
	b, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(b))
}
