package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"

	"github.com/snapfw/snapfw/core"
)

// policy is what a chain's configuration knows to be harmless.
type policy []allowance

// allowance lets findings of one class through, for a reason that everybody gets to read. A field
// that is left out allows any; type or ext has to be there.
type allowance struct {
	Class    string  `json:"class"`
	Type     string  `json:"type"` // "accounts", "headers", "BlockRoot"
	Ext      string  `json:"ext"`  // "kvei"
	From     *uint64 `json:"from"` // files that lie in [from, to), in the unit of their names
	To       *uint64 `json:"to"`
	Frontier int     `json:"frontier"` // files of the last so many ranges of their type in the published list
	Covered  bool    `json:"covered"`  // deletions only: what stays covers the range
	Reason   string  `json:"reason"`
}

// allowSchema is the JSON Schema of "allow" in a chain's configuration.
const allowSchema = `{
  "description": "Changes of the published list that are known to be harmless. What none of them allows needs --force with a reason.",
  "type": "array",
  "items": {
    "type": "object",
    "additionalProperties": false,
    "required": ["class", "reason"],
    "anyOf": [{"required": ["type"]}, {"required": ["ext"]}],
    "properties": {
      "class": {"description": "Which kind of finding.", "enum": ["hash_changes", "unexpected_deletions", "version_conflicts", "version_downgrades", "gaps", "overlaps"]},
      "type": {"description": "Type of file: accounts, headers, BlockRoot.", "type": "string", "minLength": 1},
      "ext": {"description": "Extension, without the dot: kvei.", "type": "string", "minLength": 1},
      "from": {"description": "Only files whose range begins here or later, in the unit of their names.", "type": "integer", "minimum": 0},
      "to": {"description": "Only files whose range ends here or earlier.", "type": "integer", "minimum": 1},
      "frontier": {"description": "Only files of the last so many ranges of their type in the published list.", "type": "integer", "minimum": 1},
      "covered": {"description": "Of deletions, only those whose range is covered by what stays.", "type": "boolean"},
      "reason": {"description": "Why it is harmless; it is in the review and in the messages.", "type": "string", "minLength": 1}
    }
  }
}`

// readPolicy reads "allow" of a chain's configuration; nothing else in it is looked at, and no
// configuration at all is an empty policy.
func readPolicy(config json.RawMessage) (policy, error) {
	if len(bytes.TrimSpace(config)) == 0 {
		return nil, nil
	}
	var c struct {
		Allow []json.RawMessage `json:"allow"`
	}
	if err := json.Unmarshal(config, &c); err != nil {
		return nil, core.FieldErrors{{Field: "allow", Msg: "want a list of allowances: " + err.Error()}}
	}
	var p policy
	var wrong core.FieldErrors
	for i, raw := range c.Allow {
		field := fmt.Sprintf("allow[%d]", i)
		var a allowance
		d := json.NewDecoder(bytes.NewReader(raw))
		d.DisallowUnknownFields()
		if err := d.Decode(&a); err != nil {
			wrong = append(wrong, core.FieldError{Field: field, Msg: err.Error()})
			continue
		}
		wrong = append(wrong, a.check(field)...)
		p = append(p, a)
	}
	return p, wrong.Err()
}

func (a allowance) check(field string) (wrong core.FieldErrors) {
	bad := func(name, msg string) { wrong = append(wrong, core.FieldError{Field: field + name, Msg: msg}) }
	if !refusing[a.Class] || a.Class == classForeign {
		bad(".class", fmt.Sprintf("%q is no class that can be allowed: hash_changes, unexpected_deletions, version_conflicts, version_downgrades, gaps, overlaps", a.Class))
	}
	if a.Type == "" && a.Ext == "" {
		bad("", "say which files: type, ext or both")
	}
	if a.Reason == "" {
		bad(".reason", "an allowance needs a reason: it is in the review")
	}
	if a.From != nil && a.To != nil && *a.From >= *a.To {
		bad(".to", "it has to be more than from")
	}
	if a.Frontier < 0 {
		bad(".frontier", "it is a number of ranges: 1 or more")
	}
	if a.Covered && a.Class != classDeletion {
		bad(".covered", "only unexpected_deletions can be covered")
	}
	return wrong
}

// reason returns why a finding is allowed, or "". frontier is the list whose last
// ranges count.
func (p policy) reason(c change, frontier *list) string {
	i := slices.IndexFunc(p, func(a allowance) bool { return a.allows(c, frontier) })
	if i < 0 {
		return ""
	}
	return p[i].Reason
}

func (a allowance) allows(c change, frontier *list) bool {
	f := c.at.fileName
	switch {
	case f.Family == 0, a.Class != c.class, a.Type != "" && a.Type != f.Type, a.Ext != "" && a.Ext != f.Ext:
		return false
	case !f.ranged():
		return a.Type != "" && a.From == nil && a.To == nil && a.Frontier == 0 && !a.Covered
	case a.From != nil && f.From < *a.From, a.To != nil && f.To > *a.To:
		return false
	case a.Frontier > 0 && !frontier.frontier(f, a.Frontier):
		return false
	case a.Covered && !c.covered:
		return false
	}
	return true
}
