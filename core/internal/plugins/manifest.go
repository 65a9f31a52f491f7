package plugins

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"gopkg.in/yaml.v3"

	"github.com/snapfw/snapfw/core"
	"github.com/snapfw/snapfw/core/plugin"
)

// sumsFile pins the executables whose manifests hold no sha256, as sha256sum writes it.
const sumsFile = "SHA256SUMS"

const maxFile = 256 << 10 // of a manifest, and of SHA256SUMS

// Manifest is what plugins.d/NAME.yaml says of a plugin.
type Manifest struct {
	Name     string          `yaml:"name" json:"name"`
	Kind     string          `yaml:"kind" json:"kind"`                         // core.KindChain or core.KindSink
	Protocol int             `yaml:"protocol" json:"protocol"`                 // plugin.Protocol
	Exec     string          `yaml:"exec" json:"exec"`                         // one executable file beside the manifest
	SHA256   string          `yaml:"sha256,omitempty" json:"sha256,omitempty"` // of Exec; "" is as SHA256SUMS has it
	Host     map[string]Host `yaml:"host,omitempty" json:"host,omitempty"`     // by "linux/arm64", where hosts differ from this machine
	Env      []string        `yaml:"env,omitempty" json:"env,omitempty"`       // what the plugin may see of the environment

	File string `yaml:"-" json:"file"` // the manifest's own path
	dir  Dir
	sums map[string]string
}

// Host is the plugin's executable for hosts of another platform.
type Host struct {
	Exec   string `yaml:"exec" json:"exec"`
	SHA256 string `yaml:"sha256,omitempty" json:"sha256,omitempty"`
}

var (
	nameForm     = regexp.MustCompile(`^[a-z][a-z0-9-]{0,31}$`)
	execForm     = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9._-]{0,127}$`)
	sumForm      = regexp.MustCompile(`^[0-9a-f]{64}$`)
	platformForm = regexp.MustCompile(`^[a-z0-9]+/[a-z0-9]+$`)
	envForm      = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*$`)
)

// Read returns the manifests of a folder that are right, by name, and an error for each one
// that is not, with its file and line. A folder that others can write has none.
func Read(dir Dir) ([]Manifest, error) {
	if err := private(string(dir)); err != nil {
		return nil, err
	}
	files, err := filepath.Glob(filepath.Join(globQuote(string(dir)), "*.yaml"))
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", dir, err)
	}
	sums, sumsErr := readSums(filepath.Join(string(dir), sumsFile))
	wrong := []error{sumsErr}
	byName := map[string][]Manifest{}
	for _, file := range files {
		m, err := readManifest(file)
		if err != nil {
			wrong = append(wrong, err)
			continue
		}
		m.dir, m.sums = dir, sums
		byName[m.Name] = append(byName[m.Name], m)
	}
	var all []Manifest
	for name, same := range byName {
		if len(same) > 1 {
			wrong = append(wrong, fmt.Errorf("%s and %s both describe %s: %w", same[0].File, same[1].File, name, errDuplicate))
			continue
		}
		all = append(all, same[0])
	}
	slices.SortFunc(all, func(a, b Manifest) int { return strings.Compare(a.Name, b.Name) })
	return all, errors.Join(wrong...)
}

