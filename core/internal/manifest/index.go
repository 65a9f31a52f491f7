package manifest

import (
	"bytes"
	_ "embed"
	"errors"
	"fmt"
	"html/template"
	"maps"
	"net/url"
	"slices"
	"strings"
	"time"
)

// Index is index.json: every series of a sink, for programs. index.html is the same for people.
type Index struct {
	Version int       `json:"version"`
	Updated time.Time `json:"updated"`
	Series  []Listed  `json:"series"` // sorted by key
}

// Listed is one series: the key of its pointer and what that says.
type Listed struct {
	Key string `json:"key"`
	Pointer
}

// NewIndex builds an index from all pointers, by their keys.
func NewIndex(pointers map[string]Pointer, now time.Time) Index {
	x := Index{Version: Version, Updated: now.UTC().Truncate(time.Second), Series: []Listed{}}
	for _, key := range slices.Sorted(maps.Keys(pointers)) {
		x.Series = append(x.Series, Listed{Key: key, Pointer: pointers[key]})
	}
	return x
}

// Encode writes index.json.
func (x Index) Encode() ([]byte, error) { return encode(x) }

// ParseIndex reads index.json.
func ParseIndex(body []byte) (Index, error) {
	var x Index
	if err := decode(body, MaxManifest, &x); err != nil {
		return Index{}, fmt.Errorf("read index: %w", err)
	}
	if x.Version > Version || x.Version < 1 {
		return Index{}, fmt.Errorf("read index: version %d: this snapfw knows %d; use a newer one", x.Version, Version)
	}
	for _, s := range x.Series {
		if err := errors.Join(CheckName(s.Key), s.Check()); err != nil {
			return Index{}, fmt.Errorf("read index: %s: %w", clip(s.Key), err)
		}
	}
	return x, nil
}

//go:embed index.html.tmpl
var page string

var pageTemplate = template.Must(template.New("index").Funcs(template.FuncMap{
	"size": Size, "age": Age, "count": count, "link": link, "day": day, "short": short, "last": lastPart,
}).Parse(page))

// HTML renders index.html: one file, no scripts, nothing loaded from elsewhere, links relative to
// where it lies. title names the place: "somechain testnet".
func (x Index) HTML(title string) ([]byte, error) {
	var b bytes.Buffer
	err := pageTemplate.Execute(&b, struct {
		Title string
		Index
	}{title, x})
	if err != nil {
		return nil, fmt.Errorf("render index.html: %w", err)
	}
	return b.Bytes(), nil
}

// Size is a number of bytes for people: "1.4 TiB".
func Size(n int64) string {
	if n < 1024 {
		return fmt.Sprintf("%d B", n)
	}
	f, unit := float64(n), ""
	for _, unit = range []string{"KiB", "MiB", "GiB", "TiB", "PiB", "EiB"} {
		if f /= 1024; f < 999.95 {
			break
		}
	}
	return fmt.Sprintf("%.1f %s", f, unit)
}

// Age is a time span for people: "3 hours".
func Age(d time.Duration) string {
	for _, u := range []struct {
		span time.Duration
		name string
	}{{365 * 24 * time.Hour, "year"}, {24 * time.Hour, "day"}, {time.Hour, "hour"}, {time.Minute, "minute"}} {
		if n := int64(d / u.span); n == 1 {
			return "1 " + u.name
		} else if n > 1 {
			return fmt.Sprintf("%d %ss", n, u.name)
		}
	}
	return "less than a minute"
}

// count writes a number that is not negative in groups of three: "57,120,331".
func count(n any) string {
	s := fmt.Sprint(n)
	for i := len(s) - 3; i > 0; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}

// link makes a relative URL of a key; "./" keeps one that holds a colon from being a scheme.
func link(key string) string {
	parts := strings.Split(key, "/")
	for i, p := range parts {
		parts[i] = url.PathEscape(p)
	}
	return "./" + strings.Join(parts, "/")
}

func day(t time.Time) string { return t.UTC().Format("2006-01-02 15:04 UTC") }

func lastPart(key string) string { return key[strings.LastIndexByte(key, '/')+1:] }

func short(hash string) string {
	if len(hash) <= 20 {
		return hash
	}
	return hash[:12] + "…" + hash[len(hash)-6:]
}
