package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"

	"github.com/snapfw/snapfw/core"
)

// foreignFile is the configuration of snapshot.py. In it "host" is the machine that runs
// the script and "client" is the node's.
type foreignFile struct {
	sshKey struct {
		agent      bool
		path       string
		passphrase string
	}
	rsync struct{ onHost, onClient, to string }
	page  struct {
		ignore bool
		key    string
	}
	machines, condition, pagerDuty json.RawMessage
}

// Import turns a configuration of snapshot.py into today's form. A passphrase or key that stands in it
// in the open becomes a "literal:" reference, which is good only in an imported file.
func (driver) Import(_ context.Context, foreign []byte) ([]byte, error) {
	var root map[string]json.RawMessage
	if err := json.Unmarshal(bytes.TrimPrefix(foreign, []byte("\xef\xbb\xbf")), &root); err != nil {
		return nil, core.ErrForeign
	}
	for _, k := range []string{"ssh_key", "machines", "rsync", "condition"} {
		if _, ok := root[k]; !ok {
			return nil, core.ErrForeign
		}
	}
	f, err := readForeign(root)
	if err != nil {
		return nil, err
	}
	out, err := json.MarshalIndent(f.today(), "", "  ")
	if err != nil {
		return nil, fmt.Errorf("write the imported configuration: %w", err)
	}
	return append(out, '\n'), nil
}

func readForeign(root map[string]json.RawMessage) (foreignFile, error) {
	var f foreignFile
	r := &reader{}
	raw, err := json.Marshal(root)
	if err != nil {
		return f, fmt.Errorf("read the configuration: %w", err)
	}
	raws := func(to *json.RawMessage) func(string, json.RawMessage) {
		return func(_ string, v json.RawMessage) { *to = v }
	}
	r.object("", raw, fields{
		"machines": raws(&f.machines), "condition": raws(&f.condition),
		"ssh_key": func(p string, v json.RawMessage) {
			r.object(p, v, fields{
				"use_existing_agent": r.boolean(&f.sshKey.agent),
				"path":               r.textOrNull(&f.sshKey.path),
				"passphrase":         r.textOrNull(&f.sshKey.passphrase),
			})
		},
		"rsync": func(p string, v json.RawMessage) {
			r.object(p, v, fields{
				"config_path_on_host":   r.text(&f.rsync.onHost),
				"config_path_on_client": r.text(&f.rsync.onClient),
				"snapshot_bin":          r.text(&f.rsync.to),
			}, "snapshot_bin")
		},
		"pager_duty": func(p string, v json.RawMessage) {
			f.pagerDuty = v
			r.object(p, v, fields{"ignore": r.boolean(&f.page.ignore), "service_key_v1": r.textOrNull(&f.page.key)})
		},
	})
	if f.sshKey.path == "" && !f.sshKey.agent {
		r.add("ssh_key.path", "is missing, and use_existing_agent is not true")
	}
	if f.pagerDuty != nil && !f.page.ignore && f.page.key == "" {
		r.add("pager_duty.service_key_v1", "is missing, and ignore is not true")
	}
	// What is in these two is checked as in today's form: the keys are the same.
	part, err := json.Marshal(map[string]json.RawMessage{"machines": f.machines, "condition": f.condition})
	if err != nil {
		return f, fmt.Errorf("read the configuration: %w", err)
	}
	if _, err := readConfig(part); err != nil {
		if fe, ok := err.(core.FieldErrors); ok {
			r.errs = append(r.errs, fe...)
		} else {
			return f, err
		}
	}
	return f, r.errs.Err()
}

// textOrNull is text that may be empty or null.
func (r *reader) textOrNull(to *string) func(string, json.RawMessage) {
	return func(path string, raw json.RawMessage) {
		if k := kindOf(raw); k == "null" || string(bytes.TrimSpace(raw)) == `""` {
			return
		}
		r.text(to)(path, raw)
	}
}

type object map[string]any

func (f foreignFile) today() object {
	ssh := object{"agent": true}
	if !f.sshKey.agent {
		ssh = object{"key": f.sshKey.path}
		if f.sshKey.passphrase != "" {
			ssh["passphrase"] = "literal:" + f.sshKey.passphrase
		}
	}
	sink := object{"plugin": "rclone", "to": f.rsync.to}
	if f.rsync.onHost != "" {
		sink["config_path_on_host"] = f.rsync.onHost
	}
	if f.rsync.onClient != "" {
		sink["config_path_on_client"] = f.rsync.onClient
	}
	out := object{
		"ssh":   ssh,
		"sinks": object{"bucket": sink},
		"chains": object{"harmony": object{
			"driver": "harmony", "sink": "bucket", "machines": f.machines, "condition": f.condition,
		}},
	}
	if f.pagerDuty != nil {
		page := object{}
		if f.page.ignore {
			page["ignore"] = true
		}
		if f.page.key != "" {
			page["routing_key"] = "literal:" + f.page.key
		}
		out["notify"] = object{"pagerduty": page}
	}
	return out
}
