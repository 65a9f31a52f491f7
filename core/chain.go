package core

import (
	"context"
	"encoding/json"
	"time"
)

// Kinds of plugin, as Description.Kind and a manifest in plugins.d say them.
const (
	KindChain = "chain"
	KindSink  = "sink"
)

// Plugin is what every plugin can say about itself.
type Plugin interface {
	// Describe answers the same for as long as the plugin runs, and touches nothing.
	Describe(ctx context.Context) (Description, error)
}

// Description is what snapfw has to know of a plugin before it uses it.
type Description struct {
	Name    string // as in plugins.d/NAME.yaml
	Kind    string // KindChain or KindSink
	Version string // of the plugin, for people
	Intents []IntentInfo

	// Schema is a JSON Schema (draft 2020-12) of the plugin's configuration: an
	// object. A property with `"x-secret": "reference"` holds a reference (env:NAME,
	// file:PATH, cmd:…), one with `"x-secret": "file"` the path of a file on this
	// machine whose content is secret. snapfw resolves both; see Target.Secrets.
	Schema json.RawMessage

	// Never lists patterns (path.Match, against a file's base name) of files that
	// must not leave a node: keys, keystores. One of them in what is about to be
	// captured stops the run before the node is stopped.
	Never []string

	// Programs lists what the plugin's commands run on a host and bring not
	// along: "rsync". In an argv it is written "@program:rsync"; snapfw uses the
	// host's own, else places this machine's there.
	Programs []string

	// Enforces lists what a sink guarantees: "if-none-match", "copy-unchanged".
	Enforces []string
}

// IntentInfo announces something that a driver can plan.
type IntentInfo struct {
	Name    string    // "snapshot", "release", or a repair: "retire"
	Summary string    // one line, for help
	Args    []ArgInfo // the words after a repair's name are the values of its first list

	// Down says that a node which is down may be worked on too, as it is for a repair. Then its
	// Status stands in nobody's way, and a plan without Freeze leaves it down.
	Down bool
}

// ArgInfo is one argument of an intent; it becomes a flag of the command line.
type ArgInfo struct {
	Name    string // "clear-indexes"
	Type    string // "bool", "string" or "list"
	Default string
	Usage   string
}

// Chain knows one kind of node. A driver looks and plans; it changes nothing.
type Chain interface {
	Plugin

	// Nodes reads the chain's own part of the configuration (what Description.Schema
	// describes), refuses what is wrong in it with FieldErrors, and names the nodes
	// in waves: no node of wave 1 is touched before every node of wave 0 is captured.
	Nodes(ctx context.Context, config json.RawMessage) ([]Node, error)

	// Status looks at a node. A node that does not answer is no error: its Status
	// says Up false and has a failed check that tells why.
	Status(ctx context.Context, n Node, h Host) (Status, error)

	// Plan says how to carry out an intent on a node. It is asked right after a
	// Status that was good, and again when a step said "look again" (ExitAgain).
	// An error made by Skipf means "not now" and is no failure.
	Plan(ctx context.Context, n Node, h Host, in Intent) (Plan, error)
}

// Node is one node of a chain.
type Node struct {
	Name string // unique in the chain, of [A-Za-z0-9._-]: "shard0"
	Wave int    // 0 goes first
	Addr Addr
	Spec json.RawMessage // the driver's own, opaque to snapfw; holds no secrets
}

// Addr says on which machine a node runs. The zero Addr is this machine.
type Addr struct {
	User string // login user; "" as ssh's configuration or the current user has it
	Host string // name or IP; "" is this machine, without ssh
	Port int    // of sshd; 0 is 22
}

// Status is where a node is in its chain, and each thing that was checked.
type Status struct {
	Up       bool      // it answers
	Version  string    // of the node's program
	Height   uint64    // of its head
	Hash     string    // of its head block, lower-case hex with 0x
	HeadTime time.Time // when that block was made; the zero time where it is not known
	Checks   []Check
}

// Check is one condition: what was expected, what was found, what to do about it.
type Check struct {
	Name   string // "role", "age of the head"
	OK     bool
	Want   string
	Got    string
	Fix    string // what to do where it is not OK, one sentence
	Safety bool   // it protects data or people: --force does not bypass it
}

// Healthy tells whether the node is up and every check is OK; with force, checks that
// protect neither data nor people do not count.
func (s Status) Healthy(force bool) bool {
	return s.Up && len(s.Failed(force)) == 0
}

// Failed returns the checks that stand in the way.
func (s Status) Failed(force bool) []Check {
	var bad []Check
	for _, c := range s.Checks {
		if !c.OK && (c.Safety || !force) {
			bad = append(bad, c)
		}
	}
	return bad
}

// Intent is what somebody wants done to a node.
type Intent struct {
	Name   string            // one of Description.Intents
	Args   map[string]string // by ArgInfo.Name; a list is joined by newlines
	Force  bool              // conditions were bypassed, for Reason
	Reason string
	Again  int // how often a plan of this run ended in ExitAgain: 0, 1, 2
}

// Host is a node's machine, for looking. Run executes one program as the login user;
// the argv may begin with "@self" (the plugin's binary), "@core" (snapfw-host) or
// "@program:NAME". It is journalled, so it must not hold a secret, and must
// change nothing. A program that exits with another code than 0 is no error here.
type Host interface {
	Run(ctx context.Context, argv ...string) (Output, error)
}

// Output is what a program said. Stdout and Stderr are capped at 1 MiB each.
type Output struct {
	Stdout []byte
	Stderr []byte
	Exit   int // 128 and more: ended by a signal
}

// Catalog is implemented by a Chain whose consumers read a list in the chain's own format.
type Catalog interface {
	Parse(ctx context.Context, body []byte) ([]Entry, error)
	Render(ctx context.Context, entries []Entry) ([]byte, error)
}

// Judge is implemented by a Chain that knows which change between two lists is safe.
type Judge interface {
	Judge(ctx context.Context, c Change) (Verdict, error)
}

// Importer is implemented by a Chain that reads the configuration of the tool that snapfw
// replaces. Import returns today's form as JSON, or ErrForeign if it is not such a file.
type Importer interface {
	Import(ctx context.Context, foreign []byte) ([]byte, error)
}

// Change is a proposed list beside what is published, by where that was read: "review", "bucket". Lists are as
// the chain's Catalog reads them. Config is the chain's own part of the configuration.
type Change struct {
	Config    json.RawMessage
	Published map[string][]byte
	Proposed  []byte
}

// Verdict is a Judge's answer.
type Verdict struct {
	Safe     bool
	Findings []Finding
	Report   string   // for people, Markdown
	Classes  []string // every class that a Finding may have, in the order of the report
}

// Finding is one thing that changed.
type Finding struct {
	Class  string // "added", "hash_changes", "gaps", …
	Name   string
	Detail string
	Refuse bool // this one makes the change unsafe
}
