package main

import (
	"encoding/json"
	"fmt"
	"path"
	"regexp"
	"strings"
	"time"

	"github.com/snapfw/snapfw/core"
)

// settings is the chain's own part of the configuration.
type settings struct {
	Local     bool            `json:"local"`
	IP        string          `json:"ip"`
	User      string          `json:"user"`
	Port      int             `json:"port"`
	Owner     string          `json:"owner"`
	RPCPort   int             `json:"rpc_port"`
	Datadir   string          `json:"datadir"`
	Chain     string          `json:"chain"`
	Prefix    string          `json:"prefix"`
	List      string          `json:"list"`
	Service   string          `json:"service"`
	Container string          `json:"container"`
	Stop      string          `json:"stop_timeout"`
	KillAfter string          `json:"kill_after"`
	Programs  programs        `json:"programs"`
	Integrity integritySet    `json:"integrity"`
	Allow     json.RawMessage `json:"allow,omitempty"`
	Skip      json.RawMessage `json:"skip_checks,omitempty"`
}

// programs are Erigon's, as they are called on the node's machine.
type programs struct {
	Erigon      string `json:"erigon"`
	Integration string `json:"integration"`
	Docker      string `json:"docker"`
	Systemctl   string `json:"systemctl"`
}

// integritySet says how `seg integrity` runs.
type integritySet struct {
	On     string        `json:"on"` // datadir, mirror, never
	Checks []string      `json:"checks"`
	Skip   []skippedTest `json:"skip"`
	Budget string        `json:"budget"`
	Sample float64       `json:"sample"`
}

type skippedTest struct {
	Check  string `json:"check"`
	Reason string `json:"reason"`
}

// Where integrity runs.
const (
	onDatadir = "datadir" // before the view is taken, while the node is down
	onMirror  = "mirror"  // on a mirror, while the node is up again
	onNever   = "never"
)

func schema() json.RawMessage {
	return json.RawMessage(`{
		"$schema": "https://json-schema.org/draft/2020-12/schema",
		"type": "object",
		"additionalProperties": false,
		"required": ["datadir", "chain"],
		"properties": {
			"local": {"description": "The node runs on this machine.", "type": "boolean", "default": false},
			"ip": {"description": "Address or name of the node's machine.", "type": "string", "minLength": 1},
			"user": {"description": "Login user; else as ssh is configured.", "type": "string", "minLength": 1},
			"port": {"description": "Port of sshd.", "type": "integer", "minimum": 1, "maximum": 65535, "default": 22},
			"owner": {"description": "Who owns the datadir, if not the login user.", "type": "string", "minLength": 1},
			"rpc_port": {"description": "Port of the node's JSON-RPC on its own loopback.", "type": "integer", "minimum": 1, "maximum": 65535, "default": 8545},
			"datadir": {"description": "Erigon's --datadir: the folder that holds snapshots/ and chaindata/.", "type": "string", "pattern": "^/"},
			"chain": {"description": "Erigon's --chain: mainnet, gnosis, …", "type": "string", "pattern": "^[a-z0-9][a-z0-9-]*$"},
			"prefix": {"description": "Where in the sink the files' keys begin. Default: at its root, as nodes fetch them.", "type": "string"},
			"list": {"description": "Key of the list that nodes start from. Default: CHAIN.toml.", "type": "string", "minLength": 1},
			"service": {"description": "Erigon's systemd unit.", "type": "string", "minLength": 1},
			"container": {"description": "Erigon's Docker container. Without service and container it is a process, started again as it was launched.", "type": "string", "minLength": 1},
			"stop_timeout": {"description": "How long Erigon may take to stop. It is not killed.", "type": "string", "default": "30m"},
			"kill_after": {"description": "Kill a process that does not stop in this time; a killed merge leaves gaps. Default: never.", "type": "string"},
			"programs": {
				"description": "Erigon's programs on the node's machine: names in PATH, or paths.",
				"type": "object",
				"additionalProperties": false,
				"properties": {
					"erigon": {"type": "string", "minLength": 1, "default": "erigon"},
					"integration": {"type": "string", "minLength": 1, "default": "integration"},
					"docker": {"type": "string", "pattern": "^/", "default": "/usr/bin/docker"},
					"systemctl": {"type": "string", "pattern": "^/", "default": "/usr/bin/systemctl"}
				}
			},
			"integrity": {
				"description": "How Erigon's own checks run.",
				"type": "object",
				"additionalProperties": false,
				"properties": {
					"on": {"description": "On the datadir while the node is down, on a mirror of it while the node is up again, or never.", "enum": ["datadir", "mirror", "never"], "default": "datadir"},
					"checks": {"description": "Only these. Default: those that this Erigon runs by default.", "type": "array", "items": {"type": "string", "minLength": 1}},
					"skip": {
						"description": "Checks that are left out.",
						"type": "array",
						"items": {
							"type": "object",
							"additionalProperties": false,
							"required": ["check", "reason"],
							"properties": {"check": {"type": "string", "minLength": 1}, "reason": {"type": "string", "minLength": 1}}
						}
					},
					"budget": {"description": "How long they may take; what does not end in it is a failure.", "type": "string"},
					"sample": {"description": "Share of what is sampled, above 0 and up to 1.", "type": "number", "exclusiveMinimum": 0, "maximum": 1}
				}
			},
			"allow": ` + allowSchema + `,
			"skip_checks": ` + skipSchema + `
		}
	}`)
}

