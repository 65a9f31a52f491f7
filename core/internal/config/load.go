package config

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/pflag"
	"github.com/spf13/viper"
	"gopkg.in/yaml.v3"

	"github.com/snapfw/snapfw/core"
)

// Options say what to load.
type Options struct {
	Path  string         // of the file; "" looks in the usual places
	Flags *pflag.FlagSet // flags of these names win over the environment and the file where they were given: see Settings
}

// Setting is a key of the file that the environment and a flag can set, too.
type Setting struct {
	Key  string // "ssh.user"
	Env  string // "SNAPFW_SSH_USER"
	Flag string // "ssh-user"
	kind string // "!!str", "!!bool" or, a list of paths, "!!seq"
}

// Settings are the keys that the environment and flags can set.
var Settings = []Setting{
	setting("state_dir", "!!str"),
	setting("ssh.key", "!!str"),
	setting("ssh.agent", "!!bool"),
	setting("ssh.passphrase", "!!str"),
	setting("ssh.user", "!!str"),
	setting("ssh.known_hosts", "!!seq"),
	setting("ssh.host_keys", "!!str"),
	setting("ssh.jump", "!!str"),
	setting("ssh.connect_timeout", "!!str"),
	setting("ssh.host_dir", "!!str"),
}

func setting(key, kind string) Setting {
	return Setting{
		Key:  key,
		Env:  "SNAPFW_" + strings.ToUpper(strings.ReplaceAll(key, ".", "_")),
		Flag: strings.NewReplacer(".", "-", "_", "-").Replace(key),
		kind: kind,
	}
}

// ErrNoFile is returned where no configuration was named and none lies in the usual places.
var ErrNoFile = errors.New("no configuration")

// Places returns where a configuration is looked for, in order.
func Places() []string {
	dirs := []string{"."}
	if dir, err := os.UserConfigDir(); err == nil {
		dirs = append(dirs, filepath.Join(dir, "snapfw"))
	}
	dirs = append(dirs, "/etc/snapfw")
	var places []string
	for _, dir := range dirs {
		for _, ext := range []string{"yaml", "yml", "json"} {
			places = append(places, filepath.Join(dir, "snapfw."+ext))
		}
	}
	return places
}

// Find returns the path of the configuration: the named one, else the first in Places.
func Find(named string) (string, error) {
	if named != "" {
		return named, nil
	}
	places := Places()
	for _, p := range places {
		if info, err := os.Stat(p); err == nil && info.Mode().IsRegular() {
			return p, nil
		}
	}
	return "", fmt.Errorf("%w: name one with --config, or write one of %s", ErrNoFile, strings.Join(places, ", "))
}

// Read returns a file's bytes, 4 MiB at most.
func Read(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("read configuration: %w", err)
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxBytes+1))
	if err != nil {
		return nil, fmt.Errorf("read configuration: %w", err)
	}
	return data, nil
}

// Load finds, reads and checks the configuration. What is wrong in it comes as Problems, what
// can't be read as another error. Plugins' parts are checked by File.Check.
func Load(o Options) (*File, error) {
	path, err := Find(o.Path)
	if err != nil {
		return nil, err
	}
	data, err := Read(path)
	if err != nil {
		return nil, err
	}
	o.Path = path
	return LoadBytes(o, data)
}

// LoadBytes checks a configuration that was read already; o.Path is its name.
func LoadBytes(o Options, data []byte) (*File, error) {
	root, problems := parse(o.Path, data)
	if len(problems) > 0 {
		return nil, problems
	}
	return o.decode(root, nil)
}

// LoadImported checks what a driver's Importer made of another tool's file: today's form as JSON. In it secrets
// may stand as "literal:VALUE". foreign is the file that it was made of; a problem in a driver's
// part has the line there if the same field is in both.
func LoadImported(o Options, data, foreign []byte) (*File, error) {
	root, problems := parse(o.Path, data)
	dropLines(root)
	if len(problems) > 0 {
		for i := range problems {
			problems[i].Line = 0
		}
		return nil, problems
	}
	old, _ := parse(o.Path, foreign) // only for its lines
	if old == nil {
		old = &yaml.Node{Kind: yaml.MappingNode}
	}
	return o.decode(root, old)
}

