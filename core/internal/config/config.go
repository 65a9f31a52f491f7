// Package config reads snapfw's configuration: one YAML or JSON file, strictly. A key that is not
// known, that is there twice or has the wrong type is refused with its field, its file and
// its line, all of them at once. Secrets are references and never printed.
//
// The keys that snapfw itself knows are the fields of File; what a chain's driver or a sink knows is
// passed on as it stands, and checked against the plugin's JSON Schema by File.Check.
package config

import (
	"encoding/json"
	"fmt"
	"maps"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"time"

	"gopkg.in/yaml.v3"
)

// File is a configuration.
type File struct {
	StateDir string           `json:"state_dir" jsonschema_description:"Where snapfw keeps its runs. Default: /var/lib/snapfw for root, else $XDG_STATE_HOME/snapfw."`
	SSH      SSH              `json:"ssh" jsonschema_description:"How machines are reached."`
	Sinks    map[string]Sink  `json:"sinks" jsonschema_description:"Where snapshots go, by a name of your choice."`
	Chains   map[string]Chain `json:"chains" jsonschema_description:"What is snapshotted, by the name that --chain takes."`
	Notify   Notify           `json:"notify" jsonschema_description:"Who is told what."`

	Path     string   `json:"-"` // as it was named or found; "" for Defaults
	Imported bool     `json:"-"` // read from another tool's file
	Warnings Problems `json:"-"` // what works and should be changed

	root    *yaml.Node
	foreign *yaml.Node // of an imported file: the file that it was made of
	dir     string     // absolute; relative paths in the file start here
}

// SSH says how machines are reached. Paths are absolute by now.
type SSH struct {
	Key            string        `json:"key" jsonschema_description:"Private key file."`
	Agent          bool          `json:"agent" jsonschema_description:"Ask the ssh agent (SSH_AUTH_SOCK). Default: true where no key is configured."`
	Passphrase     Secret        `json:"passphrase" jsonschema_description:"Reference to the key's passphrase; without it a terminal is asked."`
	User           string        `json:"user" jsonschema_description:"Login user where a machine names none. Default: the user who runs snapfw."`
	KnownHosts     []string      `json:"known_hosts" jsonschema_description:"Files with host keys. Default: ~/.ssh/known_hosts and /etc/ssh/ssh_known_hosts."`
	HostKeys       string        `json:"host_keys" jsonschema:"enum=check,enum=accept-new,enum=off,default=check" jsonschema_description:"What to do with a host key that is not known; a changed one is refused unless this is off."`
	Jump           string        `json:"jump" jsonschema_description:"Go through this machine: [user@]host[:port]."`
	ConnectTimeout time.Duration `json:"connect_timeout" jsonschema:"default=15s" jsonschema_description:"How long a connection may take to be made."`
	HostDir        string        `json:"host_dir" jsonschema_description:"Where snapfw keeps its files on a machine; absolute. Default: the first of /var/lib/snapfw, ~/.local/lib/snapfw and $TMPDIR where programs can run."`
}

func (s *SSH) defaults() {
	*s = SSH{HostKeys: "check", ConnectTimeout: 15 * time.Second}
}

func (s *SSH) check(fail func(field, format string, args ...any)) {
	if !slices.Contains([]string{"check", "accept-new", "off"}, s.HostKeys) {
		fail("host_keys", `%s: write "check", "accept-new" or "off"`, shorten(s.HostKeys))
	}
	if s.ConnectTimeout <= 0 {
		fail("connect_timeout", "must be above zero")
	}
	if s.HostDir != "" && !strings.HasPrefix(s.HostDir, "/") {
		fail("host_dir", "%s is not absolute: it is a folder on the machines", shorten(s.HostDir))
	}
	if strings.ContainsAny(s.Jump, " \t\n/") {
		fail("jump", "%s: write [user@]host[:port]", shorten(s.Jump))
	}
}

// Sink is a configured storage.
type Sink struct {
	Name   string          `json:"-"`
	Plugin string          `json:"plugin" jsonschema_description:"The sink's plugin. Default: the name of the entry."`
	Own    json.RawMessage `json:"-" part:"own"` // the plugin's own keys: an object, as the file has them
}

func (s *Sink) setName(name string) {
	s.Name = name
	if s.Plugin == "" {
		s.Plugin = name
	}
}

