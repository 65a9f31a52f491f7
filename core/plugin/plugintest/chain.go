package plugintest

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"path"
	"strings"
	"time"

	"github.com/santhosh-tekuri/jsonschema/v6"

	"github.com/snapfw/snapfw/core"
	"github.com/snapfw/snapfw/core/plugin"
)

// ChainCase is what the suite has to know of a chain.
type ChainCase struct {
	// Config is a right configuration: the chain's own part, with at least one node.
	Config json.RawMessage

	// Host answers for a node's machine, a healthy one. Where it is nil, Status and Plan are
	// tried only against a machine on which nothing works.
	Host func(core.Node) core.Host

	// Intents are tried where Host is set, each on every node, and must give a plan or "not
	// now". Where it is empty, those of the Description without their arguments.
	Intents []core.Intent

	// Entries is a list as the chain's consumers read it, for a chain that is a core.Catalog.
	Entries []core.Entry

	// Foreign is a file that Import takes, for a chain that is a core.Importer.
	Foreign []byte
}

// dead is a machine on which no program works.
type dead struct{}

func (dead) Run(_ context.Context, argv ...string) (core.Output, error) {
	return core.Output{Stderr: []byte(argv[0] + ": not found"), Exit: 127}, nil
}

// away is a machine that can't be reached.
type away struct{}

var errAway = errors.New("connect: no route to host")

func (away) Run(context.Context, ...string) (core.Output, error) { return core.Output{}, errAway }

// chainCheck is one run of the suite.
type chainCheck struct {
	c      ChainCase
	client *plugin.Client
	chain  core.Chain
	schema *jsonschema.Schema
	nodes  []core.Node
}

// CheckChain is Chain without package testing.
func CheckChain(ctx context.Context, t T, cmd plugin.Command, c ChainCase) {
	client := load(ctx, t, cmd, core.KindChain)
	if client == nil {
		return
	}
	defer client.Close()
	chain, err := client.Chain()
	if err != nil {
		t.Errorf("%v", err)
		return
	}
	k := &chainCheck{c: c, client: client, chain: chain}
	t.Run("Describe", func(t T) { k.schema = describe(t, client.Description()) })
	if !t.Run("Nodes", func(t T) { k.checkNodes(ctx, t) }) {
		return
	}
	t.Run("BadConfig", func(t T) { k.checkBadConfig(ctx, t) })
	t.Run("Stateless", func(t T) { k.checkStateless(ctx, t) })
	t.Run("DeadMachine", func(t T) { k.checkDeadMachine(ctx, t) })
	t.Run("Cancelled", func(t T) { k.checkCancelled(ctx, t) })
	if c.Host != nil {
		t.Run("Status", func(t T) { k.checkStatus(ctx, t) })
		t.Run("Plan", func(t T) { k.checkPlans(ctx, t) })
	}
	t.Run("Catalog", func(t T) { k.checkCatalog(ctx, t) })
	t.Run("Judge", func(t T) { k.checkJudge(ctx, t) })
	t.Run("Importer", func(t T) { k.checkImporter(ctx, t) })
}

func (k *chainCheck) checkNodes(ctx context.Context, t T) {
	nodes, err := k.chain.Nodes(ctx, k.c.Config)
	if err != nil {
		t.Errorf("Nodes refuses ChainCase.Config: %v", err)
		return
	}
	if len(nodes) == 0 {
		t.Errorf("Nodes names no node")
	}
	k.nodes = nodes
	if k.schema != nil {
		if err := valid(k.schema, k.c.Config); err != nil {
			t.Errorf("the schema refuses what Nodes takes: %v", err)
		}
	}
	seen := map[string]bool{}
	first := false
	for _, n := range nodes {
		if !nodeForm.MatchString(n.Name) || seen[n.Name] {
			t.Errorf("the node %q is named badly or twice", n.Name)
		}
		seen[n.Name] = true
		first = first || n.Wave == 0
		if n.Wave < 0 || n.Addr.Port < 0 || n.Addr.Port > 65535 {
			t.Errorf("%s: wave %d, port %d", n.Name, n.Wave, n.Addr.Port)
		}
		if !json.Valid(n.Spec) {
			t.Errorf("%s: its Spec is not JSON", n.Name)
		}
	}
	if !first {
		t.Errorf("no node is in wave 0")
	}
}

