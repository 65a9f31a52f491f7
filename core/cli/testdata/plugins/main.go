// This program is every plugin that the scripts need beside the real ones; its own file's name says which.
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/snapfw/snapfw/core"
	"github.com/snapfw/snapfw/core/plugin"
	"github.com/snapfw/snapfw/core/plugin/plugintest/toy"
)

func main() {
	_, name, _ := strings.Cut(filepath.Base(os.Args[0]), "snapfw-")
	name, _, _ = strings.Cut(name, "-") // `plugin add` tries it under a longer name
	switch name {
	case "toy":
		plugin.ServeChain(toy.Chain{})
	case "crash":
		plugin.ServeChain(crash{})
	case "liar":
		plugin.ServeChain(toy.Chain{}) // which says that it is toy
	case "rubbish":
		fmt.Println("hello, world")
	case "hang":
		time.Sleep(time.Hour)
	default:
		fmt.Fprintf(os.Stderr, "%s: no such plugin\n", name)
		os.Exit(2)
	}
}

// crash is a chain whose code dies when it is asked for its nodes.
type crash struct{ toy.Chain }

func (c crash) Describe(ctx context.Context) (core.Description, error) {
	d, err := c.Chain.Describe(ctx)
	d.Name = "crash"
	return d, err
}

func (crash) Nodes(context.Context, json.RawMessage) ([]core.Node, error) {
	fmt.Fprintln(os.Stderr, "fatal error: out of luck")
	os.Exit(7)
	return nil, nil
}
