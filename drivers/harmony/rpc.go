package main

import (
	"context"
	"encoding/json"
	"fmt"
	"regexp"
	"strings"

	"github.com/snapfw/snapfw/core"
)

// metadata is what is read of hmyv2_getNodeMetadata. Pointers tell a value that is not there
// from a zero: nothing is taken for shard 0 that did not say so.
type metadata struct {
	Version    string  `json:"version"`
	Network    string  `json:"network"`
	Role       string  `json:"role"`
	Shard      *uint32 `json:"shard-id"`
	IsLeader   *bool   `json:"is-leader"`
	IsArchival *bool   `json:"is-archival"`
}

// header is what is read of hmyv2_latestHeader.
type header struct {
	Hash   string  `json:"blockHash"`
	Number *uint64 `json:"blockNumber"`
	Shard  *uint32 `json:"shardID"`
	Unix   int64   `json:"unixtime"`
}

// shardURL is a line of hmyv2_getShardingStructure. The URLs are the network's, made from a
// template; they say nothing of this node.
type shardURL struct {
	Shard uint32 `json:"shardID"`
	HTTP  string `json:"http"`
}

// answers is what the node said. Each part has its own error.
type answers struct {
	Meta      metadata
	Head      header
	Structure []shardURL
	MetaErr   error
	HeadErr   error
	DNSErr    error
}

// question is the batch that is posted. inSync and syncing are not asked: a node that is behind
// answers that it is in sync while its peers are behind as well.
const question = `[{"jsonrpc":"2.0","id":1,"method":"hmyv2_getNodeMetadata","params":[]},` +
	`{"jsonrpc":"2.0","id":2,"method":"hmyv2_latestHeader","params":[]},` +
	`{"jsonrpc":"2.0","id":3,"method":"hmyv2_getShardingStructure","params":[]}]`

// ask posts the question on the node's own machine. An error is one of reaching the
// machine; a node that does not answer is in answers.MetaErr.
func ask(ctx context.Context, h core.Host, port int) (answers, error) {
	out, err := h.Run(ctx, "@core", "http", "--timeout", "15s", "--body", question, fmt.Sprintf("http://127.0.0.1:%d", port))
	if err != nil {
		return answers{}, fmt.Errorf("ask the node on port %d: %w", port, err)
	}
	if out.Exit != 0 {
		e := fmt.Errorf("port %d: %s", port, lastLine(out.Stderr, "no answer"))
		return answers{MetaErr: e, HeadErr: e, DNSErr: e}, nil
	}
	return readAnswers(out.Stdout), nil
}

// readAnswers reads a batch reply: a list of replies in any order.
func readAnswers(body []byte) answers {
	var a answers
	var batch []struct {
		ID     json.RawMessage `json:"id"`
		Result json.RawMessage `json:"result"`
		Error  *struct {
			Code    int    `json:"code"`
			Message string `json:"message"`
		} `json:"error"`
	}
	if err := json.Unmarshal(body, &batch); err != nil {
		e := fmt.Errorf("it answers %.60q, which is no list of JSON-RPC replies", body)
		return answers{MetaErr: e, HeadErr: e, DNSErr: e}
	}
	a.MetaErr, a.HeadErr, a.DNSErr = errNoReply, errNoReply, errNoReply
	for _, r := range batch {
		var to any
		var e *error
		switch string(r.ID) {
		case "1":
			to, e = &a.Meta, &a.MetaErr
		case "2":
			to, e = &a.Head, &a.HeadErr
		case "3":
			to, e = &a.Structure, &a.DNSErr
		default:
			continue
		}
		switch {
		case r.Error != nil:
			*e = fmt.Errorf("it answers error %d: %.200q", r.Error.Code, r.Error.Message)
		case len(r.Result) == 0 || string(r.Result) == "null":
			*e = errNoReply
		default:
			if *e = json.Unmarshal(r.Result, to); *e != nil {
				*e = fmt.Errorf("read its reply: %w", *e)
			}
		}
	}
	if a.HeadErr == nil && (a.Head.Number == nil || !blockHash.MatchString(a.Head.Hash)) {
		a.HeadErr = fmt.Errorf("its head has no number, or the hash %.80q", a.Head.Hash)
	}
	return a
}

var errNoReply = fmt.Errorf("it gives no result")

var blockHash = regexp.MustCompile(`^0x[0-9a-f]{64}$`)

var versionWord = regexp.MustCompile(`version (v[0-9A-Za-z._+-]{1,80})`)

// shortVersion takes "v8730-v2025.1.1-5-gdc52025a8" out of the sentence that a node says.
func shortVersion(s string) string {
	if m := versionWord.FindStringSubmatch(s); m != nil {
		return m[1]
	}
	return strings.ToValidUTF8(s[:min(len(s), 80)], "")
}

// lastLine returns the last line of an output that is not empty, cut to a sentence's length.
func lastLine(b []byte, none string) string {
	lines := strings.Split(strings.TrimSpace(string(b)), "\n")
	s := strings.TrimSpace(lines[len(lines)-1])
	if s == "" {
		return none
	}
	return strings.ToValidUTF8(s[:min(len(s), 300)], "")
}
