package cli_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
	"github.com/santhosh-tekuri/jsonschema/v6"
	"gopkg.in/yaml.v3"

	"github.com/snapfw/snapfw/core/internal/host/sshdtest"
)

var update = flag.Bool("update", false, "rewrite what the scripts compare with")

// commands are the words of the scripts beside testscript's own.
var commands = map[string]func(ts *testscript.TestScript, neg bool, args []string){
	"code":       code,
	"config":     config,
	"devnet":     devnet,
	"eventually": eventually,
	"expand":     expand,
	"json":       jsonAt,
	"listen":     listen,
	"nowhere":    nowhere,
	"save":       save,
	"sshd":       sshd,
	"tree":       tree,
	"valid":      valid,
}

func want(ts *testscript.TestScript, neg, can bool, ok bool, usage string) {
	if neg && !can {
		ts.Fatalf("unsupported: ! %s", usage)
	}
	if !ok {
		ts.Fatalf("usage: %s", usage)
	}
}

// code N PROGRAM ARG…: runs a program and wants that exit code.
func code(ts *testscript.TestScript, neg bool, args []string) {
	want(ts, neg, false, len(args) >= 2, "code N PROGRAM ARG…")
	n, err := strconv.Atoi(args[0])
	ts.Check(err)
	got := 0
	err = ts.Exec(args[1], args[2:]...)
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		got = exit.ExitCode()
	} else {
		ts.Check(err)
	}
	if got != n {
		ts.Fatalf("exit code %d, want %d", got, n)
	}
}

// devnet FLAG…: starts a network of two shards in $WORK/net until the script ends; flags go to the nodes. It sets
// PORT0 and PORT1, where the nodes answer.
func devnet(ts *testscript.TestScript, neg bool, args []string) {
	want(ts, neg, false, true, "devnet NODE-FLAG…")
	program, net := ts.Getenv("DEVNET"), filepath.Join(ts.Getenv("WORK"), "net")
	up := []string{"up", "--dir", net, "--shards", "2", "--detach", "--", "--block-time", "100ms", "--state-bytes", "4096",
		"--write-buffer", "65536", "--table-size", "65536"}
	out, err := exec.Command(program, append(up, args...)...).CombinedOutput()
	ts.Defer(func() {
		if out, err := exec.Command(program, "down", "--dir", net).CombinedOutput(); err != nil {
			ts.Logf("snapfw-devnet down: %v\n%s", err, out)
		}
	})
	if err != nil {
		ts.Fatalf("snapfw-devnet up: %v\n%s", err, out)
	}
	body, err := os.ReadFile(filepath.Join(net, "network.json"))
	ts.Check(err)
	var n struct{ Nodes []struct{ Port int } }
	ts.Check(json.Unmarshal(body, &n))
	for i, node := range n.Nodes {
		ts.Setenv(fmt.Sprintf("PORT%d", i), strconv.Itoa(node.Port))
	}
	ts.Check(os.MkdirAll(filepath.Join(ts.Getenv("WORK"), "bucket"), 0o755))
}

// config PART…: writes snapfw.yaml for the network of devnet, with further parts of it, and rclone.conf.
func config(ts *testscript.TestScript, neg bool, args []string) {
	want(ts, neg, false, true, "config PART…")
	expand(ts, false, []string{filepath.Join(ts.Getenv("TEMPLATES"), "rclone.conf"), "rclone.conf"})
	text := expanded(ts, filepath.Join(ts.Getenv("TEMPLATES"), "local.yaml"))
	for _, part := range args {
		text += expanded(ts, part)
	}
	ts.Check(os.WriteFile(ts.MkAbs("snapfw.yaml"), []byte(text), 0o600))
}

// expand FROM TO: copies a text with the script's variables filled in.
func expand(ts *testscript.TestScript, neg bool, args []string) {
	want(ts, neg, false, len(args) == 2, "expand FROM TO")
	ts.Check(os.WriteFile(ts.MkAbs(args[1]), []byte(expanded(ts, args[0])), 0o600))
}

