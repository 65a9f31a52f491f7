package main

import (
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// The replies in testdata/replies came from real nodes of a localnet.
func recorded(t *testing.T, name string) []byte {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("testdata", "replies", name))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// shape writes down which fields there are, by path, and of which type; a string of hex digits with 0x
// is another type than a string.
func shape(t *testing.T, b []byte) []string {
	t.Helper()
	var v any
	if err := json.Unmarshal(b, &v); err != nil {
		t.Fatalf("%v: %s", err, b)
	}
	var lines []string
	var walk func(path string, v any)
	walk = func(path string, v any) {
		switch v := v.(type) {
		case map[string]any:
			lines = append(lines, path+" object")
			for _, k := range slices.Sorted(maps.Keys(v)) {
				walk(path+"."+k, v[k])
			}
		case []any:
			lines = append(lines, path+" array")
			if len(v) > 0 {
				walk(path+"[]", v[0])
			}
		case string:
			kind := "string"
			if strings.HasPrefix(v, "0x") {
				kind = "hex string"
			}
			lines = append(lines, path+" "+kind)
		default:
			lines = append(lines, fmt.Sprintf("%s %T", path, v))
		}
	}
	walk("", v)
	return lines
}

func TestRepliesAreLikeRealOnes(t *testing.T) {
	nodes := map[string]*testNode{
		"shard0":   launch(t, t.TempDir(), "--leader"),
		"shard1":   launch(t, t.TempDir(), "--shard", "1"),
		"explorer": launch(t, t.TempDir(), "--role", "ExplorerNode", "--archival"),
	}
	for _, n := range nodes {
		n.reaches(2)
	}
	for _, file := range []string{
		"shard0.getNodeMetadata.json", "shard1.getNodeMetadata.json", "explorer.getNodeMetadata.json",
		"shard0.latestHeader.json", "shard1.getLatestChainHeaders.json", "shard0.getShardingStructure.json",
	} {
		t.Run(file, func(t *testing.T) {
			part := strings.Split(file, ".")
			for _, space := range []string{"hmy_", "hmyv2_"} { // these are the same in both
				got := post(t, nodes[part[0]].url, `{"jsonrpc":"2.0","id":1,"method":"`+space+part[1]+`","params":[]}`)
				if d := cmp.Diff(shape(t, recorded(t, file)), shape(t, got)); d != "" {
					t.Errorf("%s%s, - real, + ours:\n%s", space, part[1], d)
				}
			}
		})
	}
	got := post(t, nodes["shard0"].url, `[{"jsonrpc":"2.0","id":1,"method":"hmyv2_blockNumber","params":[]},{"jsonrpc":"2.0","id":2,"method":"hmyv2_getEpoch","params":[]}]`)
	if d := cmp.Diff(shape(t, recorded(t, "batch.json")), shape(t, got)); d != "" {
		t.Errorf("batch, - real, + ours:\n%s", d)
	}
}

func TestErrorsAreRealOnes(t *testing.T) {
	n := launch(t, t.TempDir())
	for file, call := range map[string]string{
		"error.bad-param.json":        `{"jsonrpc":"2.0","id":1,"method":"hmyv2_getBlockByNumber","params":["x",{}]}`,
		"error.block-too-high.json":   `{"jsonrpc":"2.0","id":1,"method":"hmyv2_getBlockByNumber","params":[99999999,{}]}`,
		"error.method-not-found.json": `{"jsonrpc":"2.0","id":1,"method":"hmyv2_nope","params":[]}`,
	} {
		got := strings.TrimSpace(string(post(t, n.url, call)))
		var want, have any
		json.Unmarshal(recorded(t, file), &want)
		if err := json.Unmarshal([]byte(got), &have); err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(want, have); d != "" {
			t.Errorf("%s, - real, + ours:\n%s", file, d)
		}
	}
	if got := string(post(t, n.url, "{")); !strings.Contains(got, `"id":null`) || !strings.Contains(got, "-32700") {
		t.Errorf("no JSON: %s", got)
	}

	resp, err := http.Post(n.url, "text/plain", strings.NewReader("{}"))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, _ := io.ReadAll(resp.Body)
	real := strings.Split(string(recorded(t, "error.no-content-type.http.txt")), "\n")
	if want := strings.TrimSpace(real[0]); want != resp.Proto+" "+resp.Status {
		t.Errorf("another content type: %s %s, want %s", resp.Proto, resp.Status, want)
	}
	if !strings.Contains(strings.Join(real, "\n"), strings.TrimSpace(string(body))) || resp.Header.Get("Content-Type") != "text/plain; charset=utf-8" {
		t.Errorf("another content type: %s %q", resp.Header.Get("Content-Type"), body)
	}

	get, err := http.Get(n.url)
	if err != nil {
		t.Fatal(err)
	}
	defer get.Body.Close()
	if body, _ := io.ReadAll(get.Body); get.StatusCode != 200 || len(body) != 0 {
		t.Errorf("GET: %s %q, want an empty 200", get.Status, body)
	}
}

func TestNumbersDifferByVersion(t *testing.T) {
	n := launch(t, t.TempDir())
	n.reaches(1)
	for _, m := range []string{"blockNumber", "getEpoch"} {
		if s := ask[string](t, n.url, "hmy_"+m); !strings.HasPrefix(s, "0x") {
			t.Errorf("hmy_%s is %q", m, s)
		}
		ask[uint64](t, n.url, "hmyv2_"+m)
	}
	ask[string](t, n.url, "eth_blockNumber")
	// A block links to its parent and is the same by number.
	var one, two struct {
		Result struct {
			Hash, ParentHash string
			Number           uint64
		}
	}
	n.reaches(2)
	for i, v := range []any{&one, &two} {
		b := post(t, n.url, fmt.Sprintf(`{"jsonrpc":"2.0","id":1,"method":"hmyv2_getBlockByNumber","params":[%d,{}]}`, i+1))
		if err := json.Unmarshal(b, v); err != nil {
			t.Fatal(err)
		}
	}
	if one.Result.Number != 1 || two.Result.ParentHash != one.Result.Hash || len(one.Result.Hash) != 66 {
		t.Errorf("blocks 1 and 2 are %+v and %+v", one.Result, two.Result)
	}
}

func FuzzAnswer(f *testing.F) {
	for _, s := range []string{`{"id":1,"method":"hmyv2_getBlockByNumber","params":["0x1"]}`, `[{"method":"hmy_blockNumber"}]`, `[]`, `{`, `{"method":1}`, `{"method":"hmyv2_getBlockByNumber","params":[-2]}`, `null`} {
		f.Add([]byte(s))
	}
	dir := f.TempDir()
	c, err := openChain(filepath.Join(dir, "harmony_db_0"), 0, storeOptions{}, 0)
	if err != nil {
		f.Fatal(err)
	}
	defer c.db.Close()
	n := &node{nodeConfig: nodeConfig{DataDir: dir, BlockTime: 1}, chain: c, conduct: newConduct(dir, nil)}
	f.Fuzz(func(t *testing.T, body []byte) {
		b, err := json.Marshal(n.answer(body))
		if err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(string(b), `"jsonrpc":"2.0"`) {
			t.Errorf("%q is answered by %s", body, b)
		}
	})
}
