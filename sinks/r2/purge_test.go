package main

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/snapfw/snapfw/core"
	"github.com/snapfw/snapfw/sinks/r2/r2test"
)

func TestPurge(t *testing.T) {
	t.Parallel()
	s := r2test.New(t)
	keys := []string{"mainnet.toml"}
	for i := range 120 {
		key := fmt.Sprintf("domain/v2.0-accounts.%d-%d.kv", i, i+1)
		keys = append(keys, key, key+".torrent")
	}
	s.Purger.Slow(150)
	if err := newSink().Purge(t.Context(), s.Target(), keys...); err != nil {
		t.Fatal(err)
	}
	urls := s.Purger.Purged()
	// One address of the list, two of each key with a folder, in five requests, some of which had to wait.
	if len(urls) != 481 || s.Purger.Refused() == 0 || len(s.Purger.Broken()) > 0 {
		t.Errorf("%d addresses, %d times refused, %v", len(urls), s.Purger.Refused(), s.Purger.Broken())
	}
	for _, want := range []string{"/mainnet.toml", "/domain/v2.0-accounts.0-1.kv", "/domain%2Fv2.0-accounts.119-120.kv", "/domain%2Fv2.0-accounts.7-8.kv.torrent"} {
		if !slices.Contains(urls, s.PublicURL+want) {
			t.Errorf("%s is not purged", want)
		}
	}
	target := s.Target()
	target.Secrets["api_token"] = "wrong-token-value"
	if err := newSink().Purge(t.Context(), target, "x"); err == nil || strings.Contains(err.Error(), "wrong-token-value") || !strings.Contains(err.Error(), "Cache Purge") {
		t.Errorf("a token that is refused: %v", err)
	}
	if err := newSink().Purge(t.Context(), core.Target{Name: "b", Config: []byte(`{` + good + `}`)}, "x"); !errors.Is(err, core.ErrUnsupported) {
		t.Errorf("without a zone: %v", err)
	}
}

// In whichever way a node asks for a key, a purge makes the cache forget it.
func TestPurgeForgets(t *testing.T) {
	t.Parallel()
	s := r2test.New(t)
	for _, key := range []string{"mainnet.toml", "domain/v2.0-accounts.0-1.kv", "domain/v2.0-accounts.0-1.kv.torrent", "caplin/a b+ü%&=(1).seg"} {
		// As nodes ask: the slash as it is, or as %2F (https://github.com/erigontech/erigon/issues/19883).
		raw := "/" + r2test.Escape(key)
		ways := []string{raw, "/" + strings.ReplaceAll(raw[1:], "/", "%2F")}
		for _, way := range ways {
			ways = append(ways, strings.ReplaceAll(way, "+", "%2B"))
		}
		read := func(want string) {
			t.Helper()
			for _, way := range ways {
				if r, err := s.ReadAddress(t.Context(), way); err != nil || string(r.Body) != want {
					t.Errorf("%s: %q, want %q: %v", way, r.Body, want, err)
				}
			}
		}
		s.Put(t, key, []byte("old"), nil)
		read("old")
		s.Put(t, key, []byte("new"), nil)
		read("old")
		if err := newSink().Purge(t.Context(), s.Target(), key); err != nil {
			t.Fatal(err)
		}
		read("new")
	}
}
