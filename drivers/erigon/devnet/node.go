package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"time"
)

// nodeFlags are those of a real node that a snapshotter is started with; true takes a value.
var nodeFlags = map[string]bool{
	"no-downloader": false, "prune.mode": true, "persist.receipts": false, "torrent.upload.rate": true, "torrent.port": true, "txpool.disable": false,
	"http": false, "http.addr": true, "http.api": true, "ws": false, "private.api.addr": true, "authrpc.port": true, "authrpc.jwtsecret": true, "externalcl": false,
	"caplin.blocks-archive": false, "caplin.states-archive": false, "caplin.blobs-archive": false, "internalcl": false, "port": true, "config": true,
	"downloader.verify": false, "snap.stop": false, "snap.state.stop": false, "snap.keepblocks": false, "verbosity": true, "log.dir.path": true,
	"log.console.verbosity": true, "metrics": false, "metrics.port": true, "nat": true, "p2p.protocol": true, "batchSize": true, "experimental.concurrent-commitment": false,
	"prune.experimental.include-commitment-history": false, "prune.include-commitment-history": false, "log.console.json": false, "maxpeers": true,
}

// node is a running erigon.
type node struct {
	d      *datadir
	log    *logger
	behave conduct

	mu sync.Mutex
	st chainState
	at time.Time // of the head
}

// node runs until SIGINT or SIGTERM, writes blocks all the time, and builds and merges snapshot files in the background.
func (p *program) node(args []string) error {
	fl := flag.NewFlagSet("erigon", flag.ContinueOnError)
	fl.SetOutput(io.Discard)
	dir := fl.String("datadir", "", "")
	chain := fl.String("chain", "mainnet", "")
	port := fl.Int("http.port", 8545, "")
	tick := fl.Duration("devnet.block-time", 200*time.Millisecond, "how often blocks come")
	many := fl.Uint64("devnet.blocks", 20, "how many of them at once")
	told := fl.String("behave", "", "what to do wrong, beside SNAPFW_ERIGON_BEHAVE and D/behave")
	build := fl.Duration("devnet.build-time", 100*time.Millisecond, "how long each snapshot file takes")
	for name, value := range nodeFlags {
		if value {
			fl.String(name, "", "")
		} else {
			fl.Bool(name, false, "")
		}
	}
	if err := fl.Parse(args); err != nil {
		fmt.Fprintf(p.stdout, "Incorrect Usage: %v\n\n", err)
		return err
	}
	d, err := newDatadir(*dir)
	if err != nil {
		return err
	}
	log := openLog(p.stderr, d.dir, "erigon")
	log.info("Build info", "git_branch", "release/3.4", "git_tag", "v3.4.1")
	if err := d.flock(); err != nil {
		log.error("Erigon startup", "err", err)
		return err
	}
	defer d.unlock()
	behave, err := d.behave(*told)
	if err != nil {
		return err
	}
	n := &node{d: d, log: log, behave: behave, at: time.Now()}
	if err := n.open(*chain); err != nil {
		log.error("Erigon startup", "err", err)
		return err
	}
	l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", *port))
	if err != nil {
		log.error("Could not start RPC api", "err", err)
		return err
	}
	return n.serve(p.ctx, l, *tick, *many, *build)
}

// open reads the chain or begins one, and fails once where that is told.
func (n *node) open(chain string) error {
	if n.behave.is("start-fails-once") {
		mark := n.d.path("chaindata", "failed-once")
		if _, err := os.Stat(mark); errors.Is(err, os.ErrNotExist) {
			if err := os.WriteFile(mark, nil, 0o644); err != nil {
				return err
			}
			return errors.New("mdbx: MDBX_PANIC: told to fail once")
		}
	}
	st, err := n.d.readChain()
	if errors.Is(err, os.ErrNotExist) {
		// It was a new datadir: Erigon would sync now, from nothing.
		st = chainState{Chain: chain, StepSize: 390_625, Frozen: 256, UnitBytes: 512, MaxBytes: 2 << 20, TxPerBlock: 200, From: map[string]uint64{}}
		err = n.d.writeChain(st)
	}
	if err != nil {
		return err
	}
	if st.Chain != chain {
		return fmt.Errorf("already initialized with another chain: have %s, want %s", st.Chain, chain)
	}
	n.st = st
	n.log.info("Initialised chain configuration", "config", chain, "head", st.Head)
	return nil
}

