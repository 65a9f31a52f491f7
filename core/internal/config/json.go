package config

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math"
	"strconv"
	"strings"

	"gopkg.in/yaml.v3"
)

// parseJSON reads JSON that json.Valid has passed, keeping order, lines and duplicate keys.
func parseJSON(data []byte) (*yaml.Node, Problem) {
	r := jsonReader{dec: json.NewDecoder(bytes.NewReader(data)), data: data, line: 1}
	r.dec.UseNumber()
	n, err := r.value()
	if err != nil {
		return nil, Problem{Msg: "is not valid JSON: " + err.Error(), Line: r.line}
	}
	return n, Problem{}
}

type jsonReader struct {
	dec  *json.Decoder
	data []byte
	at   int64 // how far lines were counted
	line int
}

// token returns the next token and the line that it ends in.
func (r *jsonReader) token() (json.Token, int, error) {
	tok, err := r.dec.Token()
	if now := r.dec.InputOffset(); now > r.at {
		r.line += bytes.Count(r.data[r.at:now], []byte("\n"))
		r.at = now
	}
	return tok, r.line, err
}

func (r *jsonReader) value() (*yaml.Node, error) {
	tok, line, err := r.token()
	if err != nil {
		return nil, err
	}
	n := &yaml.Node{Kind: yaml.ScalarNode, Line: line}
	switch v := tok.(type) {
	case json.Delim:
		return r.block(v, n)
	case string:
		n.Tag, n.Value = "!!str", v
	case json.Number:
		n.Tag, n.Value = "!!float", v.String()
		if !strings.ContainsAny(n.Value, ".eE") {
			n.Tag = "!!int"
		}
	case bool:
		n.Tag, n.Value = "!!bool", strconv.FormatBool(v)
	default:
		n.Tag, n.Value = "!!null", "null"
	}
	return n, nil
}

func (r *jsonReader) block(open json.Delim, n *yaml.Node) (*yaml.Node, error) {
	n.Kind, n.Tag = yaml.SequenceNode, "!!seq"
	if open == '{' {
		n.Kind, n.Tag = yaml.MappingNode, "!!map"
	}
	for r.dec.More() {
		v, err := r.value() // a key of an object is a value, too
		if err != nil {
			return nil, err
		}
		n.Content = append(n.Content, v)
	}
	_, _, err := r.token()
	return n, err
}

// toJSON writes a tidy tree as JSON, keys in the order of the file, leaving out the named ones of the outermost mapping.
func (d *decoder) toJSON(path string, n *yaml.Node, skip map[string]bool) json.RawMessage {
	var b bytes.Buffer
	d.writeJSON(&b, path, n, skip)
	return b.Bytes()
}

func (d *decoder) writeJSON(b *bytes.Buffer, path string, n *yaml.Node, skip map[string]bool) {
	switch n.Kind {
	case yaml.MappingNode:
		b.WriteByte('{')
		first := true
		for i := 0; i+1 < len(n.Content); i += 2 {
			key := n.Content[i].Value
			if skip[key] {
				continue
			}
			if !first {
				b.WriteByte(',')
			}
			first = false
			writeText(b, key)
			b.WriteByte(':')
			d.writeJSON(b, join(path, key), n.Content[i+1], nil)
		}
		b.WriteByte('}')
	case yaml.SequenceNode:
		b.WriteByte('[')
		for i, item := range n.Content {
			if i > 0 {
				b.WriteByte(',')
			}
			d.writeJSON(b, index(path, i), item, nil)
		}
		b.WriteByte(']')
	default:
		d.writeScalar(b, path, n)
	}
}

func (d *decoder) writeScalar(b *bytes.Buffer, path string, n *yaml.Node) {
	switch n.Tag {
	case "!!null":
		b.WriteString("null")
	case "!!bool":
		b.WriteString(strconv.FormatBool(strings.EqualFold(n.Value, "true")))
	case "!!int", "!!float":
		text, err := number(n)
		if err != nil {
			d.fail(n, path, "%v", err)
			text = "0"
		}
		b.WriteString(text)
	default:
		writeText(b, n.Value)
	}
}

func writeText(b *bytes.Buffer, s string) {
	text, err := json.Marshal(s)
	if err != nil { // a string is always encoded
		text = []byte(`""`)
	}
	b.Write(text)
}

// number gives YAML's 0x1F, 0o17, 1_000 and .5 as JSON has them.
func number(n *yaml.Node) (string, error) {
	if json.Valid([]byte(n.Value)) {
		return n.Value, nil
	}
	plain := yaml.Node{Kind: yaml.ScalarNode, Tag: n.Tag, Value: n.Value}
	var i int64
	if n.Tag == "!!int" && plain.Decode(&i) == nil {
		return strconv.FormatInt(i, 10), nil
	}
	var f float64
	if plain.Decode(&f) == nil && !math.IsInf(f, 0) && !math.IsNaN(f) {
		return strconv.FormatFloat(f, 'g', -1, 64), nil
	}
	return "", fmt.Errorf("%s is no number that can be used here", shorten(n.Value))
}
