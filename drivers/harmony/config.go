package main

import (
	"encoding/json"
	"fmt"
	"path"
	"regexp"
	"sort"
	"strings"
	"time"

	"github.com/snapfw/snapfw/core"
)

// beacon is the shard whose blocks the others are judged by: a node of any shard opens
// the beacon chain's database first, so a set without it is of no use to anybody.
const beacon = 0

// config is the chain's own part of the configuration, beside core's keys.
type config struct {
	Machines  []machine
	Condition condition
}

// machine is one node and where it runs.
type machine struct {
	Shard       int
	Local       bool   // it runs on this machine: no ssh
	IP          string // else where it runs: an address or a name
	User        string
	Port        int    // of sshd
	DBDirectory string // holds harmony_db_<shard>
	Owner       string // of the data, where the login user can't see it
	RPCPort     int
	Run         launch
	StopTimeout time.Duration
}

// launch is how a node is stopped and started: exactly one of the three.
type launch struct {
	Service   string   `json:",omitempty"` // a systemd unit
	Container string   `json:",omitempty"` // a Docker container
	Stop      []string `json:",omitempty"` // commands of the operator's own, with
	Start     []string `json:",omitempty"` //
	Log       string   `json:",omitempty"` // the log in which the node says that it stopped
}

// condition is what has to be true of every node before and after a snapshot.
type condition struct {
	Force      bool
	MaxAge     time.Duration // of the head
	Role       string        // "" is any
	Network    string        // "" is any
	IsLeader   bool
	IsArchival bool
	IsSnapDB   *bool // nil is either
}

// spec is a Node's Spec: all that Status and Plan need of the configuration.
type spec struct {
	Shard       int
	DBDirectory string
	Owner       string `json:",omitempty"`
	RPCPort     int
	Run         launch
	StopTimeout time.Duration
	Condition   condition
}

// database is the folder of the node's database below its db_directory.
//
// Only harmony_db_<shard> belongs to a snapshot, though nodes of shard 1 and up also hold
// harmony_db_0. That one is an epoch chain of a few kilobytes there, not the beacon chain;
// the tool that this replaces published one folder a shard, and consumers fetch
// harmony_db_0 and harmony_db_<shard> each from its own shard's series.
func (s spec) database() string {
	return path.Join(s.DBDirectory, fmt.Sprintf("harmony_db_%d", s.Shard))
}

var unitName = regexp.MustCompile(`^[A-Za-z0-9:_.@\\-]+$`)
var containerName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_.-]*$`)
var userName = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_.-]*\$?$`)

// readConfig decodes and checks the chain's part of the configuration. Its error is
// core.FieldErrors and names everything that is wrong.
func readConfig(raw json.RawMessage) (config, error) {
	var c config
	c.Condition.MaxAge = 2 * time.Minute
	r := &reader{}
	r.object("", raw, fields{
		"machines": r.list(func(p string, v json.RawMessage) {
			c.Machines = append(c.Machines, readMachine(r, p, v))
		}),
		"condition": func(p string, v json.RawMessage) { readCondition(r, p, v, &c.Condition) },
	}, "machines")
	checkShards(r, c.Machines)
	return c, r.errs.Err()
}

func readMachine(r *reader, p string, raw json.RawMessage) machine {
	m := machine{Port: 22, RPCPort: 9500, StopTimeout: 5 * time.Minute, Shard: -1}
	var service, container string
	commands := false
	seen := r.object(p, raw, fields{
		"shard":        r.integer(&m.Shard, 0, 1<<20),
		"local":        r.boolean(&m.Local),
		"ip":           r.text(&m.IP),
		"user":         r.text(&m.User),
		"port":         r.integer(&m.Port, 1, 65535),
		"db_directory": r.text(&m.DBDirectory),
		"owner":        r.text(&m.Owner),
		"rpc_port":     r.integer(&m.RPCPort, 1, 65535),
		"service":      r.text(&service),
		"container":    r.text(&container),
		"stop_timeout": r.duration(&m.StopTimeout, time.Second),
		"commands": func(p string, v json.RawMessage) {
			commands = true
			readCommands(r, p, v, &m.Run)
		},
	}, "shard", "db_directory")
	if seen == nil {
		return m
	}
	checkWhere(r, p, m, seen)
	checkLaunch(r, p, &m, service, container, commands)
	return m
}

func readCommands(r *reader, p string, raw json.RawMessage, run *launch) {
	words := func(to *[]string) func(string, json.RawMessage) {
		return r.list(func(p string, v json.RawMessage) {
			var s string
			r.text(&s)(p, v)
			*to = append(*to, s)
		})
	}
	if r.object(p, raw, fields{"stop": words(&run.Stop), "start": words(&run.Start), "log": r.text(&run.Log)},
		"stop", "start", "log") == nil {
		return
	}
	for _, c := range []struct {
		name string
		argv []string
	}{{"stop", run.Stop}, {"start", run.Start}} {
		if len(c.argv) > 0 && !path.IsAbs(c.argv[0]) {
			r.add(p+"."+c.name+"[0]", "%q is no absolute path: write the program as /usr/bin/…", c.argv[0])
		}
		if len(c.argv) == 0 {
			r.add(p+"."+c.name, "is empty: write a program and its arguments, as a list")
		}
	}
	if run.Log != "" && !path.IsAbs(run.Log) {
		r.add(p+".log", "%q is no absolute path", run.Log)
	}
}

