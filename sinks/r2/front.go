package main

import (
	"context"
	"fmt"
	"strings"

	"github.com/snapfw/snapfw/core"
)

// Front is public_url: consumers find a key, relative to prefix, at it + "/" + key.
func (s sink) Front(_ context.Context, t core.Target) (core.Front, error) {
	c, err := readConfig(t)
	if err != nil {
		return core.Front{}, err
	}
	if c.PublicURL == "" {
		return core.Front{}, fmt.Errorf("sink %s has no public_url: %w", t.Name, core.ErrUnsupported)
	}
	f := core.Front{URL: strings.TrimSuffix(c.PublicURL, "/"), Header: c.HeaderName}
	if f.Header != "" {
		f.Secret = "header_value"
	}
	return f, nil
}
