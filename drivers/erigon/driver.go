package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"path"
	"strconv"
	"strings"
	"time"

	"github.com/snapfw/snapfw/core"
)

// driver is the core.Chain, and a core.Catalog and core.Judge of the chain's TOML.
type driver struct {
	catalog
	judge
}

const maxHeadAge = 10 * time.Minute

func (driver) Describe(context.Context) (core.Description, error) {
	return core.Description{
		Name: "erigon", Kind: core.KindChain, Version: buildVersion, Schema: schema(),
		Never: never, Intents: intents(),
	}, nil
}

// Nodes names the one node: a snapshotter is one machine a chain.
func (driver) Nodes(_ context.Context, config json.RawMessage) ([]core.Node, error) {
	s, err := readChainSettings(config)
	if err != nil {
		return nil, err
	}
	spec, err := json.Marshal(s)
	if err != nil {
		return nil, err
	}
	n := core.Node{Name: "snapshotter", Spec: spec}
	if !s.Local {
		n.Addr = core.Addr{User: s.User, Host: s.IP, Port: s.Port}
	}
	return []core.Node{n}, nil
}

// Status asks the node's JSON-RPC on its own machine: its version, its head, and whether it still catches up.
// While it downloads, Erigon's eth_syncing is an object with both heights 0.
func (driver) Status(ctx context.Context, n core.Node, h core.Host) (core.Status, error) {
	var s settings
	if err := json.Unmarshal(n.Spec, &s); err != nil {
		return core.Status{}, fmt.Errorf("read the node's spec: %w", err)
	}
	var st core.Status
	have, err := h.Run(ctx, "test", "-d", path.Join(s.Datadir, "snapshots"))
	if err != nil {
		return st, err
	}
	st.Checks = append(st.Checks, core.Check{
		Name: "datadir", OK: have.Exit == 0, Safety: true, Want: path.Join(s.Datadir, "snapshots") + " is a folder", Got: thereOrNot(have.Exit == 0),
		Fix: "name Erigon's datadir; Erigon would make a new one",
	})
	url := "http://127.0.0.1:" + strconv.Itoa(s.RPCPort)
	const ask = `[{"jsonrpc":"2.0","id":1,"method":"web3_clientVersion","params":[]},{"jsonrpc":"2.0","id":2,"method":"eth_getBlockByNumber","params":["latest",false]},{"jsonrpc":"2.0","id":3,"method":"eth_syncing","params":[]}]`
	out, err := h.Run(ctx, "@core", "http", url, "--body", ask, "--timeout", "15s")
	if err != nil {
		return st, err
	}
	if out.Exit != 0 {
		st.Checks = append(st.Checks, core.Check{
			Name: "answers", Safety: true, Want: "an answer at " + url, Got: strings.TrimSpace(string(out.Stderr)), Fix: "see whether Erigon runs and serves --http there",
		})
		return st, nil
	}
	if err := readAnswers(&st, out.Stdout); err != nil {
		return st, fmt.Errorf("read what %s answers: %w", url, err)
	}
	return st, nil
}

func thereOrNot(ok bool) string {
	if ok {
		return "it is there"
	}
	return "it is not there"
}

// readAnswers reads the three answers.
func readAnswers(st *core.Status, body []byte) error {
	var answers []struct {
		ID     int             `json:"id"`
		Result json.RawMessage `json:"result"`
		Error  *struct {
			Message string `json:"message"`
		} `json:"error"`
	}
	if err := json.Unmarshal(body, &answers); err != nil {
		return err
	}
	var head struct {
		Number    string `json:"number"`
		Hash      string `json:"hash"`
		Timestamp string `json:"timestamp"`
	}
	syncing := "unknown"
	for _, a := range answers {
		if a.Error != nil {
			return errors.New(a.Error.Message)
		}
		var err error
		switch a.ID {
		case 1:
			err = json.Unmarshal(a.Result, &st.Version)
		case 2:
			err = json.Unmarshal(a.Result, &head)
		case 3:
			syncing = strings.TrimSpace(string(a.Result))
		}
		if err != nil {
			return err
		}
	}
	number, err := strconv.ParseUint(strings.TrimPrefix(head.Number, "0x"), 16, 64)
	if err != nil {
		return fmt.Errorf("the head's number: %w", err)
	}
	at, err := strconv.ParseInt(strings.TrimPrefix(head.Timestamp, "0x"), 16, 64)
	if err != nil {
		return fmt.Errorf("the head's timestamp: %w", err)
	}
	st.Up, st.Height, st.Hash, st.HeadTime = true, number, head.Hash, time.Unix(at, 0).UTC()
	age := time.Since(st.HeadTime).Round(time.Second)
	st.Checks = append(st.Checks,
		core.Check{Name: "in sync", OK: syncing == "false", Want: "eth_syncing is false", Got: clipped(syncing, 120), Fix: "wait until it has caught up"},
		core.Check{Name: "age of the head", OK: age <= maxHeadAge, Want: "at most " + maxHeadAge.String(), Got: age.String(), Fix: "see what its stages are at"})
	return nil
}

func clipped(s string, n int) string { return s[:min(len(s), n)] }
