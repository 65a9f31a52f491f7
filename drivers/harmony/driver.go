package main

import (
	"context"
	_ "embed"
	"encoding/json"
	"net"

	"github.com/snapfw/snapfw/core"
)

//go:embed schema.json
var schema []byte

// buildVersion is set by the build.
var buildVersion = "dev"

// driver knows Harmony nodes. It is stateless; its field is what tests replace.
type driver struct{ resolver resolver }

func newDriver() driver { return driver{net.DefaultResolver} }

// never are files that must not leave a node: BLS keys and their passphrases, the node's
// p2p key, accounts.
var never = []string{"*.key", "*.pass", "*.pem", ".hmykey*", "hmykey*", "UTC--*", "keystore*"}

// Describe says what the driver is.
func (driver) Describe(context.Context) (core.Description, error) {
	return core.Description{
		Name: "harmony", Kind: core.KindChain, Version: buildVersion,
		Schema: json.RawMessage(schema), Never: never,
		Intents: []core.IntentInfo{{
			Name: "snapshot", Summary: "copy the database of each shard while its node stands still, and publish it",
			Args: []core.ArgInfo{{Name: "verify", Type: "string",
				Usage: "read files again whose sums are remembered: full, or sample:N for N percent of them"}},
		}},
	}, nil
}

// Nodes names the machines of a configuration.
func (driver) Nodes(_ context.Context, raw json.RawMessage) ([]core.Node, error) {
	c, err := readConfig(raw)
	if err != nil {
		return nil, err
	}
	return c.nodes()
}
