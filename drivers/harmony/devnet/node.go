package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// Exit codes of a node.
const (
	exitRefused = 1 // it could not start: a port, a lock, a misbehaviour
	exitDamaged = 2 // its database is damaged, or it panicked, as a real node's
)

// lastWords is what Harmony prints when it has shut down.
const lastWords = "Successfully shut down!"

// nodeConfig is what a node is started with.
type nodeConfig struct {
	Shard      uint32
	DataDir    string
	RPC        string
	Network    string
	Log        string
	Role       string
	Leader     bool
	Archival   bool
	Snapdb     bool
	TrieCache  bool
	BlockTime  time.Duration
	StateBytes int
	Look       int
	Store      storeOptions
	ShardURLs  map[string]string
	Behave     map[string]string
}

// node is a stand-in for a harmony process.
type node struct {
	nodeConfig
	started time.Time
	conduct *conduct
	beacon  *chain // the epoch chain in harmony_db_0, where the node's own shard is another one
	chain   *chain
	server  *http.Server
	signals chan os.Signal
	stalled bool // makes no blocks at the moment
}

var logger = slog.New(slog.NewJSONHandler(os.Stdout, nil))

func logf(level, msg string, args ...any) {
	l := slog.LevelInfo
	switch level {
	case "warn":
		l = slog.LevelWarn
	case "error":
		l = slog.LevelError
	}
	logger.Log(context.Background(), l, msg, args...)
}

// runNode is a node's life; it returns the exit code.
func runNode(cfg nodeConfig) int {
	if cfg.Log != "" {
		if err := logTo(cfg.Log); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return exitRefused
		}
	}
	n := &node{nodeConfig: cfg, started: time.Now(), conduct: newConduct(cfg.DataDir, cfg.Behave), signals: make(chan os.Signal, 16)}
	signal.Notify(n.signals, unix.SIGTERM, unix.SIGINT)
	signal.Ignore(unix.SIGHUP)
	if code, ok := n.start(); !ok {
		return code
	}
	return n.live()
}

// logTo has everything that the process says, the trace of a panic too, appended to a file.
func logTo(path string) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return fmt.Errorf("open the log: %w", err)
	}
	defer f.Close()
	for _, fd := range []int{1, 2} {
		if err := unix.Dup3(int(f.Fd()), fd, 0); err != nil {
			return fmt.Errorf("write to the log: %w", err)
		}
	}
	return nil
}

// start opens the databases, harmony_db_0 first as Harmony does, and answers.
func (n *node) start() (code int, ok bool) {
	if err := os.MkdirAll(n.DataDir, 0o755); err != nil {
		logf("error", err.Error())
		return exitRefused, false
	}
	if _, yes := n.conduct.happens("refuse-start"); yes {
		logf("error", "refused to start, as told")
		return exitRefused, false
	}
	logf("info", "starting", "shard", n.Shard, "pid", os.Getpid())
	if n.Shard != 0 {
		if code, ok = n.open(&n.beacon, 0); !ok {
			return code, false
		}
	}
	if code, ok = n.open(&n.chain, n.Shard); !ok {
		n.close()
		return code, false
	}
	if code, ok = n.recover(); !ok {
		n.close()
		return code, false
	}
	if n.Snapdb {
		if err := n.chain.db.Put(keySnapdb, []byte{1}, nil); err != nil {
			n.close()
			logf("error", err.Error())
			return exitRefused, false
		}
	}
	if b, yes := n.conduct.happens("slow-start"); yes {
		select {
		case <-time.After(b.duration(5 * time.Second)):
		case s := <-n.signals:
			n.close()
			logf("info", "ended while it started", "signal", s.String())
			fmt.Println(lastWords)
			return 0, false
		}
	}
	l, err := net.Listen("tcp", n.RPC)
	if err != nil {
		n.close()
		logf("error", "listen: "+err.Error())
		return exitRefused, false
	}
	n.server = &http.Server{Handler: rpcServer(n), ReadHeaderTimeout: 5 * time.Second}
	go n.server.Serve(l)
	head, id := n.chain.last()
	logf("info", "serving", "rpc", l.Addr().String(), "number", head.Number, "hash", id.String())
	return 0, true
}

func (n *node) open(c **chain, shard uint32) (code int, ok bool) {
	dir := filepath.Join(n.DataDir, fmt.Sprintf("harmony_db_%d", shard))
	opened, err := openChain(dir, shard, n.Store, n.Look)
	if err != nil {
		logf("error", "ERROR: cannot open the database", "shard", shard, "error", err.Error())
		if errors.Is(err, errDamaged) {
			return exitDamaged, false
		}
		return exitRefused, false
	}
	*c = opened
	return 0, true
}

func (n *node) close() error {
	var errs []error
	for _, c := range []*chain{n.chain, n.beacon} {
		if c != nil {
			errs = append(errs, c.db.Close())
		}
	}
	return errors.Join(errs...)
}

