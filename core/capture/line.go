package capture

import (
	"bytes"
	"math"
	"strconv"
)

// Lines of tens of thousands of files are read and written while a node is down, and encoding/json takes longer for that than the
// kernel for the files. So the lines that we write ourselves are read as they stand; whatever looks otherwise is left to encoding/json.

// AppendTo appends an ident as encoding/json writes its fields, without the braces.
func (id Ident) AppendTo(b []byte) []byte {
	b = strconv.AppendUint(append(b, `"dev":`...), id.Dev, 10)
	b = strconv.AppendUint(append(b, `,"ino":`...), id.Ino, 10)
	b = strconv.AppendInt(append(b, `,"size":`...), id.Size, 10)
	return strconv.AppendInt(append(b, `,"mtime":`...), id.Mtime, 10)
}

// CutIdent takes what AppendTo appended from the front.
func CutIdent(b []byte) (id Ident, rest []byte, ok bool) {
	var n [4]int64
	for i, key := range []string{`"dev":`, `,"ino":`, `,"size":`, `,"mtime":`} {
		if n[i], b, ok = CutNumber(b, key); !ok {
			return Ident{}, nil, false
		}
	}
	return Ident{Dev: uint64(n[0]), Ino: uint64(n[1]), Size: n[2], Mtime: n[3]}, b, n[0] >= 0 && n[1] >= 0
}

// CutNumber takes a key and its number from the front, in the only form that is written of it.
func CutNumber(b []byte, key string) (n int64, rest []byte, ok bool) {
	if len(b) < len(key) || string(b[:len(key)]) != key {
		return 0, nil, false
	}
	b = b[len(key):]
	minus := len(b) > 0 && b[0] == '-'
	if minus {
		b = b[1:]
	}
	var u uint64
	i := 0
	for ; i < len(b) && i < 19 && b[i] >= '0' && b[i] <= '9'; i++ { // 19 digits don't overflow it
		u = u*10 + uint64(b[i]-'0')
	}
	if i == 0 || b[0] == '0' && (i > 1 || minus) || u > math.MaxInt64 || i < len(b) && b[i] >= '0' && b[i] <= '9' {
		return 0, nil, false
	}
	if n = int64(u); minus {
		n = -n
	}
	return n, b[i:], true
}

// CutString takes a key and its string from the front: one without an escape, of printable ASCII. key ends in the opening quote.
func CutString(b []byte, key string) (s, rest []byte, ok bool) {
	b, ok = bytes.CutPrefix(b, []byte(key))
	end := bytes.IndexByte(b, '"')
	if !ok || end < 0 || !Plain(b[:end]) {
		return nil, nil, false
	}
	return b[:end], b[end+1:], true
}

// Plain tells whether a string is its own JSON: printable ASCII that needs no escape.
func Plain[T string | []byte](s T) bool {
	for i := range len(s) {
		if c := s[i]; c < ' ' || c > '~' || c == '"' || c == '\\' {
			return false
		}
	}
	return true
}

// appendRecord appends a record's line; ok is false for a name that needs escapes.
func appendRecord(b []byte, r *Record) (line []byte, ok bool) {
	if !Plain(r.Name) {
		return b, false
	}
	b = append(append(b, `{"name":"`...), r.Name...)
	b = append(append(b, `","how":"`...), r.How...)
	b = append(r.Src.AppendTo(append(b, `","src":{`...)), '}')
	if r.Own != nil {
		b = append(r.Own.AppendTo(append(b, `,"own":{`...)), '}')
	}
	return append(b, "}\n"...), true
}

// plainRecord reads a line that appendRecord wrote.
func plainRecord(line []byte) (r Record, ok bool) {
	name, b, ok := CutString(line, `{"name":"`)
	if !ok {
		return r, false
	}
	how, b, ok := CutString(b, `,"how":"`)
	if !ok {
		return r, false
	}
	r.Name = string(name)
	switch string(how) { // no copy of each
	case linked:
		r.How = linked
	case cloned:
		r.How = cloned
	case copied:
		r.How = copied
	default:
		return r, false
	}
	if r.Src, b, ok = cutObject(b, `,"src":{`); !ok {
		return r, false
	}
	if bytes.HasPrefix(b, []byte(`,"own":{`)) {
		var own Ident
		if own, b, ok = cutObject(b, `,"own":{`); !ok {
			return r, false
		}
		r.Own = &own
	}
	return r, string(b) == "}"
}

func cutObject(b []byte, key string) (id Ident, rest []byte, ok bool) {
	if b, ok = bytes.CutPrefix(b, []byte(key)); !ok {
		return id, nil, false
	}
	if id, b, ok = CutIdent(b); !ok {
		return id, nil, false
	}
	rest, ok = bytes.CutPrefix(b, []byte("}"))
	return id, rest, ok
}
