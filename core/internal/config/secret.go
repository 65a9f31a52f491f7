package config

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

const (
	masked    = "***"
	maxSecret = 1 << 20
)

// cmdTime is how long the program of a cmd: reference may take. It may ask somebody.
const cmdTime = time.Minute

// Secret is a reference to a secret. However it is printed, encoded or logged it shows
// as ***; only Reveal gives the value. The zero Secret is none.
type Secret struct {
	at func() source // fmt prints the private fields of a struct around it, following pointers, but calls nothing
}

type source struct {
	ref string // env:NAME, file:PATH, cmd:ARGV; with literal: the value itself
	dir string // what a relative PATH is relative to
}

func keep(s source) Secret { return Secret{func() source { return s }} }

// ParseSecret reads a reference: "env:NAME", "file:PATH" (relative to dir), or "cmd:" with the words of a
// program or a JSON list of them. Its errors never repeat the text, since that may be a secret.
func ParseSecret(text, dir string) (Secret, error) {
	kind, rest, _ := strings.Cut(text, ":")
	switch {
	case kind == "env" && envName(rest), kind == "file" && rest != "":
		return keep(source{text, dir}), nil
	case kind == "env":
		return Secret{}, errors.New("env: is followed by the name of an environment variable")
	case kind == "file":
		return Secret{}, errors.New("file: is followed by a path")
	case kind == "cmd":
		if _, err := argv(rest); err != nil {
			return Secret{}, err
		}
		return keep(source{text, dir}), nil
	case kind == "literal":
		return Secret{}, errLiteral
	}
	return Secret{}, errors.New("is not a reference: write env:NAME, file:PATH or cmd:PROGRAM, not the secret itself")
}

var errLiteral = errors.New("a secret must not stand in this file: put it into a file that only you can read and write file:PATH, or write env:NAME or cmd:PROGRAM")

// Literal makes a Secret of a value that is at hand. It exists for imported
// configurations and for URLs that people write out; a file can't hold one.
func Literal(value string) Secret { return keep(source{ref: "literal:" + value}) }

// IsZero tells whether there is no secret.
func (s Secret) IsZero() bool { return s.at == nil }

// Source says where the value comes from ("env:PAGER_KEY"), without the value.
func (s Secret) Source() string {
	switch {
	case s.at == nil:
		return "none"
	case strings.HasPrefix(s.at().ref, "literal:"):
		return "the configuration itself"
	}
	return s.at().ref
}

func (s Secret) String() string               { return masked }
func (s Secret) GoString() string             { return masked }
func (s Secret) Format(f fmt.State, _ rune)   { io.WriteString(f, masked) }
func (s Secret) MarshalText() ([]byte, error) { return []byte(masked), nil }
func (s Secret) MarshalJSON() ([]byte, error) { return json.Marshal(masked) }
func (s Secret) MarshalYAML() (any, error)    { return masked, nil }
func (s Secret) LogValue() slog.Value         { return slog.StringValue(masked) }

// Reveal returns the value without line ends at its end; at most 1 MiB, never empty. A
// file or program is read anew each time. Its errors name the source and never the value.
func (s Secret) Reveal(ctx context.Context) (string, error) {
	if s.at == nil {
		return "", errors.New("no secret is configured")
	}
	kind, rest, _ := strings.Cut(s.at().ref, ":")
	value, err := "", error(nil)
	switch kind {
	case "literal":
		return rest, nil
	case "env":
		var ok bool
		if value, ok = os.LookupEnv(rest); !ok {
			return "", fmt.Errorf("%s is not set: export it, or write file:PATH in the configuration", rest)
		}
	case "file":
		value, err = readSecret(absolute(s.at().dir, rest))
	case "cmd":
		value, err = runSecret(ctx, s.at().dir, rest)
	}
	if err != nil {
		return "", fmt.Errorf("read secret: %w", err)
	}
	if len(value) > maxSecret {
		return "", fmt.Errorf("read secret: %s gives more than 1 MiB", s.at().ref)
	}
	if value = strings.TrimRight(value, "\r\n"); value == "" {
		return "", fmt.Errorf("read secret: %s is empty", s.at().ref)
	}
	return value, nil
}

