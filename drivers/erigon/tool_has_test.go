package main

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestHas(t *testing.T) {
	program := filepath.Join(t.TempDir(), "erigon")
	script := "#!/bin/sh\n[ \"$1\" = seg ] && { echo a long help with Blocks,HeaderNoGaps; exit 0; }\necho no such command >&2; exit 1\n"
	if err := os.WriteFile(program, []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		args []string
		says string // "": it is there
	}{
		{[]string{program, "seg"}, ""},
		{[]string{program, "retire"}, "no such command"},
		{[]string{"--names", "HeaderNoGaps,Blocks", program, "seg"}, ""},
		{[]string{"--names", "Blocks,Block", program, "seg"}, "has no check Block:"},
		{[]string{program + "-not", "seg"}, "there is no program"},
	} {
		var stderr bytes.Buffer
		err := has(t.Context(), c.args, &stderr)
		var no *declined
		switch {
		case c.says == "" && (err != nil || stderr.Len() > 0):
			t.Errorf("%q: %v, and it says %q", c.args, err, &stderr)
		case c.says != "" && (!errors.As(err, &no) || !strings.Contains(err.Error(), c.says)):
			t.Errorf("%q: %v, want a refusal that says %q", c.args, err, c.says)
		}
	}
	if err := has(t.Context(), nil, new(bytes.Buffer)); !errors.Is(err, errUsage) {
		t.Errorf("without arguments: %v", err)
	}
}
