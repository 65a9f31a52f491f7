package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/google/renameio/v2"
)

// misbehaviours lists what a node can be told to do wrong, and what its argument is.
var misbehaviours = map[string]struct{ arg, doc string }{
	"panic-on-term":       {"", "SIGTERM panics: exit 2, nothing is flushed or closed"},
	"exit-mid-compaction": {"", "SIGTERM ends in exit 0 and \"Successfully shut down!\" in the middle of a compaction, the store not closed"},
	"ignore-term":         {"duration", "SIGTERM is ignored for so long (1h if not said), then obeyed"},
	"stall":               {"duration", "no new blocks, for so long or until taken back"},
	"lag":                 {"count", "the head that it answers is so many blocks older (66)"},
	"rotate":              {"duration", "leadership comes and goes, each time after so long (1s)"},
	"refuse-start":        {"", "exits 1 before it opens its database"},
	"slow-start":          {"duration", "takes so long (5s) before it answers"},
	"lie-in-sync":         {"", "inSync says true whatever is so, and syncing false"},
	"die":                 {"duration", "dies, exit 2, so long (1s) after it answers"},
}

// behaviour is how often a misbehaviour happens, and its argument: "once", "always:5s".
type behaviour struct {
	once bool
	arg  string
}

func parseBehaviour(name, s string) (behaviour, error) {
	kind, known := misbehaviours[name]
	if !known {
		return behaviour{}, fmt.Errorf("%q is no misbehaviour; there are %s", name, strings.Join(slices.Sorted(maps.Keys(misbehaviours)), ", "))
	}
	often, arg, _ := strings.Cut(s, ":")
	b := behaviour{once: often == "once", arg: arg}
	if often != "once" && often != "always" {
		return b, fmt.Errorf("%s=%s: want once or always, with an argument behind a colon where it takes one", name, s)
	}
	if arg == "" {
		return b, nil
	}
	var err error
	switch kind.arg {
	case "":
		err = errors.New("it takes no argument")
	case "duration":
		_, err = time.ParseDuration(arg)
	case "count":
		_, err = strconv.ParseUint(arg, 10, 32)
	}
	if err != nil {
		return b, fmt.Errorf("%s=%s: %w", name, s, err)
	}
	return b, nil
}

func (b behaviour) duration(otherwise time.Duration) time.Duration {
	if d, err := time.ParseDuration(b.arg); err == nil {
		return d
	}
	return otherwise
}

func (b behaviour) count(otherwise uint64) uint64 {
	if n, err := strconv.ParseUint(b.arg, 10, 32); err == nil {
		return n
	}
	return otherwise
}

// parsePairs reads "name=once", "name=always:5s", …
func parsePairs(pairs []string) (map[string]string, error) {
	m := map[string]string{}
	for _, p := range pairs {
		name, how, ok := strings.Cut(strings.TrimSpace(p), "=")
		if !ok {
			return nil, fmt.Errorf("%q: want name=once or name=always", p)
		}
		if how != "never" {
			if _, err := parseBehaviour(name, how); err != nil {
				return nil, err
			}
		}
		m[name] = how
	}
	return m, nil
}

// conduct is what a node was told to do wrong: by flags and the environment (given), and by DIR/behave.json,
// which is read at each use and wins. A "once" is taken out of behave.json when it
// happens; one that was given is remembered in DIR/behaved.json, so that a restart does not repeat it.
type conduct struct {
	dir   string
	given map[string]string

	mu    sync.Mutex
	since map[string]time.Time // what lasts, by when it began
	spent map[string]behaviour // a "once" that lasts: for the rest of this process
}

func newConduct(dir string, given map[string]string) *conduct {
	return &conduct{dir: dir, given: given, since: map[string]time.Time{}, spent: map[string]behaviour{}}
}

// happens tells whether an event is to go wrong now; it uses a "once" up.
func (c *conduct) happens(name string) (behaviour, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.find(name)
}

// lasts tells whether something that lasts goes wrong now. A "once" is used up by the first
// question and lasts as long as the process, or as its argument says where that is a limit.
func (c *conduct) lasts(name string, limited bool) (b behaviour, since time.Time, on bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	b, on = c.spent[name]
	if !on {
		if b, on = c.find(name); !on {
			delete(c.since, name)
			return b, since, false
		}
		if b.once {
			c.spent[name] = b
			c.since[name] = time.Now()
		}
	}
	if _, begun := c.since[name]; !begun {
		c.since[name] = time.Now()
	}
	since = c.since[name]
	if limited && b.arg != "" && time.Since(since) > b.duration(0) {
		return b, since, false
	}
	return b, since, true
}

func (c *conduct) find(name string) (behaviour, bool) {
	var found behaviour
	var ok bool
	err := locked(filepath.Join(c.dir, "behave.lock"), func() error {
		told, err := readBehave(c.dir)
		if err != nil {
			return err
		}
		how, in := told[name]
		if in {
			if how == "never" {
				return nil
			}
			if found, err = parseBehaviour(name, how); err != nil {
				return err
			}
			ok = true
			if found.once {
				delete(told, name)
				return writeJSON(filepath.Join(c.dir, "behave.json"), told)
			}
			return nil
		}
		if how, in = c.given[name]; !in || how == "never" {
			return nil
		}
		if found, err = parseBehaviour(name, how); err != nil {
			return err
		}
		ok = true
		if !found.once {
			return nil
		}
		done := map[string]bool{}
		if err := readJSON(filepath.Join(c.dir, "behaved.json"), &done); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		ok = !done[name]
		done[name] = true
		return writeJSON(filepath.Join(c.dir, "behaved.json"), done)
	})
	if err != nil {
		logf("warn", "misbehaviour is not as told", "name", name, "error", err.Error())
		return behaviour{}, false
	}
	return found, ok
}

// tell writes what a node is to do wrong into its behave.json; "never" takes it back.
func tell(dir string, pairs map[string]string) error {
	return locked(filepath.Join(dir, "behave.lock"), func() error {
		told, err := readBehave(dir)
		if err != nil {
			return err
		}
		maps.Copy(told, pairs)
		return writeJSON(filepath.Join(dir, "behave.json"), told)
	})
}

func readBehave(dir string) (map[string]string, error) {
	told := map[string]string{}
	err := readJSON(filepath.Join(dir, "behave.json"), &told)
	if errors.Is(err, fs.ErrNotExist) {
		return told, nil
	}
	return told, err
}

func readJSON(path string, v any) error {
	b, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(b, v); err != nil {
		return fmt.Errorf("read %s: %w", path, err)
	}
	return nil
}

// writeJSON replaces a file in one go: a reader sees the old one or the new one.
func writeJSON(path string, v any) error {
	b, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	return renameio.WriteFile(path, append(b, '\n'), 0o644)
}
