package main

import (
	"errors"
	"testing"

	"github.com/snapfw/snapfw/core"
)

func TestFront(t *testing.T) {
	for config, want := range map[string]core.Front{
		`,"public_url":"https://cdn.example/"`:                                                    {URL: "https://cdn.example"},
		`,"public_url":"https://cdn.example/a","header_name":"X-Key","header_value":"env:SECRET"`: {URL: "https://cdn.example/a", Header: "X-Key", Secret: "header_value"},
	} {
		got, err := newSink().Front(t.Context(), core.Target{Name: "b", Config: []byte(`{` + good + config + `}`)})
		if err != nil || got != want {
			t.Errorf("%s: %+v, %v", config, got, err)
		}
	}
	if _, err := newSink().Front(t.Context(), core.Target{Name: "b", Config: []byte(`{` + good + `}`)}); !errors.Is(err, core.ErrUnsupported) {
		t.Errorf("without public_url: %v", err)
	}
	if _, err := newSink().Front(t.Context(), core.Target{Name: "b", Config: []byte(`{}`)}); err == nil || errors.Is(err, core.ErrUnsupported) {
		t.Errorf("with a configuration that is none: %v", err)
	}
}