// PlaceIn gives errors about the fields of a file their lines: an Importer's, in the file that it was given.
func PlaceIn(file string, data []byte, errs core.FieldErrors) Problems {
	root, _ := parse(file, data)
	var all Problems
	for _, e := range errs {
		field, line := locate(root, "", split(e.Field))
		all = append(all, Problem{Field: field, Msg: e.Msg, File: file, Line: line})
	}
	return all.sorted()
}

// Defaults returns what holds without a file: the environment and the flags.
func Defaults(o Options) (*File, error) {
	o.Path = ""
	d := decoder{dir: workingDir(), origin: map[*yaml.Node]string{}}
	root := &yaml.Node{Kind: yaml.MappingNode}
	if err := o.overlay(root, &d); err != nil {
		return nil, err
	}
	f := d.decodeFile(root)
	problems := slices.DeleteFunc(d.problems, func(p Problem) bool { return p.Field == "chains" })
	if len(problems) > 0 {
		return nil, problems.sorted()
	}
	return f, nil
}

func (o Options) decode(root, foreign *yaml.Node) (*File, error) {
	dir := workingDir()
	if o.Path != "" {
		dir = absolute(dir, filepath.Dir(o.Path))
	}
	d := decoder{file: o.Path, dir: dir, imported: foreign != nil, origin: map[*yaml.Node]string{}}
	if err := o.overlay(root, &d); err != nil {
		return nil, err
	}
	f := d.decodeFile(root)
	f.foreign = foreign
	if len(d.problems) > 0 {
		return nil, d.problems.sorted()
	}
	return f, nil
}

// overlay puts what flags and the environment say into the tree, so that the same decoder checks it.
// viper knows who wins: a flag that was given, then the environment, then the file.
func (o Options) overlay(root *yaml.Node, d *decoder) error {
	v := viper.New()
	for _, s := range Settings {
		if err := v.BindEnv(s.Key, s.Env); err != nil {
			return fmt.Errorf("bind %s: %w", s.Env, err)
		}
		from := ""
		if os.Getenv(s.Env) != "" {
			from = s.Env
		}
		if o.Flags != nil {
			if flag := o.Flags.Lookup(s.Flag); flag != nil && flag.Changed {
				if err := v.BindPFlag(s.Key, flag); err != nil {
					return fmt.Errorf("bind --%s: %w", s.Flag, err)
				}
				from = "--" + s.Flag
			}
		}
		if from == "" {
			continue // as in the file
		}
		n := s.node(v)
		d.origin[n] = from
		for _, item := range n.Content {
			d.origin[item] = from
		}
		set(root, n, strings.Split(s.Key, ".")...)
	}
	return nil
}

func (s Setting) node(v *viper.Viper) *yaml.Node {
	switch s.kind {
	case "!!bool":
		text := v.GetString(s.Key)
		if b, err := strconv.ParseBool(text); err == nil {
			return &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!bool", Value: strconv.FormatBool(b)}
		}
		return &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!str", Value: text}
	case "!!seq":
		list := &yaml.Node{Kind: yaml.SequenceNode, Tag: "!!seq"}
		paths, ok := v.Get(s.Key).([]string)
		if !ok {
			paths = filepath.SplitList(v.GetString(s.Key))
		}
		for _, p := range paths {
			list.Content = append(list.Content, &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!str", Value: absolute(workingDir(), p)})
		}
		return list
	}
	return &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!str", Value: v.GetString(s.Key)}
}

func dropLines(n *yaml.Node) {
	if n == nil {
		return
	}
	n.Line = 0
	for _, c := range n.Content {
		dropLines(c)
	}
}

func workingDir() string {
	dir, err := os.Getwd()
	if err != nil {
		return "/"
	}
	return dir
}

// defaultStateDir is $XDG_STATE_HOME/snapfw where that is set, /var/lib/snapfw for root, else
// ~/.local/state/snapfw.
func defaultStateDir() string {
	if dir := os.Getenv("XDG_STATE_HOME"); filepath.IsAbs(dir) {
		return filepath.Join(dir, "snapfw")
	}
	home, err := os.UserHomeDir()
	if os.Geteuid() == 0 || err != nil {
		return "/var/lib/snapfw"
	}
	return filepath.Join(home, ".local", "state", "snapfw")
}

func validPattern(p string) bool {
	_, err := path.Match(p, "")
	return err == nil && p != "" && !strings.ContainsRune(p, 0)
}

// IsMissing tells whether an error says that there is no such file.
func IsMissing(err error) bool { return errors.Is(err, ErrNoFile) || errors.Is(err, fs.ErrNotExist) }
