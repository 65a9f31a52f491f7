//go:build linux

package onhost

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/snapfw/snapfw/core/capture"
)

const usage = `usage: snapfw-host [-root DIR] VERB …

  facts                          what this machine is
  job run                        start or join a job (a Start on standard input)
  job end RUN[/NODE]             end what runs of a run, or of one of its nodes
  job forget RUN                 remove what a run left
  guard arm                      (a Guard on standard input)
  guard renew|disarm|state KEY
  lock take|renew NAME RUN LEASE · lock free NAME RUN
  http URL [--body JSON] [--timeout D]
  cat PATH · put PATH [--mode 0600]
  capture …                      see "snapfw-host capture"

-root is the folder of jobs/, guard/ and lock/; verbs that keep state need it.
`

// call is one invocation of snapfw-host.
type call struct {
	root   string // absolute; "" if it was not given
	args   []string
	stdin  io.Reader
	stdout io.Writer
	stderr io.Writer
}

// exitError ends the program with a code of its own; msg may be empty.
type exitError struct {
	code int
	msg  string
}

func (e *exitError) Error() string { return e.msg }

func usagef(format string, args ...any) error {
	return &exitError{2, fmt.Sprintf(format, args...) + "; see snapfw-host -h"}
}

func refusef(format string, args ...any) error {
	return &exitError{3, fmt.Sprintf(format, args...)}
}

// verbs by their words. Those that keep state need a root.
var verbs = map[string]struct {
	run   func(*call) error
	state bool
}{
	"facts":         {facts, false},
	"job run":       {jobRun, true},
	"job supervise": {jobSupervise, true},
	"job end":       {jobEnd, true},
	"job forget":    {jobForget, true},
	"guard arm":     {guardArm, true},
	"guard renew":   {guardRenew, true},
	"guard disarm":  {guardDisarm, true},
	"guard state":   {guardStateVerb, true},
	"guard watch":   {guardWatch, true},
	"guard reboot":  {guardWatch, true},
	"lock take":     {lockTake, true},
	"lock renew":    {lockRenew, true},
	"lock free":     {lockFree, true},
	"http":          {httpVerb, false},
	"cat":           {cat, false},
	"put":           {put, false},
	"exec":          {execShim, false},
}

// Main runs snapfw-host with its arguments (without the program's name) and returns the
// exit code: 0 done, 1 failed, 2 wrong usage, 3 refused; "capture" and "http" have their own.
func Main(args []string) int {
	c := &call{stdin: os.Stdin, stdout: os.Stdout, stderr: os.Stderr}
	err := c.dispatch(args)
	if err == nil {
		return 0
	}
	code := 1
	var ex *exitError
	if errors.As(err, &ex) {
		code = ex.code
	}
	if msg := err.Error(); msg != "" {
		fmt.Fprintln(c.stderr, "snapfw-host: "+msg)
	}
	return code
}

func (c *call) dispatch(args []string) error {
	if len(args) >= 2 && (args[0] == "-root" || args[0] == "--root") {
		root, err := filepath.Abs(args[1])
		if err != nil {
			return fmt.Errorf("root: %w", err)
		}
		c.root, args = root, args[2:]
	}
	if len(args) == 0 {
		return usagef("no verb")
	}
	switch args[0] {
	case "-h", "--help", "help":
		io.WriteString(c.stdout, usage)
		return nil
	case "capture":
		if code := capture.Main(args[1:], c.stdin, c.stdout, c.stderr); code != 0 {
			return &exitError{code: code}
		}
		return nil
	}
	name, rest := args[0], args[1:]
	v, ok := verbs[name]
	if !ok && len(args) > 1 {
		name, rest = args[0]+" "+args[1], args[2:]
		v, ok = verbs[name]
	}
	if !ok {
		return usagef("no verb %q", strings.Join(args[:min(2, len(args))], " "))
	}
	if v.state && c.root == "" {
		return usagef("%s keeps state and needs -root", name)
	}
	c.args = rest
	return v.run(c)
}

// want checks the number of the verb's arguments.
func (c *call) want(names ...string) error {
	if len(c.args) != len(names) {
		return usagef("want %d arguments %v, got %d", len(names), names, len(c.args))
	}
	return nil
}

// print writes one value as a line of JSON.
func (c *call) print(v any) error {
	if err := json.NewEncoder(c.stdout).Encode(v); err != nil {
		return fmt.Errorf("write answer: %w", err)
	}
	return nil
}

// maxInput limits what is read as one JSON value from standard input.
const maxInput = 16 << 20

// read decodes the one JSON value on standard input.
func (c *call) read(v any) error {
	d := json.NewDecoder(io.LimitReader(c.stdin, maxInput))
	d.DisallowUnknownFields()
	if err := d.Decode(v); err != nil {
		return fmt.Errorf("read standard input: %w", err)
	}
	return nil
}