func (k *chainCheck) checkBadConfig(ctx context.Context, t T) {
	for _, bad := range []string{``, `null`, `[]`, `"x"`, `7`, `{`, `{}`, `{"snapfw-unknown": 1}`, "\xff\x00"} {
		if _, err := k.chain.Nodes(ctx, json.RawMessage(bad)); err == nil && bad != `{}` {
			t.Errorf("Nodes takes the configuration %q", bad)
		} else if errors.Is(err, plugin.ErrDied) || err != nil && strings.Contains(err.Error(), "panicked") {
			t.Errorf("Nodes of %q: %v", bad, err)
		}
	}
	var doc any
	if err := json.Unmarshal(k.c.Config, &doc); err != nil {
		t.Errorf("ChainCase.Config: %v", err)
		return
	}
	withUnknown(doc, func() {
		config, err := json.Marshal(doc)
		if err != nil {
			t.Errorf("%v", err)
			return
		}
		if k.schema != nil && valid(k.schema, config) == nil {
			return // the schema says that any key will do there
		}
		_, err = k.chain.Nodes(ctx, config)
		var fields core.FieldErrors
		if !errors.As(err, &fields) {
			t.Errorf("an unknown key is to be refused by core.FieldErrors; Nodes of\n%s\nsays %v", config, err)
		} else if !strings.Contains(err.Error(), unknownKey) {
			t.Errorf("the error does not name the unknown key %s: %v", unknownKey, err)
		}
	})
}

const unknownKey = "snapfw_unknown"

// withUnknown puts an unknown key into each object of a document, one at a time.
func withUnknown(v any, try func()) {
	switch v := v.(type) {
	case map[string]any:
		for _, inner := range v {
			withUnknown(inner, try)
		}
		v[unknownKey] = true
		try()
		delete(v, unknownKey)
	case []any:
		for _, inner := range v {
			withUnknown(inner, try)
		}
	}
}

func (k *chainCheck) checkStateless(ctx context.Context, t T) {
	kill(t, k.client)
	again, err := k.chain.Nodes(ctx, k.c.Config)
	if err != nil || !same(again, k.nodes) {
		t.Errorf("killed and asked again, Nodes says %v and %v, and said %v", again, err, k.nodes)
	}
	before, errBefore := k.chain.Status(ctx, k.nodes[0], dead{})
	kill(t, k.client)
	after, errAfter := k.chain.Status(ctx, k.nodes[0], dead{})
	if !same(before, after) || (errBefore == nil) != (errAfter == nil) {
		t.Errorf("Status depends on what was asked before: %+v, %v and %+v, %v", before, errBefore, after, errAfter)
	}
}

func (k *chainCheck) checkDeadMachine(ctx context.Context, t T) {
	for _, n := range k.nodes {
		s, err := k.chain.Status(ctx, n, dead{})
		switch {
		case err != nil:
			t.Errorf("%s: a node that does not answer is no error of Status: %v", n.Name, err)
		case s.Up:
			t.Errorf("%s is Up on a machine where nothing works", n.Name)
		case len(s.Failed(false)) == 0:
			t.Errorf("%s is not Up and no check says why", n.Name)
		}
		checks(t, n, s)
		if _, err := k.chain.Status(ctx, n, away{}); err != nil && !errors.Is(err, errAway) {
			t.Errorf("%s: Status on a machine that can't be reached loses why: %v", n.Name, err)
		}
		for _, in := range k.client.Description().Intents {
			p, err := k.chain.Plan(ctx, n, dead{}, core.Intent{Name: in.Name})
			if errors.Is(err, plugin.ErrDied) || err != nil && strings.Contains(err.Error(), "panicked") {
				t.Errorf("%s: Plan of %s: %v", n.Name, in.Name, err)
			}
			if err == nil {
				checkPlan(t, n.Name+": "+in.Name, repair(in.Name), p)
			}
		}
		if _, err := k.chain.Plan(ctx, n, dead{}, core.Intent{Name: "snapfw-unknown"}); err == nil {
			t.Errorf("%s: there is a plan for an intent that does not exist", n.Name)
		} else if _, skip := core.IsSkip(err); skip {
			t.Errorf("%s: an intent that does not exist is not merely \"not now\"", n.Name)
		}
	}
}