// Chain is a configured chain.
type Chain struct {
	Name         string        `json:"-"`
	Driver       string        `json:"driver" jsonschema_description:"The chain's plugin. Default: the name of the entry."`
	Sink         string        `json:"sink" jsonschema_description:"Where its snapshots go: a name under sinks. Default: the only one."`
	MaxDowntime  time.Duration `json:"max_downtime" jsonschema_description:"The longest that a node may be down; then snapfw gives up and starts it. Default: as the driver plans, else 5m."`
	GuardLease   time.Duration `json:"guard_lease" jsonschema:"default=30s" jsonschema_description:"The node's own machine starts it when it has not heard of snapfw for this long."`
	GuardMargin  time.Duration `json:"guard_margin" jsonschema:"default=30s" jsonschema_description:"How long after max_downtime the node's own machine starts it in any case."`
	AllOrNothing bool          `json:"all_or_nothing" jsonschema:"default=false" jsonschema_description:"Publish all nodes of a run or none."`
	Keep         Keep          `json:"keep" jsonschema_description:"Which published snapshots stay."`
	Limits       Limits        `json:"limits" jsonschema_description:"What a run may take from a machine."`
	Verify       Verify        `json:"verify" jsonschema_description:"Read files again whose sums are remembered: \"full\" or \"sample 5%\"."`
	ListSink     string        `json:"list_sink" jsonschema_description:"Where the list of a release goes, if elsewhere than its objects: a name under sinks."`
	Grace        time.Duration `json:"grace" jsonschema:"default=2w" jsonschema_description:"How long an object of a release stays after it was last named."`
	Review       Review        `json:"review" jsonschema_description:"Who has to agree to the list of a release."`
	Transfers    int           `json:"transfers" jsonschema:"minimum=0,default=0" jsonschema_description:"Files uploaded at once; 0 as the sink thinks best."`

	Own json.RawMessage `json:"-" part:"own"` // the driver's own keys: an object, as the file has them
}

func (c *Chain) defaults() {
	*c = Chain{
		Grace: 14 * 24 * time.Hour, Review: Review{Kind: "manual"}, GuardLease: 30 * time.Second, GuardMargin: 30 * time.Second,
		Keep: Keep{Count: 7},
	}
}

func (c *Chain) setName(name string) {
	c.Name = name
	if c.Driver == "" {
		c.Driver = name
	}
}

func (c *Chain) check(fail func(field, format string, args ...any)) {
	for field, v := range map[string]time.Duration{"max_downtime": c.MaxDowntime, "guard_lease": c.GuardLease, "guard_margin": c.GuardMargin} {
		if v < time.Second && (v != 0 || field != "max_downtime") {
			fail(field, "must be 1s or more")
		}
	}
	if c.Transfers < 0 || c.Transfers > 1024 {
		fail("transfers", "must be between 0 and 1024")
	}
}

// Keep says which published snapshots stay: the newest Count, and of those none that is older than Age. The
// newest good one and the pinned ones always stay, and so does what snapfw did not publish.
type Keep struct {
	Count int           `json:"count" jsonschema:"minimum=0,default=7" jsonschema_description:"This many of the newest stay; 0 is no limit."`
	Age   time.Duration `json:"age" jsonschema_description:"Older ones go: 36h, 30d, 8w; 0 is no limit."`
	Pins  []string      `json:"pins" jsonschema_description:"Names or patterns of snapshots that always stay."`
}

func (k *Keep) check(fail func(field, format string, args ...any)) {
	if k.Count < 0 {
		fail("count", "must be 0 or more")
	}
	for i, pin := range k.Pins {
		if !validPattern(pin) {
			fail(fmt.Sprintf("pins[%d]", i), "%s is no pattern: write a name, or one with * and ?", shorten(pin))
		}
	}
}

// Limits says what a run may take from a machine.
type Limits struct {
	UploadRate Rate `json:"upload_rate" jsonschema_description:"Bytes a second, as 50MiB; 0 is no limit."`
	ReadRate   Rate `json:"read_rate" jsonschema_description:"Bytes a second read from the disk for copies and sums; 0 is no limit."`
	Nice       int  `json:"nice" jsonschema:"minimum=0,maximum=19" jsonschema_description:"Scheduling priority of jobs, 0 to 19."`
	IdleIO     bool `json:"idle_io" jsonschema_description:"Jobs use the disk only when nobody else does."`
}

