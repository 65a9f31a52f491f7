package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// place is a node's folder in a network:
//
//	data/       its databases, behave.json, behaved.json
//	node.log    what it says
//	pid.json    the process that is the node, written by its keeper
//	stop.json   the process that was told to end
//	exit.json   how the last process ended, written by its keeper
type place struct{ dir, name string }

func nodeOf(dir, name string) place { return place{dir, name} }

func (p place) file(name string) string { return filepath.Join(p.dir, p.name, name) }

// ended is exit.json.
type ended struct {
	process
	Exit    int       `json:"exit"` // 128+n: by signal n
	Asked   bool      `json:"asked"`
	Started time.Time `json:"started"`
	Ended   time.Time `json:"ended"`
}

func (p place) process() process {
	var now process
	if err := readJSON(p.file("pid.json"), &now); err != nil {
		return process{}
	}
	return now
}

func (p place) running() bool { return p.process().alive() }

// stopping tells whether that process was told to end.
func (p place) stopping(now process) bool {
	var told process
	return readJSON(p.file("stop.json"), &told) == nil && told == now
}

// startNode starts a node, detached, and waits until it answers; with wait 0 it
// returns as soon as the process is there. It does nothing when the node runs already, and waits for the old
// process first when that was told to end. A node that dies before it answers is an error.
func startNode(dir, name string, wait time.Duration) (already bool, err error) {
	n, err := readNetwork(dir)
	if err != nil {
		return false, err
	}
	m, err := n.find(name)
	if err != nil {
		return false, err
	}
	p := nodeOf(dir, name)
	if err := os.MkdirAll(m.DataDir, 0o755); err != nil {
		return false, fmt.Errorf("start %s: %w", name, err)
	}
	deadline := time.Now().Add(max(wait, 30*time.Second))
	err = locked(p.file("ctl.lock"), func() error {
		for p.running() && p.stopping(p.process()) {
			if time.Now().After(deadline) {
				return fmt.Errorf("start %s: the process %d was told to end and has not", name, p.process().PID)
			}
			time.Sleep(20 * time.Millisecond)
		}
		if already = p.running(); already {
			return nil
		}
		return p.launch()
	})
	if err != nil || wait == 0 {
		return already, err
	}
	return already, p.answers(m, p.process(), time.Now().Add(wait))
}

// launch starts the keeper, in a session of its own, and waits until that has written pid.json.
func (p place) launch() error {
	self, err := os.Executable()
	if err != nil {
		return fmt.Errorf("start %s: %w", p.name, err)
	}
	if err := os.Remove(p.file("pid.json")); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("start %s: %w", p.name, err)
	}
	cmd := exec.Command(self, "keep", "--dir", p.dir, p.name)
	cmd.SysProcAttr = &unix.SysProcAttr{Setsid: true}
	if cmd.Stderr, err = os.OpenFile(p.file("node.log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644); err != nil {
		return fmt.Errorf("start %s: %w", p.name, err)
	}
	defer cmd.Stderr.(*os.File).Close()
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start %s: %w", p.name, err)
	}
	gone := make(chan error, 1)
	go func() { gone <- cmd.Wait() }()
	for range 1500 {
		if p.process().PID != 0 {
			return nil
		}
		select {
		case err := <-gone:
			if p.process().PID != 0 {
				return nil
			}
			return fmt.Errorf("start %s: its keeper ended (%v); see %s", p.name, err, p.file("node.log"))
		case <-time.After(20 * time.Millisecond):
		}
	}
	return fmt.Errorf("start %s: no process after 30 s; see %s", p.name, p.file("node.log"))
}

// answers waits until a node answers its RPC.
func (p place) answers(m member, now process, deadline time.Time) error {
	for {
		if _, err := height(m.RPC); err == nil {
			return nil
		}
		if !now.alive() {
			e, _ := p.end(now, time.Now().Add(2*time.Second))
			return fmt.Errorf("%s ended with exit %d before it answered; see %s", p.name, e.Exit, m.Log)
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("%s runs (process %d) and does not answer at %s; see %s", p.name, now.PID, m.RPC, m.Log)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// height asks a node for its head.
func height(url string) (uint64, error) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, url, bytes.NewReader([]byte(`{"jsonrpc":"2.0","id":1,"method":"hmyv2_blockNumber","params":[]}`)))
	if err != nil {
		return 0, err
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	var reply struct{ Result uint64 }
	return reply.Result, json.NewDecoder(resp.Body).Decode(&reply)
}

// stopNode sends a signal and waits until the process is gone; it returns how it ended. A node that does not
// run is no error: the last end is returned.
func stopNode(dir, name string, signal unix.Signal, timeout time.Duration) (ended, error) {
	p := nodeOf(dir, name)
	if n, err := readNetwork(dir); err != nil {
		return ended{}, err
	} else if _, err := n.find(name); err != nil {
		return ended{}, err
	}
	var now process
	if err := locked(p.file("ctl.lock"), func() error {
		if now = p.process(); !now.alive() {
			return nil
		}
		if err := writeJSON(p.file("stop.json"), now); err != nil {
			return err
		}
		return now.kill(signal)
	}); err != nil {
		return ended{}, fmt.Errorf("stop %s: %w", name, err)
	}
	deadline := time.Now().Add(timeout)
	for now.alive() {
		if time.Now().After(deadline) {
			return ended{}, fmt.Errorf("stop %s: process %d still runs after %s", name, now.PID, timeout)
		}
		time.Sleep(10 * time.Millisecond)
	}
	return p.end(now, time.Now().Add(5*time.Second))
}

// end waits for exit.json of a process that is gone. Exit is -1 where nobody knows.
func (p place) end(now process, deadline time.Time) (ended, error) {
	for {
		var e ended
		err := readJSON(p.file("exit.json"), &e)
		if err == nil && (now.PID == 0 || e.process == now) {
			return e, nil
		}
		if now.PID == 0 || time.Now().After(deadline) {
			return ended{process: now, Exit: -1}, nil
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// endNode stops a node, with SIGKILL if it does not listen.
func endNode(dir, name string, timeout time.Duration) error {
	if _, err := stopNode(dir, name, unix.SIGTERM, timeout); err == nil {
		return nil
	}
	_, err := stopNode(dir, name, unix.SIGKILL, 10*time.Second)
	return err
}

// state is what "ctl status" prints.
type state struct {
	Name    string  `json:"name"`
	Running bool    `json:"running"`
	PID     int     `json:"pid,omitempty"`
	Answers bool    `json:"answers"`
	Height  uint64  `json:"height,omitempty"`
	Last    *ended  `json:"last,omitempty"` // how the process before this one ended
	Member  *member `json:"-"`
}

func nodeState(dir string, m member) state {
	p := nodeOf(dir, m.Name)
	s := state{Name: m.Name, Running: p.running(), Member: &m}
	if s.Running {
		s.PID = p.process().PID
		h, err := height(m.RPC)
		s.Answers, s.Height = err == nil, h
	}
	var e ended
	if readJSON(p.file("exit.json"), &e) == nil {
		s.Last = &e
	}
	return s
}
