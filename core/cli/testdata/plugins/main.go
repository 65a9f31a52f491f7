// This program is every plugin that the scripts need beside the real ones; its own file's name says which.
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/snapfw/snapfw/core"
	"github.com/snapfw/snapfw/core/plugin"
	"github.com/snapfw/snapfw/core/plugin/plugintest/toy"
)

func main() {
	switch name := filepath.Base(os.Args[0]); name {
	case "snapfw-toy":
		plugin.ServeChain(toy.Chain{})
	case "snapfw-crash":
		plugin.ServeChain(crash{})
	case "snapfw-liar":
		plugin.ServeChain(toy.Chain{}) // which says that it is toy
	case "snapfw-rubbish":
		fmt.Println("hello, world")
	case "snapfw-hang":
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
