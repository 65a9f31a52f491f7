//go:build linux

// Command snapfw-host is what snapfw places on a host; see package core/onhost.
package main

import (
	"os"

	"github.com/snapfw/snapfw/core/onhost"
)

func main() { os.Exit(onhost.Main(os.Args[1:])) }