func (n *node) serve(ctx context.Context, l net.Listener, tick time.Duration, many uint64, build time.Duration) error {
	srv := &http.Server{Handler: n, ReadHeaderTimeout: 10 * time.Second}
	go srv.Serve(l)
	defer srv.Close()
	n.log.info("HTTP endpoint opened", "url", l.Addr())
	building, stop := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- n.buildAll(building, build) }()
	ticker := time.NewTicker(tick)
	defer ticker.Stop()
	var end <-chan time.Time // after SIGINT: what the stop takes
	signalled := ctx.Done()
	for {
		select {
		case <-ticker.C:
			if err := n.addBlocks(many); err != nil {
				stop()
				return err
			}
		case <-signalled:
			signalled = nil
			if n.behave.is("stuck-stop") {
				n.log.info("Got interrupt, shutting down...")
				continue
			}
			n.log.info("Got interrupt, shutting down...")
			end = time.After(n.behave.wait("stop-takes"))
			if n.behave.is("killed-midmerge") {
				if err := n.d.writeHalf(n.st); err != nil {
					n.log.error("half a merge", "err", err)
				}
				os.Exit(137)
			}
		case <-end:
			stop()
			if err := <-done; err != nil && !errors.Is(err, context.Canceled) {
				n.log.error("building snapshots", "err", err)
			}
			n.log.info("Exiting Engine...")
			n.log.info("Exiting...")
			return nil
		}
	}
}

// addBlocks makes blocks that are executed at once.
func (n *node) addBlocks(many uint64) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.st.Head += many
	n.st.Executed = n.st.Head
	n.at = time.Now()
	if n.st.Head%1000 < many {
		n.log.info("[4/6 Execution] DONE", "in", "1ms", "block", n.st.Head)
	}
	return n.d.writeChain(n.st)
}

// buildAll builds and merges snapshot files until ctx ends. A stop catches it between two files, or before what was merged is gone.
func (n *node) buildAll(ctx context.Context, each time.Duration) error {
	for {
		n.mu.Lock()
		b := builder{d: n.d, st: n.st, log: n.log, sync: true, slow: each}
		n.mu.Unlock()
		files, _, err := n.d.list()
		if err == nil && len(of(files, blockKinds()[0])) > 0 {
			if err = b.build(ctx, "snapshots", b.st.blockTargets()); err == nil {
				err = b.build(ctx, "snapshots", b.st.stateTargets(files))
			}
		}
		if err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(max(each, 10*time.Millisecond)):
		}
	}
}

// ServeHTTP answers JSON-RPC, single or in a batch.
func (n *node) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodPost {
		w.WriteHeader(http.StatusOK)
		return
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, 5<<20))
	if err != nil {
		http.Error(w, "request entity too large", http.StatusRequestEntityTooLarge)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	var answer any
	if strings.HasPrefix(strings.TrimSpace(string(body)), "[") {
		var many []rpcRequest
		if json.Unmarshal(body, &many) == nil {
			all := make([]rpcReply, len(many))
			for i, q := range many {
				all[i] = n.reply(q)
			}
			answer = all
		}
	} else {
		var one rpcRequest
		if json.Unmarshal(body, &one) == nil {
			answer = n.reply(one)
		}
	}
	if answer == nil {
		answer = rpcReply{Version: "2.0", ID: json.RawMessage("null"), Error: &rpcError{-32700, "parse error"}}
	}
	json.NewEncoder(w).Encode(answer)
}

type rpcRequest struct {
	ID     json.RawMessage   `json:"id"`
	Method string            `json:"method"`
	Params []json.RawMessage `json:"params"`
}

type rpcReply struct {
	Version string          `json:"jsonrpc"`
	ID      json.RawMessage `json:"id"`
	Result  any             `json:"result,omitempty"`
	Error   *rpcError       `json:"error,omitempty"`
}

type rpcError struct {
	Code    int    `json:"code"`
	Message string `json:"message"`
}

func (n *node) reply(q rpcRequest) rpcReply {
	a := rpcReply{Version: "2.0", ID: q.ID}
	n.mu.Lock()
	head, at := n.st.Head, n.at
	n.mu.Unlock()
	switch q.Method {
	case "web3_clientVersion":
		a.Result = clientVersion
	case "eth_blockNumber":
		a.Result = fmt.Sprintf("0x%x", head)
	case "eth_syncing":
		no := json.RawMessage("false")
		a.Result = &no
	case "eth_getBlockByNumber":
		a.Result = map[string]any{
			"number": fmt.Sprintf("0x%x", head), "hash": blockHash(head), "parentHash": blockHash(head - 1), "timestamp": fmt.Sprintf("0x%x", at.Unix()),
			"gasUsed": "0x0", "gasLimit": "0x2255100", "miner": "0x0000000000000000000000000000000000000000", "transactions": []string{},
		}
	default:
		a.Error = &rpcError{-32601, "the method " + q.Method + " does not exist/is not available"}
	}
	return a
}

func blockHash(n uint64) string { return fmt.Sprintf("0x%064x", n*0x9e3779b97f4a7c15) }
