package main

import (
	_ "embed"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"time"
)

// chainConfig is the localnet's, as a real node answers it.
//
//go:embed chainconfig.json
var chainConfig []byte

// methods are Harmony's, without the namespace. v2 tells hmyv2_ from hmy_ and eth_: numbers
// instead of hex strings.
var methods map[string]func(n *node, v2 bool, params []json.RawMessage) (any, *rpcError)

func init() {
	type call = func(n *node, v2 bool, params []json.RawMessage) (any, *rpcError)
	methods = map[string]call{
		"getNodeMetadata":       func(n *node, _ bool, _ []json.RawMessage) (any, *rpcError) { return n.metadata(), nil },
		"latestHeader":          func(n *node, _ bool, _ []json.RawMessage) (any, *rpcError) { return n.latestHeader(), nil },
		"getLatestChainHeaders": func(n *node, _ bool, _ []json.RawMessage) (any, *rpcError) { return n.chainHeaders(), nil },
		"getShardingStructure":  func(n *node, _ bool, _ []json.RawMessage) (any, *rpcError) { return n.shardingStructure(), nil },
		"blockNumber": func(n *node, v2 bool, _ []json.RawMessage) (any, *rpcError) {
			h, _ := n.shown()
			return num(v2, h.Number), nil
		},
		"getEpoch": func(n *node, v2 bool, _ []json.RawMessage) (any, *rpcError) {
			h, _ := n.shown()
			return num(v2, h.Epoch), nil
		},
		"inSync":           func(n *node, _ bool, _ []json.RawMessage) (any, *rpcError) { ok, _, _ := n.inSync(); return ok, nil },
		"syncing":          func(n *node, _ bool, _ []json.RawMessage) (any, *rpcError) { return n.syncing(), nil },
		"getBlockByNumber": (*node).blockByNumber,
	}
}

// num is a number as hmyv2_ has it, or as hmy_ and eth_ do.
func num(v2 bool, n uint64) any {
	if v2 {
		return n
	}
	return "0x" + strconv.FormatUint(n, 16)
}

// shown is the head that the node answers: its own, or an older one while it lags.
func (n *node) shown() (header, hash) {
	head, id := n.chain.last()
	b, _, lags := n.conduct.lasts("lag", false)
	if !lags {
		return head, id
	}
	old, oldID, ok := n.chain.at(head.Number - min(head.Number, b.count(66)))
	if !ok {
		return head, id
	}
	return old, oldID
}

// inSync also returns the number of the head that is shown and of the one that the network has.
func (n *node) inSync() (ok bool, at, target uint64) {
	shown, _ := n.shown()
	own, _ := n.chain.last()
	target = own.Number
	if age := time.Since(time.Unix(int64(own.Time), 0)); own.Number > 0 && age > 2*time.Second {
		target += uint64(age / max(n.BlockTime, time.Millisecond))
	}
	if _, _, lies := n.conduct.lasts("lie-in-sync", false); lies {
		return true, shown.Number, shown.Number
	}
	return target-shown.Number < 2+uint64(2*time.Second/max(n.BlockTime, time.Millisecond)), shown.Number, target
}

func (n *node) syncing() any {
	ok, at, target := n.inSync()
	if ok {
		return false
	}
	return map[string]any{"startingBlock": 0, "currentBlock": at, "highestBlock": target}
}

func (n *node) leads() bool {
	b, since, on := n.conduct.lasts("rotate", false)
	if !on {
		return n.Leader
	}
	turns := time.Since(since) / max(b.duration(time.Second), time.Millisecond)
	return n.Leader == (turns%2 == 1)
}

func (n *node) metadata() any {
	head, _ := n.shown()
	keys := []string{fake("bls", 48)}
	if n.Role == "ExplorerNode" {
		keys = []string{strings.Repeat("0", 96)}
	}
	peers := map[string]any{"shard-0": 4}
	if n.Shard != 0 {
		peers[fmt.Sprintf("shard-%d", n.Shard)] = 1
	}
	m := map[string]any{
		"blskey":               keys,
		"version":              version,
		"network":              n.Network,
		"chain-config":         json.RawMessage(chainConfig),
		"is-leader":            n.leads(),
		"shard-id":             n.Shard,
		"current-block-number": head.Number,
		"current-epoch":        head.Epoch,
		"role":                 n.Role,
		"dns-zone":             "",
		"is-archival":          n.Archival,
		"is-backup":            false,
		"node-unix-start-time": n.started.Unix(),
		"peerid":               "Qm" + fake("peer", 22),
		"consensus": map[string]any{
			"viewId": head.Number, "viewChangeId": head.Number, "mode": "Normal", "phase": "Commit",
			"blocknum": head.Number, "finality": n.BlockTime.Milliseconds(),
		},
		"p2p-connectivity": map[string]any{"total-known-peers": 8, "connected": 7, "not-connected": 1},
		"sync-peers":       peers,
	}
	if n.Shard == 0 {
		m["blocks-per-epoch"] = blocksPerEpoch
	}
	return m
}

const version = "Harmony (C) 2025. harmony, version v8730-v2025.1.1-5-gdc52025a8 (devnet@ 2026-11-21T19:01:38+0000)"

// fake is n bytes of hex that look like a key or a signature, the same for the same seed.
func fake(seed string, n int) string {
	var b []byte
	for i := 0; len(b) < n; i++ {
		h := sum([]byte(seed + strconv.Itoa(i)))
		b = append(b, h[:]...)
	}
	return hex.EncodeToString(b[:n])
}

