package main

import (
	"bytes"
	"encoding/json"
	"io"
	"mime"
	"net/http"
	"strings"
)

// rpcError is a JSON-RPC error; it comes with HTTP 200.
type rpcError struct {
	Code    int    `json:"code"`
	Message string `json:"message"`
}

func (e *rpcError) Error() string { return e.Message }

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

const maxBody = 5 << 20

// rpcServer answers JSON-RPC over HTTP as Harmony does: 415 for another content type than
// application/json, an empty 200 for GET, errors with status 200, batches.
func rpcServer(n *node) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodGet && r.ContentLength == 0 && r.URL.RawQuery == "" {
			return
		}
		if r.Method != http.MethodPost {
			http.Error(w, "method not allowed", http.StatusMethodNotAllowed)
			return
		}
		w.Header().Set("Vary", "Origin")
		if t, _, err := mime.ParseMediaType(r.Header.Get("Content-Type")); err != nil || t != "application/json" {
			http.Error(w, "invalid content type, only application/json is supported", http.StatusUnsupportedMediaType)
			return
		}
		body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
		if err != nil {
			http.Error(w, "content length too large (max 5242880)", http.StatusRequestEntityTooLarge)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		json.NewEncoder(w).Encode(n.answer(body))
	})
}

// answer answers one request or a batch of them.
func (n *node) answer(body []byte) any {
	body = bytes.TrimSpace(body)
	if !bytes.HasPrefix(body, []byte("[")) {
		var one rpcRequest
		if err := json.Unmarshal(body, &one); err != nil {
			return parseError(err)
		}
		return n.reply(one)
	}
	var batch []rpcRequest
	if err := json.Unmarshal(body, &batch); err != nil {
		return parseError(err)
	}
	if len(batch) == 0 {
		return rpcReply{Version: "2.0", ID: json.RawMessage("null"), Error: &rpcError{-32600, "empty batch"}}
	}
	replies := make([]rpcReply, len(batch))
	for i, one := range batch {
		replies[i] = n.reply(one)
	}
	return replies
}

func parseError(err error) rpcReply {
	e := &rpcError{-32700, "parse error"}
	if _, ok := err.(*json.UnmarshalTypeError); ok {
		e = &rpcError{-32600, "invalid request"}
	}
	return rpcReply{Version: "2.0", ID: json.RawMessage("null"), Error: e}
}

func (n *node) reply(r rpcRequest) rpcReply {
	out := rpcReply{Version: "2.0", ID: r.ID}
	if len(out.ID) == 0 {
		out.ID = json.RawMessage("null")
	}
	space, name, _ := strings.Cut(r.Method, "_")
	method, ok := methods[name]
	if !ok || (space != "hmy" && space != "hmyv2" && (space != "eth" || name != "blockNumber")) {
		out.Error = &rpcError{-32601, "the method " + r.Method + " does not exist/is not available"}
		return out
	}
	result, err := method(n, space == "hmyv2", r.Params)
	if err != nil {
		out.Error = err
		return out
	}
	out.Result = result
	return out
}
