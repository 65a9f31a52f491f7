package main

import (
	"errors"
	"testing"

	"github.com/snapfw/snapfw/core"
)

func TestFront(t *testing.T) {
	for config, want := range map[string]core.Front{
		`{"to":"a:b","public_url":"https://x.example/"}`:                                                {URL: "https://x.example"},
		`{"to":"/srv/x","public_url":"https://x.example","header_name":"X-Key","header_value":"env:K"}`: {URL: "https://x.example", Header: "X-Key", Secret: "header_value"},
	} {
		got, err := sink{}.Front(t.Context(), core.Target{Name: "s", Config: []byte(config)})
		if err != nil || got != want {
			t.Errorf("%s: %+v, %v", config, got, err)
		}
	}
	if _, err := (sink{}).Front(t.Context(), core.Target{Name: "s", Config: []byte(`{"to":"a:b"}`)}); !errors.Is(err, core.ErrUnsupported) {
		t.Errorf("without public_url: %v", err)
	}
}