func checks(t T, n core.Node, s core.Status) {
	seen := map[string]bool{}
	for _, c := range s.Checks {
		if c.Name == "" || seen[c.Name] {
			t.Errorf("%s: the check %q is named badly or twice", n.Name, c.Name)
		}
		seen[c.Name] = true
		if !c.OK && (c.Fix == "" || c.Want == "") {
			t.Errorf("%s: the failed check %q has to say what it wants (%q) and what to do (%q)", n.Name, c.Name, c.Want, c.Fix)
		}
	}
	if s.Hash != "" && (s.Hash != strings.ToLower(s.Hash) || !strings.HasPrefix(s.Hash, "0x")) {
		t.Errorf("%s: the hash %q is not lower-case hex with 0x", n.Name, s.Hash)
	}
}

func (k *chainCheck) checkCancelled(ctx context.Context, t T) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	blocked, stop := context.WithCancel(ctx)
	_, err := k.chain.Status(blocked, k.nodes[0], hostFunc(func(ctx context.Context, _ ...string) (core.Output, error) {
		stop()
		<-ctx.Done()
		return core.Output{}, ctx.Err()
	}))
	if err != nil && !errors.Is(err, context.Canceled) {
		t.Errorf("a cancelled Status says %v", err)
	}
	stop()
	if _, err := k.chain.Nodes(ctx, k.c.Config); err != nil {
		t.Errorf("after a cancelled call: %v", err)
	}
}

type hostFunc func(ctx context.Context, argv ...string) (core.Output, error)

func (f hostFunc) Run(ctx context.Context, argv ...string) (core.Output, error) {
	return f(ctx, argv...)
}

func (k *chainCheck) checkStatus(ctx context.Context, t T) {
	for _, n := range k.nodes {
		s, err := k.chain.Status(ctx, n, k.c.Host(n))
		if err != nil || !s.Up {
			t.Errorf("%s: Status of a healthy node: %+v, %v", n.Name, s, err)
		}
		checks(t, n, s)
	}
}

func (k *chainCheck) checkPlans(ctx context.Context, t T) {
	tried := k.c.Intents
	if len(tried) == 0 {
		for _, in := range k.client.Description().Intents {
			tried = append(tried, core.Intent{Name: in.Name})
		}
	}
	for _, n := range k.nodes {
		for _, in := range tried {
			p, err := k.chain.Plan(ctx, n, k.c.Host(n), in)
			if _, skip := core.IsSkip(err); skip {
				t.Logf("%s: %s: %v", n.Name, in.Name, err)
				continue
			}
			if err != nil {
				t.Errorf("%s: Plan of %s: %v", n.Name, in.Name, err)
				continue
			}
			checkPlan(t, n.Name+": "+in.Name, repair(in.Name), p)
			kill(t, k.client)
			if again, err := k.chain.Plan(ctx, n, k.c.Host(n), in); err != nil || !same(p, again) {
				t.Errorf("%s: the same machine gives another plan of %s: %+v, %v", n.Name, in.Name, again, err)
			}
		}
	}
}

func (k *chainCheck) checkCatalog(ctx context.Context, t T) {
	catalog := k.chain.(core.Catalog)
	body, err := catalog.Render(ctx, k.c.Entries)
	if errors.Is(err, core.ErrUnsupported) {
		t.Logf("it has no Catalog")
		return
	}
	if err != nil {
		t.Errorf("Render: %v", err)
		return
	}
	entries, err := catalog.Parse(ctx, body)
	if err != nil {
		t.Errorf("Parse refuses what Render wrote: %v", err)
		return
	}
	if again, err := catalog.Render(ctx, entries); err != nil || !bytes.Equal(again, body) {
		t.Errorf("what Parse read is rendered otherwise: %q and %q, %v", body, again, err)
	}
	for _, e := range k.c.Entries {
		if !containsName(entries, e.Name) {
			t.Errorf("%s is lost between Render and Parse", e.Name)
		}
	}
	if _, err := catalog.Parse(ctx, []byte("\x00\xff no list")); err == nil {
		t.Errorf("Parse takes rubbish")
	}
}

func containsName(entries []core.Entry, name string) bool {
	for _, e := range entries {
		if e.Name == name {
			return true
		}
	}
	return false
}

