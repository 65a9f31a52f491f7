package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"

	"github.com/snapfw/snapfw/core"
)

func TestPurge(t *testing.T) {
	p := &purger{}
	p.urls.Store(new([]string))
	p.tokens.Store(2)
	server := httptest.NewServer(p)
	defer server.Close()
	config := fmt.Sprintf(`{%s,"public_url":"https://cdn.example/","zone_id":"0123456789abcdef0123456789abcdef","api_token":"env:T","api_endpoint":%q}`, good, server.URL)
	target := core.Target{Name: "b", Config: json.RawMessage(config), Secrets: map[string]string{"api_token": "cf-token-value"}}
	keys := []string{"mainnet.toml"}
	for i := range 120 {
		keys = append(keys, fmt.Sprintf("domain/v2.0-accounts.%d-%d.kv", i, i+1))
	}
	if err := newSink().Purge(t.Context(), target, keys...); err != nil {
		t.Fatal(err)
	}
	urls := *p.urls.Load()
	// One URL of the list, two of each key with a folder, in three requests, the last of which had to wait.
	if len(urls) != 241 || p.refused.Load() == 0 {
		t.Errorf("%d URLs, %d times refused", len(urls), p.refused.Load())
	}
	for _, want := range []string{"https://cdn.example/mainnet.toml", "https://cdn.example/domain/v2.0-accounts.0-1.kv", "https://cdn.example/domain%2Fv2.0-accounts.119-120.kv"} {
		if !slices.Contains(urls, want) {
			t.Errorf("%s is not purged", want)
		}
	}
	target.Secrets = map[string]string{"api_token": "wrong-token-value"}
	if err := newSink().Purge(t.Context(), target, "x"); err == nil || strings.Contains(err.Error(), "wrong-token-value") || !strings.Contains(err.Error(), "Cache Purge") {
		t.Errorf("a token that is refused: %v", err)
	}
	if err := newSink().Purge(t.Context(), core.Target{Name: "b", Config: []byte(`{` + good + `}`)}, "x"); !errors.Is(err, core.ErrUnsupported) {
		t.Errorf("without a zone: %v", err)
	}
}
