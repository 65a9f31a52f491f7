package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

// network is DIR/network.json: what was started and where it answers.
type network struct {
	Nodes  []member `json:"nodes"`
	Tether *process `json:"tether,omitempty"` // the "up" in whose terminal it runs: without it, every node ends
}

// member is one node of a network.
type member struct {
	Name     string   `json:"name"`
	Shard    uint32   `json:"shard"`
	RPC      string   `json:"rpc"` // http://127.0.0.1:PORT
	Port     int      `json:"port"`
	DataDir  string   `json:"datadir"`
	Database string   `json:"database"` // DataDir/harmony_db_SHARD
	Log      string   `json:"log"`
	PID      int      `json:"pid"`  // 0: it does not run
	Args     []string `json:"args"` // of "snapfw-devnet node"
}

func readNetwork(dir string) (network, error) {
	var n network
	err := readJSON(filepath.Join(dir, "network.json"), &n)
	if errors.Is(err, fs.ErrNotExist) {
		return n, fmt.Errorf("there is no network in %s; start one with: snapfw-devnet up --dir %s", dir, dir)
	}
	return n, err
}

// changeNetwork reads, changes and writes network.json, one at a time.
func changeNetwork(dir string, change func(*network) error) error {
	return locked(filepath.Join(dir, "network.lock"), func() error {
		var n network
		if err := readJSON(filepath.Join(dir, "network.json"), &n); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		if err := change(&n); err != nil {
			return err
		}
		return writeJSON(filepath.Join(dir, "network.json"), n)
	})
}

func (n network) find(name string) (member, error) {
	i := slices.IndexFunc(n.Nodes, func(m member) bool { return m.Name == name })
	if i < 0 {
		var names []string
		for _, m := range n.Nodes {
			names = append(names, m.Name)
		}
		return member{}, fmt.Errorf("there is no node %q; there are %s", name, strings.Join(names, ", "))
	}
	return n.Nodes[i], nil
}

// upConfig is what "up" was asked for.
type upConfig struct {
	Dir    string
	Shards int
	Port   int // of the first node; the next has Port+2; 0: free ones
	Detach bool
	Wait   time.Duration
	Args   []string // for every node
}

// up starts a network, or the one that is in the folder already, and stays until stop is closed,
// unless it detaches. It leaves nothing running in either case of failure.
func up(cfg upConfig, out io.Writer, stop <-chan os.Signal) error {
	net, err := prepare(cfg)
	if err != nil {
		return err
	}
	for _, m := range net.Nodes {
		if _, err := startNode(cfg.Dir, m.Name, cfg.Wait); err != nil {
			return errors.Join(err, down(cfg.Dir, 10*time.Second))
		}
		fmt.Fprintf(out, "%s answers at %s, its database is %s\n", m.Name, m.RPC, m.Database)
	}
	fmt.Fprintf(out, "ready: %s\n", filepath.Join(cfg.Dir, "network.json"))
	if cfg.Detach {
		return nil
	}
	fmt.Fprintln(out, "Ctrl-C ends it.")
	<-stop
	return down(cfg.Dir, 30*time.Second)
}

// prepare lays out the folder and writes network.json.
func prepare(cfg upConfig) (network, error) {
	var out network
	if err := os.MkdirAll(cfg.Dir, 0o755); err != nil {
		return out, fmt.Errorf("make the network's folder: %w", err)
	}
	var tether *process
	if !cfg.Detach {
		p, err := nameProcess(os.Getpid())
		if err != nil {
			return out, err
		}
		tether = &p
	}
	err := changeNetwork(cfg.Dir, func(n *network) error {
		for _, m := range n.Nodes {
			if nodeOf(cfg.Dir, m.Name).running() {
				return fmt.Errorf("%s runs already; end it with: snapfw-devnet down --dir %s", m.Name, cfg.Dir)
			}
		}
		if len(n.Nodes) != cfg.Shards || cfg.Port != 0 {
			ports, err := choosePorts(cfg.Shards, cfg.Port)
			if err != nil {
				return err
			}
			n.Nodes = nil
			for shard, port := range ports {
				n.Nodes = append(n.Nodes, newMember(cfg.Dir, shard, port))
			}
		}
		for i := range n.Nodes {
			n.Nodes[i].Args = arguments(n.Nodes, i, cfg.Args)
		}
		n.Tether = tether
		out = *n
		return nil
	})
	return out, err
}

func newMember(dir string, shard, port int) member {
	name := "shard" + strconv.Itoa(shard)
	data := filepath.Join(dir, name, "data")
	return member{
		Name: name, Shard: uint32(shard), Port: port, RPC: "http://127.0.0.1:" + strconv.Itoa(port),
		DataDir: data, Database: filepath.Join(data, "harmony_db_"+strconv.Itoa(shard)),
		Log: filepath.Join(dir, name, "node.log"),
	}
}

func arguments(all []member, i int, more []string) []string {
	m := all[i]
	args := []string{
		"--shard", strconv.Itoa(int(m.Shard)), "--datadir", m.DataDir,
		"--rpc", "127.0.0.1:" + strconv.Itoa(m.Port), "--log", m.Log,
	}
	for _, o := range all {
		args = append(args, "--shard-url", fmt.Sprintf("%d=%s", o.Shard, o.RPC))
	}
	return append(args, more...)
}

// choosePorts finds n ports, free ones where the first is 0. They are all open at once while it
// chooses, so that they differ.
func choosePorts(n, first int) ([]int, error) {
	ports := make([]int, n)
	for i := range ports {
		if first != 0 {
			ports[i] = first + 2*i
			continue
		}
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return nil, fmt.Errorf("find a port: %w", err)
		}
		defer l.Close()
		ports[i] = l.Addr().(*net.TCPAddr).Port
	}
	return ports, nil
}

// down ends every node of a network, by force those that do not end in time, and the "up" that it
// runs in. A second call does nothing.
func down(dir string, timeout time.Duration) error {
	n, err := readNetwork(dir)
	if err != nil {
		return err
	}
	errs := make(chan error)
	for _, m := range n.Nodes {
		go func() { errs <- endNode(dir, m.Name, timeout) }()
	}
	for range n.Nodes {
		err = errors.Join(err, <-errs)
	}
	if n.Tether != nil && n.Tether.PID != os.Getpid() {
		err = errors.Join(err, n.Tether.kill(15))
	}
	return err
}
