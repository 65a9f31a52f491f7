package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"sort"
	"strconv"
	"strings"
	"time"

	"github.com/snapfw/snapfw/core"
)

// reader decodes JSON strictly and gathers what is wrong by field, all of it at once.
type reader struct{ errs core.FieldErrors }

// fields says what to do with the value of each known key.
type fields map[string]func(path string, v json.RawMessage)

func (r *reader) add(path, format string, args ...any) {
	r.errs = append(r.errs, core.FieldError{Field: path, Msg: fmt.Sprintf(format, args...)})
}

// object reads an object and reports unknown and missing keys. It returns the
// keys that were there, or nil if it is no object.
func (r *reader) object(path string, raw json.RawMessage, f fields, required ...string) map[string]bool {
	var m map[string]json.RawMessage
	if err := json.Unmarshal(raw, &m); err != nil || m == nil {
		r.add(path, "is %s: an object was expected", kindOf(raw))
		return nil
	}
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	sort.Strings(keys)
	seen := map[string]bool{}
	for _, k := range keys {
		read, ok := f[k]
		if !ok {
			r.add(join(path, k), "is not known here: there are %s", strings.Join(f.names(), ", "))
			continue
		}
		seen[k] = true
		read(join(path, k), m[k])
	}
	for _, k := range required {
		if !seen[k] {
			r.add(join(path, k), "is missing")
		}
	}
	return seen
}

func (f fields) names() []string {
	var out []string
	for k := range f {
		out = append(out, k)
	}
	sort.Strings(out)
	return out
}

func (r *reader) list(item func(path string, v json.RawMessage)) func(string, json.RawMessage) {
	return func(path string, raw json.RawMessage) {
		var l []json.RawMessage
		if err := json.Unmarshal(raw, &l); err != nil || l == nil {
			r.add(path, "is %s: a list was expected", kindOf(raw))
			return
		}
		for i, v := range l {
			item(fmt.Sprintf("%s[%d]", path, i), v)
		}
	}
}

func (r *reader) text(to *string) func(string, json.RawMessage) {
	return func(path string, raw json.RawMessage) {
		if kindOf(raw) != "a string" || json.Unmarshal(raw, to) != nil {
			r.add(path, "is %s: a string was expected", kindOf(raw))
		} else if *to == "" {
			r.add(path, "is empty: write a value or take the key away")
		}
	}
}

func (r *reader) integer(to *int, least, most int) func(string, json.RawMessage) {
	return func(path string, raw json.RawMessage) {
		n, err := strconv.Atoi(string(bytes.TrimSpace(raw)))
		if err != nil {
			r.add(path, "is %s: a whole number was expected", kindOf(raw))
			return
		}
		if n < least || n > most {
			r.add(path, "is %d: a number from %d to %d was expected", n, least, most)
			return
		}
		*to = n
	}
}

func (r *reader) boolean(to *bool) func(string, json.RawMessage) {
	return func(path string, raw json.RawMessage) {
		if kindOf(raw) != "a truth value" || json.Unmarshal(raw, to) != nil {
			r.add(path, "is %s: true or false was expected", kindOf(raw))
		}
	}
}

// flag is a boolean that may also be the string "true" or "false": files written for
// the tool that this replaces have both.
func (r *reader) flag(to *bool) func(string, json.RawMessage) {
	return func(path string, raw json.RawMessage) {
		var s string
		if json.Unmarshal(raw, &s) == nil && kindOf(raw) == "a string" {
			switch strings.ToLower(s) {
			case "true", "false":
				*to = strings.EqualFold(s, "true")
			default:
				r.add(path, "is %q: true or false was expected", s)
			}
			return
		}
		r.boolean(to)(path, raw)
	}
}

func (r *reader) duration(to *time.Duration, least time.Duration) func(string, json.RawMessage) {
	return func(path string, raw json.RawMessage) {
		var s string
		d, err := time.Duration(0), json.Unmarshal(raw, &s)
		if err == nil {
			d, err = time.ParseDuration(s)
		}
		if err != nil {
			r.add(path, "is %s: a duration like 5m or 90s was expected", bytes.TrimSpace(raw))
			return
		}
		if d < least {
			r.add(path, "is %s: at least %s was expected", d, least)
			return
		}
		*to = d
	}
}

func join(path, key string) string {
	if path == "" {
		return key
	}
	return path + "." + key
}

// kindOf names a JSON value for people.
func kindOf(raw json.RawMessage) string {
	b := bytes.TrimSpace(raw)
	if len(b) == 0 {
		return "missing"
	}
	switch b[0] {
	case '"':
		return "a string"
	case '{':
		return "an object"
	case '[':
		return "a list"
	case 't', 'f':
		return "a truth value"
	case 'n':
		return "null"
	}
	return "the number " + string(b)
}