func expanded(ts *testscript.TestScript, file string) string {
	return os.Expand(ts.ReadFile(file), func(name string) string {
		value := ts.Getenv(name)
		if value == "" {
			ts.Fatalf("%s: $%s is not set", file, name)
		}
		return value
	})
}

// eventually PROGRAM ARG…: runs a program until it exits with 0, for half a minute at the most.
func eventually(ts *testscript.TestScript, neg bool, args []string) {
	want(ts, neg, true, len(args) > 0, "[!] eventually PROGRAM ARG…")
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		err := ts.Exec(args[0], args[1:]...)
		if (err == nil) != neg {
			return
		}
		if time.Now().After(deadline) {
			ts.Fatalf("still after half a minute: %v", err)
		}
	}
}

// json FILE PATH [PATTERN]: wants a value in a JSON document, and that it matches a pattern from end to end. A path is
// keys and indexes with dots in between; "." is the document. Lists and mappings match as JSON.
func jsonAt(ts *testscript.TestScript, neg bool, args []string) {
	want(ts, neg, true, len(args) == 2 || len(args) == 3, "[!] json FILE PATH [PATTERN]")
	value, there := find(ts, args[0], args[1])
	text := fmt.Sprint(value)
	switch value.(type) {
	case map[string]any, []any:
		body, err := json.Marshal(value)
		ts.Check(err)
		text = string(body)
	}
	if len(args) == 3 && there {
		there = regexp.MustCompile(`^(?s:` + args[2] + `)$`).MatchString(text)
	}
	if there == neg {
		ts.Fatalf("%s: %s is %.300s", args[0], args[1], text)
	}
}

func find(ts *testscript.TestScript, file, path string) (any, bool) {
	d := json.NewDecoder(strings.NewReader(ts.ReadFile(file)))
	d.UseNumber()
	var value any
	ts.Check(d.Decode(&value))
	if _, err := d.Token(); err != io.EOF {
		ts.Fatalf("%s: more than one JSON document", file)
	}
	for _, key := range strings.FieldsFunc(path, func(r rune) bool { return r == '.' }) {
		switch in := value.(type) {
		case map[string]any:
			var ok bool
			if value, ok = in[key]; !ok {
				return nil, false
			}
		case []any:
			i, err := strconv.Atoi(key)
			if err != nil || i >= len(in) {
				return nil, false
			}
			value = in[i]
		default:
			return nil, false
		}
	}
	return value, true
}

// save NAME FILE PATH: puts a value of a JSON document into the variable NAME.
func save(ts *testscript.TestScript, neg bool, args []string) {
	want(ts, neg, false, len(args) == 3, "save NAME FILE PATH")
	value, there := find(ts, args[1], args[2])
	if !there {
		ts.Fatalf("%s has no %s", args[1], args[2])
	}
	ts.Setenv(args[0], fmt.Sprint(value))
}

// listen NAME: serves HTTP on loopback until the script ends. It answers 202 to everything and appends each
// body, as one line, to NAME.log. The variable NAME is its address.
func listen(ts *testscript.TestScript, neg bool, args []string) {
	want(ts, neg, false, len(args) == 1, "listen NAME")
	log, err := os.OpenFile(ts.MkAbs(args[0]+".log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	ts.Check(err)
	var mu sync.Mutex
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		mu.Lock()
		defer mu.Unlock()
		if err == nil {
			fmt.Fprintf(log, "%s\n", bytes.ReplaceAll(body, []byte("\n"), []byte(" ")))
		}
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(http.StatusAccepted)
		io.WriteString(w, `{"status":"success","message":"Event processed"}`)
	}))
	ts.Defer(func() { server.Close(); log.Close() })
	ts.Setenv(args[0], server.URL)
}