func readSecret(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxSecret+1))
	return string(b), err
}

// runSecret runs a program with this process's environment, since that is where password stores
// find their own keys. Nothing it prints on its standard error is repeated but its last line.
func runSecret(ctx context.Context, dir, words string) (string, error) {
	args, err := argv(words)
	if err != nil {
		return "", err
	}
	ctx, cancel := context.WithTimeout(ctx, cmdTime)
	defer cancel()
	var out, said tail
	out.limit, said.limit = maxSecret+1, 4096
	cmd := exec.CommandContext(ctx, args[0], args[1:]...)
	cmd.Dir, cmd.Stdout, cmd.Stderr = dir, &out, &said
	cmd.WaitDelay = time.Second
	if err := cmd.Run(); err != nil {
		if ctx.Err() != nil {
			err = fmt.Errorf("no answer in time: %w", ctx.Err())
		}
		if last := lastLine(said.String()); last != "" {
			return "", fmt.Errorf("run %s: %w: %s", args[0], err, last)
		}
		return "", fmt.Errorf("run %s: %w", args[0], err)
	}
	return out.String(), nil
}

// tail keeps the first bytes of what is written and takes the rest without an error.
type tail struct {
	bytes.Buffer
	limit int
}

func (t *tail) Write(p []byte) (int, error) {
	if room := t.limit - t.Len(); room > 0 {
		t.Buffer.Write(p[:min(room, len(p))])
	}
	return len(p), nil
}

func lastLine(s string) string {
	s = strings.TrimSpace(s)
	if i := strings.LastIndexByte(s, '\n'); i >= 0 {
		s = s[i+1:]
	}
	return strings.ToValidUTF8(s, "?")
}

func envName(s string) bool {
	return s != "" && !strings.ContainsAny(s, "= \t\r\n\x00/$")
}

// argv reads `["pass","show","a b"]` or `pass show 'a b'`: words, quotes and backslashes, no shell.
func argv(text string) ([]string, error) {
	text = strings.TrimSpace(text)
	var words []string
	if strings.HasPrefix(text, "[") {
		if err := json.Unmarshal([]byte(text), &words); err != nil {
			return nil, errors.New(`cmd: is followed by a program and its arguments, or by a list: cmd:["pass","show","name"]`)
		}
	} else {
		var err error
		if words, err = shellWords(text); err != nil {
			return nil, err
		}
	}
	if len(words) == 0 || words[0] == "" {
		return nil, errors.New("cmd: is followed by a program and its arguments")
	}
	return words, nil
}

func shellWords(text string) ([]string, error) {
	var words []string
	var word strings.Builder
	var quote rune
	inWord, escaped := false, false
	for _, r := range text {
		switch {
		case escaped:
			word.WriteRune(r)
			escaped = false
		case r == '\\' && quote != '\'':
			escaped, inWord = true, true
		case quote != 0 && r == quote:
			quote = 0
		case quote != 0:
			word.WriteRune(r)
		case r == '\'' || r == '"':
			quote, inWord = r, true
		case strings.ContainsRune(" \t\r\n", r):
			if inWord {
				words = append(words, word.String())
				word.Reset()
			}
			inWord = false
		case strings.ContainsRune("|&;<>$`", r):
			return nil, errors.New("cmd: runs a program, not a shell: write the program and its arguments only, or cmd:[\"sh\",\"-c\",\"…\"]")
		default:
			word.WriteRune(r)
			inWord = true
		}
	}
	if quote != 0 || escaped {
		return nil, errors.New("cmd: ends inside of a quoted word")
	}
	if inWord {
		words = append(words, word.String())
	}
	return words, nil
}

// absolute makes a path of a configuration absolute: "~/x" from the home, else from dir.
func absolute(dir, path string) string {
	if path == "~" || strings.HasPrefix(path, "~/") {
		if home, err := os.UserHomeDir(); err == nil {
			return filepath.Join(home, path[1:])
		}
	}
	if path == "" || filepath.IsAbs(path) {
		return path
	}
	return filepath.Join(dir, path)
}