// checkWhere says what is wrong with how a machine is reached and where its data lies.
func checkWhere(r *reader, p string, m machine, seen map[string]bool) {
	if m.Local {
		for _, k := range []string{"ip", "user", "port"} {
			if seen[k] {
				r.add(p+"."+k, "means nothing on this machine: take it or `local: true` away")
			}
		}
	} else if m.IP == "" {
		r.add(p+".ip", "is missing: write the machine's address, or `local: true` for this machine")
	} else if strings.HasPrefix(m.IP, "-") || strings.ContainsAny(m.IP, " \t\n/@") {
		r.add(p+".ip", "%q is neither an address nor the name of a machine", m.IP)
	}
	if m.User != "" && !userName.MatchString(m.User) {
		r.add(p+".user", "%q is no name of a user", m.User)
	}
	if m.Owner != "" && !userName.MatchString(m.Owner) {
		r.add(p+".owner", "%q is no name of a user", m.Owner)
	}
	home := m.DBDirectory == "~" || strings.HasPrefix(m.DBDirectory, "~/")
	switch {
	case !seen["db_directory"]:
	case !path.IsAbs(m.DBDirectory) && !home:
		r.add(p+".db_directory", "%q is no absolute path: write /… or ~/…", m.DBDirectory)
	case home && m.Owner != "":
		r.add(p+".db_directory", "%q can't begin with ~ where owner is set: write an absolute path", m.DBDirectory)
	case strings.ContainsAny(m.DBDirectory, "\x00\n"):
		r.add(p+".db_directory", "%q holds a line break", m.DBDirectory)
	}
}

// checkLaunch settles how the node is stopped: as a service called harmony by default.
func checkLaunch(r *reader, p string, m *machine, service, container string, commands bool) {
	var ways []string
	if service != "" {
		ways = append(ways, "service")
	}
	if container != "" {
		ways = append(ways, "container")
	}
	if commands {
		ways = append(ways, "commands")
	}
	if len(ways) > 1 {
		r.add(p+"."+ways[1], "can't stand beside %s: a node is stopped in one way", ways[0])
		return
	}
	if len(ways) == 0 {
		service = "harmony"
	}
	if service != "" {
		if !unitName.MatchString(service) || strings.HasPrefix(service, "-") {
			r.add(p+".service", "%q is no name of a systemd unit", service)
		}
		if !strings.Contains(service, ".") {
			service += ".service"
		}
	}
	if container != "" && !containerName.MatchString(container) {
		r.add(p+".container", "%q is no name of a container", container)
	}
	m.Run.Service, m.Run.Container = service, container
}

func readCondition(r *reader, p string, raw json.RawMessage, c *condition) {
	seconds := int(c.MaxAge / time.Second)
	snapdb := false
	seen := r.object(p, raw, fields{
		"force":                        r.flag(&c.Force),
		"max_seconds_since_last_block": r.integer(&seconds, 1, 7*24*3600),
		"role":                         r.text(&c.Role),
		"network":                      r.text(&c.Network),
		"is_leader":                    r.flag(&c.IsLeader),
		"is_archival":                  r.flag(&c.IsArchival),
		"is_snapdb":                    r.flag(&snapdb),
	})
	c.MaxAge = time.Duration(seconds) * time.Second
	if seen["is_snapdb"] {
		c.IsSnapDB = &snapdb
	}
}

// checkShards wants one machine a shard, and the beacon shard among them.
func checkShards(r *reader, machines []machine) {
	first := map[int]int{}
	for i, m := range machines {
		if m.Shard < 0 {
			continue
		}
		if j, ok := first[m.Shard]; ok {
			r.add(fmt.Sprintf("machines[%d].shard", i), "%d is already used by machines[%d]", m.Shard, j)
			continue
		}
		first[m.Shard] = i
	}
	if _, ok := first[beacon]; !ok && len(r.errs) == 0 {
		r.add("machines", "none is of shard %d: the beacon shard has to be among them", beacon)
	}
}

// nodes names the machines in waves: the beacon shard alone in the first, so that what the
// others hold never points beyond the beacon chain of the same set.
func (c config) nodes() ([]core.Node, error) {
	var out []core.Node
	for _, m := range c.Machines {
		raw, err := json.Marshal(spec{
			Shard: m.Shard, DBDirectory: m.DBDirectory, Owner: m.Owner, RPCPort: m.RPCPort,
			Run: m.Run, StopTimeout: m.StopTimeout, Condition: c.Condition,
		})
		if err != nil {
			return nil, fmt.Errorf("write the spec of shard %d: %w", m.Shard, err)
		}
		n := core.Node{Name: fmt.Sprintf("shard%d", m.Shard), Wave: 1, Spec: raw}
		if m.Shard == beacon {
			n.Wave = 0
		}
		if !m.Local {
			n.Addr = core.Addr{User: m.User, Host: m.IP, Port: m.Port}
		}
		out = append(out, n)
	}
	sort.Slice(out, func(i, j int) bool {
		if out[i].Wave != out[j].Wave {
			return out[i].Wave < out[j].Wave
		}
		return len(out[i].Name) < len(out[j].Name) || len(out[i].Name) == len(out[j].Name) && out[i].Name < out[j].Name
	})
	return out, nil
}

// readSpec reads back what nodes wrote.
func readSpec(n core.Node) (spec, error) {
	var s spec
	if err := json.Unmarshal(n.Spec, &s); err != nil {
		return s, fmt.Errorf("read the spec of %s: %w", n.Name, err)
	}
	return s, nil
}