// globQuote escapes a folder's name: only our own star is one.
func globQuote(s string) string {
	return strings.NewReplacer(`\`, `\\`, `*`, `\*`, `?`, `\?`, `[`, `\[`).Replace(s)
}

func readManifest(file string) (Manifest, error) {
	body, err := readPrivate(file)
	if err != nil {
		return Manifest{}, err
	}
	m, err := parseManifest(file, body)
	m.File = file
	return m, err
}

// readPrivate reads a small file that only its owner can write.
func readPrivate(file string) ([]byte, error) {
	if err := private(file); err != nil {
		return nil, err
	}
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	body, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", file, err)
	}
	if len(body) > maxFile {
		return nil, fmt.Errorf("%s is larger than %d KiB", file, maxFile>>10)
	}
	return body, nil
}

var (
	yamlLine    = regexp.MustCompile(`(?s)^(?:yaml: )?line (\d+): (.*)$`)
	yamlUnknown = regexp.MustCompile(`^field (\S+) not found in type .*$`)
)

// parseManifest decodes strictly; errors begin with file:line.
func parseManifest(file string, body []byte) (Manifest, error) {
	var m Manifest
	d := yaml.NewDecoder(bytes.NewReader(body))
	d.KnownFields(true)
	switch err := d.Decode(&m); {
	case err == io.EOF:
		return m, fmt.Errorf("%s: is empty", file)
	case err != nil:
		return m, yamlError(file, err)
	}
	if err := d.Decode(new(yaml.Node)); err != io.EOF {
		return m, fmt.Errorf("%s: holds more than one document", file)
	}
	var lines yaml.Node
	if err := yaml.Unmarshal(body, &lines); err != nil {
		return m, yamlError(file, err)
	}
	var wrong []error
	for _, e := range m.check() {
		wrong = append(wrong, fmt.Errorf("%s:%d: %s", file, lineOf(&lines, e.Field), e.Error()))
	}
	return m, errors.Join(wrong...)
}

func yamlError(file string, err error) error {
	texts := []string{err.Error()}
	var many *yaml.TypeError
	if errors.As(err, &many) {
		texts = many.Errors
	}
	var wrong []error
	for _, text := range texts {
		at := file
		if parts := yamlLine.FindStringSubmatch(text); parts != nil {
			at, text = file+":"+parts[1], parts[2]
		}
		if parts := yamlUnknown.FindStringSubmatch(text); parts != nil {
			text = "unknown field " + parts[1] + ": a manifest has name, kind, protocol, exec, sha256, host and env"
		}
		wrong = append(wrong, fmt.Errorf("%s: %s", at, text))
	}
	return errors.Join(wrong...)
}

// lineOf finds the line of a root field; 1 where it is missing.
func lineOf(doc *yaml.Node, field string) int {
	if len(doc.Content) == 0 || doc.Content[0].Kind != yaml.MappingNode {
		return 1
	}
	field, _, _ = strings.Cut(field, "[")
	for i, n := range doc.Content[0].Content {
		if i%2 == 0 && n.Value == field {
			return n.Line
		}
	}
	return 1
}

func (m Manifest) check() (bad core.FieldErrors) {
	add := func(ok bool, field, msg string, args ...any) {
		if !ok {
			bad = append(bad, core.FieldError{Field: field, Msg: fmt.Sprintf(msg, args...)})
		}
	}
	add(nameForm.MatchString(m.Name), "name", "%q must be lower-case letters, digits and -", m.Name)
	add(m.Kind == core.KindChain || m.Kind == core.KindSink, "kind", "%q must be chain or sink", m.Kind)
	add(m.Protocol == plugin.Protocol, "protocol", "%d is not what this snapfw speaks (%d): take the plugin's release for it", m.Protocol, plugin.Protocol)
	add(execForm.MatchString(m.Exec), "exec", "%q must be the name of one file beside the manifest, without a path", m.Exec)
	add(m.SHA256 == "" || sumForm.MatchString(m.SHA256), "sha256", "must be 64 lower-case hex digits")
	for platform, h := range m.Host {
		field := "host[" + platform + "]"
		add(platformForm.MatchString(platform), field, "must be a platform such as linux/arm64")
		add(execForm.MatchString(h.Exec), field+".exec", "%q must be the name of one file beside the manifest, without a path", h.Exec)
		add(h.SHA256 == "" || sumForm.MatchString(h.SHA256), field+".sha256", "must be 64 lower-case hex digits")
	}
	for i, name := range m.Env {
		field := fmt.Sprintf("env[%d]", i)
		add(envForm.MatchString(name), field, "%q is not the name of a variable", name)
		add(!strings.HasPrefix(name, "PLUGIN_") && name != "SNAPFW_PLUGIN", field, "%s is set by snapfw", name)
	}
	slices.SortFunc(bad, func(a, b core.FieldError) int { return strings.Compare(a.Field, b.Field) })
	return bad
}

// readSums reads lines of "HEX  NAME", as sha256sum writes them. No file is no sums.
func readSums(file string) (map[string]string, error) {
	body, err := readPrivate(file)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return parseSums(file, body)
}

func parseSums(file string, body []byte) (map[string]string, error) {
	sums := map[string]string{}
	lines := bufio.NewScanner(bytes.NewReader(body))
	lines.Buffer(nil, maxFile+1)
	for n := 1; lines.Scan(); n++ {
		line := lines.Text()
		if line == "" {
			continue
		}
		sum, name, ok := strings.Cut(line, " ")
		name = strings.TrimPrefix(strings.TrimPrefix(strings.TrimPrefix(name, " "), "*"), "./")
		if !ok || !sumForm.MatchString(sum) || !execForm.MatchString(name) {
			return nil, fmt.Errorf("%s:%d: is not a sha256, two spaces and a file's name", file, n)
		}
		if old, ok := sums[name]; ok && old != sum {
			return nil, fmt.Errorf("%s:%d: %s has another sum above", file, n, name)
		}
		sums[name] = sum
	}
	return sums, lines.Err()
}