// nowhere TEXT PATH…: wants that no file below the paths holds a text, in its content or its name.
func nowhere(ts *testscript.TestScript, neg bool, args []string) {
	want(ts, neg, false, len(args) >= 2, "nowhere TEXT PATH…")
	text, read := []byte(args[0]), 0
	for _, root := range args[1:] {
		err := filepath.WalkDir(ts.MkAbs(root), func(path string, d fs.DirEntry, err error) error {
			if errors.Is(err, fs.ErrNotExist) && path != ts.MkAbs(root) {
				return nil // a node's own files come and go
			}
			if err != nil || !d.Type().IsRegular() {
				return err
			}
			body, err := os.ReadFile(path)
			if err != nil && !errors.Is(err, fs.ErrNotExist) {
				return err
			}
			read++
			if bytes.Contains(body, text) || strings.Contains(d.Name(), string(text)) {
				ts.Fatalf("%s holds %q", path, text)
			}
			return nil
		})
		ts.Check(err)
	}
	if read == 0 {
		ts.Fatalf("there is no file below %q", args[1:])
	}
}

// sshd [PASSPHRASE]: runs an sshd until the script ends; the key has that passphrase. It sets SSH_PORT, SSH_USER,
// SSH_KEY and SSH_KNOWN_HOSTS.
func sshd(ts *testscript.TestScript, neg bool, args []string) {
	want(ts, neg, false, len(args) < 2, "sshd [PASSPHRASE]")
	var o sshdtest.Options
	if len(args) == 1 {
		o.Passphrase = args[0]
	}
	dir := ts.MkAbs("sshd")
	ts.Check(os.MkdirAll(dir, 0o700))
	s, err := sshdtest.Run(dir, o)
	ts.Check(err)
	ts.Defer(s.Close)
	for name, value := range map[string]string{
		"SSH_PORT": strconv.Itoa(s.Port), "SSH_USER": s.User, "SSH_KEY": s.KeyPath, "SSH_KNOWN_HOSTS": s.KnownHosts,
	} {
		ts.Setenv(name, value)
	}
}

// tree PATH…: prints every file below the paths with mode, size and time; of databases and logs, which live, only the name.
func tree(ts *testscript.TestScript, neg bool, args []string) {
	want(ts, neg, false, len(args) > 0, "tree PATH…")
	for _, root := range args {
		err := filepath.WalkDir(ts.MkAbs(root), func(path string, d fs.DirEntry, err error) error {
			if err != nil {
				return err
			}
			rel, err := filepath.Rel(ts.Getenv("WORK"), path)
			if err != nil {
				return err
			}
			if d.IsDir() {
				fmt.Fprintf(ts.Stdout(), "%s/\n", rel)
				if strings.HasPrefix(d.Name(), "harmony_db_") && filepath.Base(filepath.Dir(path)) == "data" {
					return filepath.SkipDir
				}
				return nil
			}
			if filepath.Ext(rel) == ".log" {
				fmt.Fprintln(ts.Stdout(), rel)
				return nil
			}
			info, err := d.Info()
			if err != nil {
				return err
			}
			fmt.Fprintf(ts.Stdout(), "%s %v %d %d\n", rel, info.Mode(), info.Size(), info.ModTime().UnixNano())
			return nil
		})
		ts.Check(err)
	}
}

// valid SCHEMA FILE: wants that a JSON Schema allows a YAML or JSON file.
func valid(ts *testscript.TestScript, neg bool, args []string) {
	want(ts, neg, true, len(args) == 2, "[!] valid SCHEMA FILE")
	doc, err := jsonschema.UnmarshalJSON(strings.NewReader(ts.ReadFile(args[0])))
	ts.Check(err)
	c := jsonschema.NewCompiler()
	ts.Check(c.AddResource("urn:schema", doc))
	schema, err := c.Compile("urn:schema")
	ts.Check(err)
	var value any
	ts.Check(yaml.Unmarshal([]byte(ts.ReadFile(args[1])), &value))
	body, err := json.Marshal(value) // YAML's numbers become JSON's
	ts.Check(err)
	value, err = jsonschema.UnmarshalJSON(bytes.NewReader(body))
	ts.Check(err)
	switch err := schema.Validate(value); {
	case err != nil && !neg:
		ts.Fatalf("%s: %v", args[1], err)
	case err == nil && neg:
		ts.Fatalf("%s is valid", args[1])
	case err != nil:
		ts.Logf("%v", err)
	}
}