var unitForm = regexp.MustCompile(`^[A-Za-z0-9:_.@\\-]+$`)

// readChainSettings reads and completes the configuration; what is wrong comes by field.
func readChainSettings(config json.RawMessage) (settings, error) {
	s := settings{
		RPCPort: 8545, Stop: "30m", Integrity: integritySet{On: onDatadir},
		Programs: programs{Erigon: "erigon", Integration: "integration", Docker: "/usr/bin/docker", Systemctl: "/usr/bin/systemctl"},
	}
	d := json.NewDecoder(strings.NewReader(string(config)))
	d.DisallowUnknownFields()
	if err := d.Decode(&s); err != nil {
		return s, core.FieldErrors{{Msg: err.Error()}}
	}
	if s.List == "" {
		s.List = s.Chain + ".toml"
	}
	return s, s.check(config).Err()
}

func (s settings) check(config json.RawMessage) core.FieldErrors {
	var wrong core.FieldErrors
	bad := func(field, format string, args ...any) {
		wrong = append(wrong, core.FieldError{Field: field, Msg: fmt.Sprintf(format, args...)})
	}
	if !path.IsAbs(s.Datadir) || path.Clean(s.Datadir) != s.Datadir || s.Datadir == "/" {
		bad("datadir", "%q is no clean absolute path", s.Datadir)
	}
	if !chainName.MatchString(s.Chain) {
		bad("chain", "%q is no name of a chain: want Erigon's --chain", s.Chain)
	}
	if s.Local == (s.IP != "") {
		bad("ip", "say where the node runs: either ip, or local: true")
	}
	if s.Local && (s.User != "" || s.Port != 0) {
		bad("local", "user and port are for a machine that is reached over ssh")
	}
	if s.Port < 0 || s.Port > 65535 {
		bad("port", "%d is no port", s.Port)
	}
	if s.RPCPort < 1 || s.RPCPort > 65535 {
		bad("rpc_port", "%d is no port", s.RPCPort)
	}
	if s.Service != "" && s.Container != "" {
		bad("container", "a node is run by a service or by a container, not by both")
	}
	for field, name := range map[string]string{"service": s.Service, "container": s.Container} {
		if name != "" && (!unitForm.MatchString(name) || name[0] == '-') {
			bad(field, "%q is no name", name)
		}
	}
	for field, key := range map[string]string{"prefix": s.Prefix, "list": s.List} {
		if key != "" && (path.IsAbs(key) || path.Clean(key) != key || key[0] == '.') {
			bad(field, "%q is no clean relative path", key)
		}
	}
	for field, text := range map[string]string{"stop_timeout": s.Stop, "kill_after": s.KillAfter, "integrity.budget": s.Integrity.Budget} {
		if d, err := time.ParseDuration(text); (text != "" || field == "stop_timeout") && (err != nil || d <= 0) {
			bad(field, "%q is no time, as 30m", text)
		}
	}
	s.checkTools(bad)
	if _, err := readPolicy(config); err != nil {
		wrong = append(wrong, fieldsOf("allow", err)...)
	}
	if _, err := readSkips(config); err != nil {
		wrong = append(wrong, fieldsOf("skip_checks", err)...)
	}
	return wrong
}

// checkTools looks at Erigon's programs and its own checks.
func (s settings) checkTools(bad func(field, format string, args ...any)) {
	for field, program := range map[string]string{"programs.erigon": s.Programs.Erigon, "programs.integration": s.Programs.Integration} {
		if program == "" || program[0] == '-' {
			bad(field, "%q is no program: want a name in PATH, or a path", program)
		}
	}
	for field, program := range map[string]string{"programs.docker": s.Programs.Docker, "programs.systemctl": s.Programs.Systemctl} {
		if !path.IsAbs(program) {
			bad(field, "%q is no absolute path", program)
		}
	}
	if on := s.Integrity.On; on != onDatadir && on != onMirror && on != onNever {
		bad("integrity.on", "%q is none of datadir, mirror, never", on)
	}
	if share := s.Integrity.Sample; share < 0 || share > 1 {
		bad("integrity.sample", "%g is no share: above 0 and up to 1", share)
	}
	for i, t := range s.Integrity.Skip {
		if t.Reason == "" || !plainName.MatchString(t.Check) {
			bad(fmt.Sprintf("integrity.skip[%d]", i), "a check is skipped by its name, and for a reason")
		}
	}
	for i, name := range s.Integrity.Checks {
		if !plainName.MatchString(name) {
			bad(fmt.Sprintf("integrity.checks[%d]", i), "%q is no name of a check", name)
		}
	}
}

// fieldsOf keeps the fields that an error names already.
func fieldsOf(field string, err error) core.FieldErrors {
	if named, ok := err.(core.FieldErrors); ok {
		return named
	}
	return core.FieldErrors{{Field: field, Msg: err.Error()}}
}

func (s settings) stopTimeout() time.Duration {
	d, err := time.ParseDuration(s.Stop)
	if err != nil {
		return 30 * time.Minute // it was checked when the nodes were named
	}
	return d
}
