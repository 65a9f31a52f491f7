package main

import (
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// keep is a node's keeper: the parent that knows how it ended, as an init system would. It
// writes pid.json, waits, and writes exit.json. While the network has a tether, it ends
// the node when that process is gone.
func keep(dir, name string) error {
	// Caught and dropped, not ignored: what is ignored stays so in the child.
	signal.Notify(make(chan os.Signal, 1), unix.SIGHUP, unix.SIGINT, unix.SIGTERM)
	n, err := readNetwork(dir)
	if err != nil {
		return err
	}
	m, err := n.find(name)
	if err != nil {
		return err
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	p := nodeOf(dir, name)
	cmd := exec.Command(self, append([]string{"node"}, m.Args...)...)
	cmd.Stdout, cmd.Stderr = os.Stderr, os.Stderr
	cmd.SysProcAttr = &unix.SysProcAttr{Setsid: true}
	started := time.Now()
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start the node: %w", err)
	}
	now, err := nameProcess(cmd.Process.Pid)
	if err == nil {
		err = writeJSON(p.file("pid.json"), now)
	}
	if err != nil {
		cmd.Process.Kill()
		cmd.Wait()
		return fmt.Errorf("keep the node: %w", err)
	}
	notePID(dir, name, now.PID)
	over := make(chan struct{})
	if n.Tether != nil {
		go tether(*n.Tether, now, over)
	}
	cmd.Wait()
	close(over)
	notePID(dir, name, 0)
	return writeJSON(p.file("exit.json"), ended{process: now, Exit: exitOf(cmd.ProcessState), Asked: p.stopping(now), Started: started, Ended: time.Now()})
}

func exitOf(s *os.ProcessState) int {
	if w, ok := s.Sys().(syscall.WaitStatus); ok && w.Signaled() {
		return 128 + int(w.Signal())
	}
	return s.ExitCode()
}

func notePID(dir, name string, pid int) {
	err := changeNetwork(dir, func(n *network) error {
		for i := range n.Nodes {
			if n.Nodes[i].Name == name {
				n.Nodes[i].PID = pid
			}
		}
		return nil
	})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
	}
}

// tether ends the node once the process that it belongs to is gone.
func tether(owner, node process, over <-chan struct{}) {
	look := time.NewTicker(500 * time.Millisecond)
	defer look.Stop()
	var kill <-chan time.Time
	for {
		select {
		case <-over:
			return
		case <-kill:
			node.kill(unix.SIGKILL)
		case <-look.C:
			if kill == nil && !owner.alive() {
				node.kill(unix.SIGTERM)
				kill = time.After(10 * time.Second)
			}
		}
	}
}
