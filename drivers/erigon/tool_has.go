package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"os"
	"regexp"
	"slices"
	"strings"
)

const hasUsage = "[--names A,B] PROGRAM [WORD…]  see that a program of Erigon's is there and knows a command, and that its help has these names"

// hasVerb is "@self has": it asks a program for the help of a command, and prints nothing if it gets it. It exits with 0 then, 2 for wrong
// arguments, and 3 where the program is missing, can't be run or does not know the command, or where the help lacks one of the names.
func hasVerb(ctx context.Context, args []string) int {
	return exitCode(has(ctx, args, os.Stderr), os.Stderr)
}

func has(ctx context.Context, args []string, stderr io.Writer) error {
	f := flag.NewFlagSet("has", flag.ContinueOnError)
	f.SetOutput(stderr)
	var names nameList
	f.Var(&names, "names", "names that the help has to have, by comma")
	if err := f.Parse(args); err != nil {
		return errUsage
	}
	if args = f.Args(); len(args) == 0 || strings.HasPrefix(args[0], "-") {
		fmt.Fprintln(stderr, "has needs", hasUsage)
		return errUsage
	}
	program, err := findProgram(args[0])
	if err != nil {
		return err
	}
	help, err := (&tool{program: program}).help(ctx, args[1:]...)
	if err != nil {
		return declinef("%v", err)
	}
	return knows(help, names, program)
}

var wordsOfHelp = regexp.MustCompile(`[A-Za-z0-9]+`)

// knows declines names of checks that a program's help lacks: Erigon takes an unknown one in --skip-check without a word.
func knows(help string, names []string, program string) error {
	known := wordsOfHelp.FindAllString(help, -1)
	for _, name := range names {
		if !slices.Contains(known, name) {
			return declinef("this Erigon has no check %s: see %s seg integrity --help", name, program)
		}
	}
	return nil
}