func (l *Limits) check(fail func(field, format string, args ...any)) {
	if l.Nice < 0 || l.Nice > 19 {
		fail("nice", "must be between 0 and 19")
	}
}

var nameForm = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$`)

// ChainNames returns the names of the configured chains, sorted.
func (f *File) ChainNames() []string { return slices.Sorted(maps.Keys(f.Chains)) }

// Chain returns a chain by name; "" is the only one.
func (f *File) Chain(name string) (Chain, error) {
	if name == "" && len(f.Chains) == 1 {
		name = f.ChainNames()[0]
	}
	if c, ok := f.Chains[name]; ok {
		return c, nil
	}
	names := f.ChainNames()
	if name == "" {
		return Chain{}, fmt.Errorf("say which chain with --chain: %s", strings.Join(names, ", "))
	}
	return Chain{}, fmt.Errorf("no chain %q in %s%s; it has %s", name, f.Path, didYouMean(name, names), strings.Join(names, ", "))
}

// Sink returns a sink by name.
func (f *File) Sink(name string) (Sink, error) {
	if s, ok := f.Sinks[name]; ok {
		return s, nil
	}
	names := slices.Sorted(maps.Keys(f.Sinks))
	return Sink{}, fmt.Errorf("no sink %q in %s%s; it has %s", name, f.Path, didYouMean(name, names), strings.Join(names, ", "))
}

// settle fills in what follows from other keys, and checks what must fit together.
func (f *File) settle(d *decoder) {
	if v := lookup(lookup(f.root, "ssh"), "agent"); v == nil || v.Tag == "!!null" {
		f.SSH.Agent = f.SSH.Key == ""
	}
	f.StateDir = d.path(f.root, f.StateDir, "state_dir")
	f.SSH.Key = d.path(f.root, f.SSH.Key, "ssh", "key")
	for i := range f.SSH.KnownHosts {
		f.SSH.KnownHosts[i] = absolute(f.dir, f.SSH.KnownHosts[i])
	}
	sinks := slices.Sorted(maps.Keys(f.Sinks))
	for _, name := range f.ChainNames() {
		c := f.Chains[name]
		path, at := "chains."+name, nodeAt(f.root, []string{"chains", name})
		switch _, ok := f.Sinks[c.Sink]; {
		case ok:
		case c.Sink != "":
			d.fail(nodeAt(at, []string{"sink"}), path+".sink", "there is no %q under sinks%s", c.Sink, didYouMean(c.Sink, sinks))
		case len(sinks) == 1:
			c.Sink = sinks[0]
		case len(sinks) == 0: // nothing can be published: copies stay where they are taken
		default:
			d.fail(at, path+".sink", "say which one of %s", strings.Join(sinks, ", "))
		}
		if _, ok := f.Sinks[c.ListSink]; !ok && c.ListSink != "" {
			d.fail(nodeAt(at, []string{"list_sink"}), path+".list_sink", "there is no %q under sinks%s", c.ListSink, didYouMean(c.ListSink, sinks))
		}
		c.Review.SSHKey = d.path(f.root, c.Review.SSHKey, "chains", name, "review", "ssh_key")
		f.Chains[name] = c
	}
	if len(f.Chains) == 0 && len(d.problems) == 0 {
		d.fail(f.root, "chains", "nothing is configured: see docs/configuration.md")
	}
}

// path makes a path absolute: from the file's folder, or from the working directory where a
// flag or the environment gave it.
func (d *decoder) path(root *yaml.Node, path string, keys ...string) string {
	if _, ok := d.origin[nodeAt(root, keys)]; ok {
		return absolute(workingDir(), path)
	}
	return absolute(d.dir, path)
}

// decodeFile reads the whole tree; the result is of use only if there are no problems.
func (d *decoder) decodeFile(root *yaml.Node) *File {
	f := &File{Path: d.file, Imported: d.imported, root: root, dir: d.dir}
	f.SSH.defaults()
	f.Notify.defaults()
	f.StateDir = defaultStateDir()
	d.decode("", root, reflect.ValueOf(f).Elem())
	f.settle(d)
	f.Warnings = d.warnings.sorted()
	return f
}