// leaders are two accounts between which leadership goes to and fro.
var leaders = map[bool]string{true: "one1pdv9lrdwl0rg5vglh4xtyrv3wjk3wsqket7zxy", false: "one1spshr72utf6rwxseaz339j09ed8p6f8ke370zj"}

func (n *node) latestHeader() any {
	h, id := n.shown()
	seed := id.String()
	m := map[string]any{
		"blockHash":        id.String(),
		"blockNumber":      h.Number,
		"shardID":          h.Shard,
		"leader":           leaders[n.leads()],
		"viewID":           h.Number,
		"epoch":            h.Epoch,
		"timestamp":        time.Unix(int64(h.Time), 0).UTC().Format("2006-01-02 15:04:05 -0700 MST"),
		"unixtime":         h.Time,
		"lastCommitSig":    fake("sig"+seed, 96),
		"lastCommitBitmap": "ff01",
		"vrf":              fake("vrf"+seed, 32),
		"vrfProof":         fake("proof"+seed, 96),
	}
	if n.Shard == 0 {
		m["crossLinks"] = []any{}
	}
	return m
}

const emptyRoot = "0x56e81f171bcc55a6ff8345e692c0f86e5b48e01b996cadc001622fb5e363b421"

// chainHeaders answers the beacon chain's header (on another shard that of the epoch chain) and
// the shard's own, in go-ethereum's form.
func (n *node) chainHeaders() any {
	own, id := n.shown()
	beacon, beaconID := own, id
	if n.beacon != nil {
		beacon, beaconID = n.beacon.last()
	}
	return map[string]any{"beacon-chain-header": ethHeader(beacon, beaconID), "shard-chain-header": ethHeader(own, id)}
}

func ethHeader(h header, id hash) any {
	return map[string]any{
		"number": num(false, h.Number), "timestamp": num(false, h.Time),
		"viewID": h.Number, "epoch": h.Epoch, "shardID": h.Shard,
		"hash": id.String(), "parentHash": h.Parent.String(), "stateRoot": h.Root.String(),
		"transactionsRoot": emptyRoot, "receiptsRoot": emptyRoot,
		"miner":      "0x5401dd984b8016b3fe824316019c7a56ad8dc0e8",
		"difficulty": "0x0", "gasLimit": "0x4764858", "gasUsed": "0x0", "extraData": "0x",
		"nonce":      "0x0000000000000000",
		"mixHash":    hash{}.String(),
		"sha3Uncles": hash{}.String(),
		"logsBloom":  "0x" + strings.Repeat("0", 512),
	}
}

// templates are the addresses that a network's nodes answer for every shard.
var templates = map[string]string{"mainnet": "api.s%d.t.hmny.io", "testnet": "api.s%d.b.hmny.io", "partner": "api.s%d.ps.hmny.io"}

func (n *node) shardingStructure() any {
	var all []any
	for shard := range uint32(max(2, len(n.ShardURLs))) {
		http, ws := fmt.Sprintf("http://127.0.0.1:%d", 9500+2*shard), fmt.Sprintf("ws://127.0.0.1:%d", 9800+2*shard)
		if t, ok := templates[n.Network]; ok {
			http, ws = "https://"+fmt.Sprintf(t, shard), "wss://"+fmt.Sprintf(strings.Replace(t, "api.", "ws.", 1), shard)
		}
		if url, ok := n.ShardURLs[strconv.FormatUint(uint64(shard), 10)]; ok {
			http = url
		}
		all = append(all, map[string]any{"current": shard == n.Shard, "shardID": shard, "http": http, "ws": ws})
	}
	return all
}

func (n *node) blockByNumber(v2 bool, params []json.RawMessage) (any, *rpcError) {
	if len(params) < 1 {
		return nil, &rpcError{-32602, "missing value for required argument 0"}
	}
	head, _ := n.shown()
	want, err := blockNumber(params[0], head.Number)
	if err != nil {
		return nil, &rpcError{-32602, "invalid argument 0: " + err.Error()}
	}
	h, id, ok := n.chain.at(want)
	if !ok || want > head.Number {
		return nil, &rpcError{-32000, "requested block number greater than current block number"}
	}
	return map[string]any{
		"number": num(v2, h.Number), "viewID": num(v2, h.Number), "epoch": num(v2, h.Epoch),
		"hash": id.String(), "parentHash": h.Parent.String(), "stateRoot": h.Root.String(),
		"nonce": num(v2, 0), "difficulty": num(v2, 0), "size": num(v2, headerSize),
		"gasLimit": num(v2, 80000000), "gasUsed": num(v2, 0), "timestamp": num(v2, h.Time),
		"mixHash": hash{}.String(), "logsBloom": "0x" + strings.Repeat("0", 512),
		"miner": leaders[true], "extraData": "0x", "vrf": "0x" + fake("vrf"+id.String(), 32),
		"vrfProof": "0x" + fake("proof"+id.String(), 96), "transactionsRoot": emptyRoot, "receiptsRoot": emptyRoot,
		"uncles": []any{}, "transactions": []any{}, "transactionsInEthHash": []any{}, "stakingTransactions": []any{},
	}, nil
}

// blockNumber reads a number, "0x…", a decimal string, "latest" or "earliest".
func blockNumber(raw json.RawMessage, latest uint64) (uint64, error) {
	s := strings.Trim(strings.TrimSpace(string(raw)), `"`)
	switch s {
	case "latest", "pending", "-1":
		return latest, nil
	case "earliest":
		return 0, nil
	}
	n, err := strconv.ParseInt(s, 0, 64)
	if err != nil {
		return 0, err
	}
	if n < 0 {
		return 0, fmt.Errorf("block number %d is negative", n)
	}
	return uint64(n), nil
}