func (k *chainCheck) checkJudge(ctx context.Context, t T) {
	list, err := k.chain.(core.Catalog).Render(ctx, k.c.Entries)
	if errors.Is(err, core.ErrUnsupported) {
		t.Logf("it has no Catalog, and so no list to judge")
		return
	}
	if err != nil {
		t.Errorf("Render: %v", err)
		return
	}
	v, err := k.chain.(core.Judge).Judge(ctx, core.Change{Config: k.c.Config, Published: map[string][]byte{"bucket": list}, Proposed: list})
	if errors.Is(err, core.ErrUnsupported) {
		t.Logf("it has no Judge")
		return
	}
	if err != nil || !v.Safe {
		t.Errorf("a change that changes nothing is judged %+v, %v", v, err)
	}
	for _, f := range v.Findings {
		if f.Refuse && v.Safe {
			t.Errorf("a safe verdict has a finding that refuses: %+v", f)
		}
	}
}

func (k *chainCheck) checkImporter(ctx context.Context, t T) {
	importer := k.chain.(core.Importer)
	_, err := importer.Import(ctx, []byte("\x00\xff nobody's configuration"))
	if errors.Is(err, core.ErrUnsupported) {
		t.Logf("it has no Importer")
		return
	}
	if !errors.Is(err, core.ErrForeign) {
		t.Errorf("Import of rubbish says %v and not core.ErrForeign", err)
	}
	if k.c.Foreign == nil {
		return
	}
	if body, err := importer.Import(ctx, k.c.Foreign); err != nil || !json.Valid(body) {
		t.Errorf("Import: %q, %v", body, err)
	}
}

// repair tells whether an intent publishes nothing, so that its plan need not leave Data.
func repair(intent string) bool { return intent != "snapshot" && intent != "release" }

// checkPlan checks what is true of every plan.
func checkPlan(t T, what string, repair bool, p core.Plan) {
	if p.Data != "" && !path.IsAbs(p.Data) {
		t.Errorf("%s: Data is not absolute: %q", what, p.Data)
	}
	names := map[string]bool{}
	kept := map[string]bool{}
	parts := []struct {
		name   string
		steps  []core.Step
		secret bool // its commands lie on the host's disk, so they hold none
	}{{"Prepare", p.Prepare, false}, {"Freeze", p.Freeze, true}, {"Capture", p.Capture, true}, {"Seal", p.Seal, false}, {"Prove", p.Prove, false}}
	for _, part := range parts {
		for _, s := range part.steps {
			at := fmt.Sprintf("%s: %s %q", what, part.name, s.Name)
			if s.Name == "" || names[s.Name] {
				t.Errorf("%s: a step's name is unique and not empty", at)
			}
			names[s.Name] = true
			if s.Keep != "" {
				kept[s.Keep] = true
			}
			checkCommand(t, at, s.Do, part.secret)
			if s.Undo != nil {
				checkCommand(t, at+", its undo", *s.Undo, true)
			}
		}
	}
	if len(p.Capture) > 0 && p.Data == "" && !repair {
		t.Errorf("%s: it captures and leaves no Data", what)
	}
	for _, placeholder := range placeholders(p.Publish.Prefix) {
		if !kept[placeholder] {
			t.Errorf("%s: Publish.Prefix holds {%s}, which no step keeps", what, placeholder)
		}
	}
}

func placeholders(s string) (names []string) {
	for {
		_, after, ok := strings.Cut(s, "{")
		if !ok {
			return names
		}
		name, rest, _ := strings.Cut(after, "}")
		names = append(names, name)
		s = rest
	}
}

func checkCommand(t T, at string, c core.Command, noSecret bool) {
	if len(c.Argv) == 0 || c.Argv[0] == "" {
		t.Errorf("%s: runs nothing", at)
		return
	}
	if c.Dir != "" && !path.IsAbs(c.Dir) {
		t.Errorf("%s: Dir is not absolute: %q", at, c.Dir)
	}
	if c.Timeout < 0 || c.Grace < 0 {
		t.Errorf("%s: a negative Timeout or Grace", at)
	}
	switch c.End {
	case "", "TERM", "INT":
	default:
		t.Errorf("%s: End is %q: TERM or INT", at, c.End)
	}
	if c.User == "root" && !path.IsAbs(c.Argv[0]) {
		t.Errorf("%s: root runs absolute system programs only, and this is %q", at, c.Argv[0])
	}
	for name, value := range c.Env {
		if noSecret && strings.HasPrefix(value, "secret:") {
			t.Errorf("%s: %s is a secret, and this command lies on the host's disk", at, name)
		}
	}
}
