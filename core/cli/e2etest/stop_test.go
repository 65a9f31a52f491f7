package e2etest

import (
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
)

// TestDirtyStop has nodes panic when they are told to stop: once, and then always.
func TestDirtyStop(t *testing.T) {
	t.Parallel()
	w := newWorld(t, options{calm: true})
	w.ctl("behave", "shard0", "panic-on-term=once")
	w.published()
	if n := count(w.facts(), "plan", "shard0"); n != 2 {
		t.Errorf("%d plans for a node that panicked once", n)
	}
	before, _ := w.pointerOf(1)
	w.ctl("behave", "shard1", "panic-on-term=always")
	e := w.must(1, publish, "stop cleanly")
	if n := count(w.facts(), "plan", "shard1"); n != 3 {
		t.Errorf("%d plans for a node that always panics", n)
	}
	w.nodesUp()
	w.bucketWhole(2)
	if after, _ := w.pointerOf(1); after.Prefix != before.Prefix {
		t.Errorf("a database of a node that panicked is published: %s", after.Prefix)
	}
	if e.run.Nodes[0].Published == "" {
		t.Errorf("shard0 was captured and is not published: %+v", e.run)
	}
	w.ctl("behave", "shard1", "panic-on-term=never")
	w.published()
}

func count(facts []fact, kind, node string) int {
	n := 0
	for _, f := range facts {
		if f.K == kind && f.Node == node {
			n++
		}
	}
	return n
}

// TestRefusesToStart has a node refuse to start: once, which is mended and told, and always, which is
// exit code 10, until somebody mends it and says `snapfw up`.
func TestRefusesToStart(t *testing.T) {
	t.Parallel()
	w := newWorld(t, options{calm: true})
	told := w.chat()
	w.ctl("behave", "shard0", "refuse-start=once")
	w.published()
	if !told("shard0 could not be started at once") || !told("shard0 is up again") {
		t.Error("nobody was told that shard0 refused to start, or that it is up again")
	}

	w.ctl("behave", "shard0", "refuse-start=always")
	w.chain["max_downtime"] = "10s"
	w.must(10, publish, "a node is down", "snapfw up", "ended with exit 1")
	if !told("shard0 is down") {
		t.Error("nobody was told that shard0 is down")
	}
	if w.nodes()[0].Running || !w.nodes()[1].Answers {
		t.Fatalf("%+v", w.nodes())
	}
	if e := w.snapfw("status"); e.exit != 10 {
		t.Errorf("status: exit %d while a node is down", e.exit)
	}
	w.must(10, []string{"up", "shard0"}, "shard0")
	w.bucketWhole(2)

	w.ctl("behave", "shard0", "refuse-start=never")
	w.must(0, []string{"up"})
	w.nodesUp()
	w.chain["max_downtime"] = "3m"
	w.published()
}

// chat configures somebody who is told, and returns what finds words in what he was told.
func (w *world) chat() func(words string) bool {
	var mu sync.Mutex
	var said []string
	server := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(io.LimitReader(r.Body, 1<<20))
		mu.Lock()
		defer mu.Unlock()
		said = append(said, string(body))
	}))
	w.t.Cleanup(server.Close)
	w.config["notify"] = table{"urls": []string{"generic+" + server.URL + "/hook?disabletls=yes"}}
	return func(words string) bool {
		mu.Lock()
		defer mu.Unlock()
		return strings.Contains(strings.Join(said, "\n"), words)
	}
}
