package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"strings"
)

const hasUsage = "PROGRAM [WORD…]  see that a program of Erigon's is there and knows a command"

// hasVerb is "@self has": it asks a program for the help of a command, and prints nothing if it gets it. It exits with 0 then, 2 for wrong
// arguments, and 3 where the program is missing, can't be run or does not know the command.
func hasVerb(ctx context.Context, args []string) int {
	return exitCode(has(ctx, args, os.Stderr), os.Stderr)
}

func has(ctx context.Context, args []string, stderr io.Writer) error {
	if len(args) == 0 || strings.HasPrefix(args[0], "-") {
		fmt.Fprintln(stderr, "has needs", hasUsage)
		return errUsage
	}
	program, err := findProgram(args[0])
	if err != nil {
		return err
	}
	if _, err := (&tool{program: program}).help(ctx, args[1:]...); err != nil {
		return declinef("%v", err)
	}
	return nil
}
