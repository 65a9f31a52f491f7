//go:build !linux

package main

import "os"

func readOnce(*os.File) {}