// recover is what a node without state at each block (--trie-cache) goes through after a stop
// that was not clean: the first start dies with exit 2, the second is back at the epoch's last block.
func (n *node) recover() (code int, ok bool) {
	if !n.TrieCache {
		return 0, true
	}
	running, died := filepath.Join(n.DataDir, "unclean"), filepath.Join(n.DataDir, "died")
	if _, err := os.Stat(running); err == nil {
		if _, err := os.Stat(died); err != nil {
			os.WriteFile(died, nil, 0o644)
			logf("error", "panic: head state is missing, cannot process blocks")
			return exitDamaged, false
		}
		head, _ := n.chain.last()
		if err := n.chain.rewind(head.Number / blocksPerEpoch * blocksPerEpoch); err != nil {
			logf("error", err.Error())
			return exitDamaged, false
		}
		os.Remove(died)
	}
	if err := os.WriteFile(running, nil, 0o644); err != nil {
		logf("error", err.Error())
		return exitRefused, false
	}
	return 0, true
}

// live makes blocks until a signal ends it.
func (n *node) live() int {
	tick := time.NewTicker(n.BlockTime)
	defer tick.Stop()
	var die <-chan time.Time
	if b, yes := n.conduct.happens("die"); yes {
		die = time.After(b.duration(time.Second))
	}
	for {
		select {
		case <-tick.C:
			if err := n.makeBlock(); err != nil {
				logf("error", err.Error())
				return exitDamaged
			}
		case <-die:
			panic("died, as told")
		case s := <-n.signals:
			return n.shutDown(s)
		}
	}
}

func (n *node) makeBlock() error {
	_, _, stalled := n.conduct.lasts("stall", true)
	if stalled != n.stalled {
		n.stalled = stalled
		head, _ := n.chain.last()
		logf("warn", map[bool]string{true: "stalled, as told", false: "goes on"}[stalled], "number", head.Number)
	}
	if stalled {
		return nil
	}
	if err := n.chain.grow(uint64(time.Now().Unix()), n.StateBytes); err != nil {
		return err
	}
	head, id := n.chain.last()
	if head.Number%blocksPerEpoch != 0 {
		return nil
	}
	logf("info", "epoch", "epoch", head.Epoch, "number", head.Number, "hash", id.String())
	if n.beacon == nil {
		return nil
	}
	return n.beacon.grow(head.Time, 256)
}

// shutDown is what SIGTERM and SIGINT do.
func (n *node) shutDown(s os.Signal) int {
	logf("info", "got a signal, gracefully shutting down", "signal", s.String())
	if b, yes := n.conduct.happens("ignore-term"); yes {
		n.ignore(b.duration(time.Hour))
	}
	if _, yes := n.conduct.happens("panic-on-term"); yes {
		panic("bufio: reader.Reset(nil) while readMsgLoop reads (as told)")
	}
	if _, yes := n.conduct.happens("exit-mid-compaction"); yes {
		n.exitMidCompaction()
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	n.server.Shutdown(ctx)
	if err := n.close(); err != nil {
		logf("error", "close: "+err.Error())
		return exitDamaged
	}
	n.settled()
	fmt.Println(lastWords)
	return 0
}

// settled marks the stop as clean, see recover.
func (n *node) settled() { os.Remove(filepath.Join(n.DataDir, "unclean")) }

// ignore goes on making blocks for so long; ten more signals end it, as they do with Harmony.
func (n *node) ignore(d time.Duration) {
	tick := time.NewTicker(n.BlockTime)
	defer tick.Stop()
	over := time.After(d)
	for more := 10; ; {
		select {
		case <-tick.C:
			if err := n.makeBlock(); err != nil {
				logf("error", err.Error())
				os.Exit(exitDamaged)
			}
		case <-n.signals:
			if more--; more == 0 {
				logf("error", "forced to quit")
				os.Exit(exitRefused)
			}
			logf("warn", fmt.Sprintf("Already shutting down, interrupt more to force quit: %d", more))
		case <-over:
			return
		}
	}
}

// exitMidCompaction writes blocks until a compaction has made a table that the manifest does not
// name, and exits 0 in that very moment, with the store open: Harmony does not close its LevelDB,
// so a real node does this whenever a compaction happens to run. It prefers a table whose
// number the next start uses again, which is what destroys a copy that links every table.
func (n *node) exitMidCompaction() {
	quit := func() {
		n.settled()
		fmt.Println(lastWords)
		os.Exit(0)
	}
	var late atomic.Int32
	var compacting atomic.Bool
	n.chain.db.listen(func(c compaction) {
		compacting.Store(c == begun || c == builtLate)
		if c == built || c == builtLate && late.Add(1) > 100 {
			quit()
		}
	})
	piece := max(n.StateBytes, n.Store.WriteBuffer/4)
	for range 4096 {
		if err := n.chain.grow(uint64(time.Now().Unix()), piece); err != nil {
			logf("error", err.Error())
			os.Exit(exitDamaged)
		}
		// A real node's blocks are slower than its compactions.
		for wait := 0; compacting.Load() && wait < 1000; wait++ {
			time.Sleep(time.Millisecond)
		}
	}
	logf("warn", "no compaction ran; exiting with the store open")
	quit()
}
