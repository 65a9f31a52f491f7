//go:build linux

package onhost

import (
	"bytes"
	"encoding/json"
	"os"

	"golang.org/x/sys/unix"
)

const (
	maxStdout = 1 << 20
	maxStderr = 64 << 10
	maxLine   = 64 << 10
)

// growing reads the lines of a file that a job's child appends to. The child writes to
// files, not pipes, so that it outlives its supervisor.
type growing struct {
	f    *os.File
	off  int64  // read so far
	gone int64  // given back to the file system so far
	part []byte // of a line that has not ended
}

// read passes on what is new, line by line with the newline; a line longer than maxLine comes in
// pieces. With end, what has no newline counts too.
func (g *growing) read(end bool, each func(line []byte)) (grew bool) {
	buf := make([]byte, 64<<10)
	for {
		n, err := g.f.ReadAt(buf, g.off)
		g.off += int64(n)
		g.part = append(g.part, bytes.ReplaceAll(buf[:n], []byte{0}, nil)...) // holes read as zeros
		grew = grew || n > 0
		g.lines(each)
		if err != nil || n == 0 {
			break
		}
	}
	if end && len(g.part) > 0 {
		each(g.part)
		g.part = nil
	}
	return grew
}

func (g *growing) lines(each func(line []byte)) {
	for {
		i := bytes.IndexByte(g.part, '\n')
		if i < 0 && len(g.part) < maxLine {
			break
		}
		if i < 0 {
			i = len(g.part) - 1
		}
		each(g.part[:i+1])
		g.part = g.part[i+1:]
	}
	g.part = append([]byte(nil), g.part...)
}

// release gives the blocks of what was read back, so that a chatty child does not fill the
// disk. Some is kept for those who follow. Where holes can't be punched it does nothing.
func (g *growing) release() {
	const keep, step = 1 << 20, 4 << 20
	if till := g.off - keep; till-g.gone >= step {
		unix.Fallocate(int(g.f.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, g.gone, till-g.gone)
		g.gone = till
	}
}

// parseProgress tells whether a line is nothing but a Progress.
func parseProgress(line []byte) (Progress, bool) {
	line = bytes.TrimSpace(line)
	if len(line) < 2 || len(line) > 200 || line[0] != '{' {
		return Progress{}, false
	}
	var p struct {
		Done  *int64 `json:"done"`
		Total int64  `json:"total"`
	}
	d := json.NewDecoder(bytes.NewReader(line))
	d.DisallowUnknownFields()
	if d.Decode(&p) != nil || p.Done == nil || d.InputOffset() != int64(len(line)) {
		return Progress{}, false
	}
	return Progress{Done: *p.Done, Total: p.Total}, true
}

// transcript is what a Result keeps of a job's output.
type transcript struct {
	out, err     growing
	stdout, tail []byte
}

// openTranscript opens the files of a job's folder; they are made if they are not there.
func openTranscript(dir string) (*transcript, error) {
	out, err := os.OpenFile(inDir(dir, fileOut), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	errs, err := os.OpenFile(inDir(dir, fileErr), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		out.Close()
		return nil, err
	}
	return &transcript{out: growing{f: out}, err: growing{f: errs}}, nil
}

func (t *transcript) close() {
	t.out.f.Close()
	t.err.f.Close()
}

// read takes in what is new and tells whether there was any.
func (t *transcript) read(end bool) bool {
	a := t.out.read(end, func(line []byte) {
		if _, ok := parseProgress(line); ok {
			return
		}
		t.stdout = append(t.stdout, line[:min(len(line), maxStdout-len(t.stdout))]...)
	})
	b := t.err.read(end, func(line []byte) {
		t.tail = append(t.tail, line...)
		if len(t.tail) > 2*maxStderr {
			t.tail = append([]byte(nil), t.tail[len(t.tail)-maxStderr:]...)
		}
	})
	t.out.release()
	t.err.release()
	return a || b
}

func (t *transcript) fill(r *Result) {
	r.Stdout = string(t.stdout)
	r.Stderr = string(t.tail[max(0, len(t.tail)-maxStderr):])
}
