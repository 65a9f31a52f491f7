package r2test

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/snapfw/snapfw/core"
)

// What the CDN wants of a reader, and whose zone it is.
const (
	Header      = "X-Site-Key"
	HeaderValue = "test-header-value"
	Zone        = "0123456789abcdef0123456789abcdef"
	Token       = "test-cloudflare-token"
)

// Site is a bucket with its CDN and what purges that.
type Site struct {
	*Bucket
	PublicURL string // where consumers read, with Header: HeaderValue; no slash at its end
	Purger    *Purger
	secret    map[string]string // the paths of files that hold secrets, by property
	cdn       *cdn
}

// Option changes what New makes.
type Option func(*options)

type options struct {
	bucket string
	slice  int64
}

// Named gives the bucket a name; the default is "snapshots".
func Named(bucket string) Option { return func(o *options) { o.bucket = bucket } }

// Sliced makes the CDN cache ranges of this size, each for itself: old and new ranges of one object can then
// be in it at once (https://github.com/erigontech/erigon/issues/19883). Without it whole objects are cached.
func Sliced(size int64) Option { return func(o *options) { o.slice = size } }

// New starts a site; its bucket is empty and its cache too. Where a program is missing the test is skipped, which
// says what to install.
func New(t testing.TB, opts ...Option) *Site {
	t.Helper()
	o := options{bucket: "snapshots"}
	for _, opt := range opts {
		opt(&o)
	}
	b := NewBucket(t, o.bucket)
	c := startCDN(t, b, o.slice)
	s := &Site{Bucket: b, PublicURL: c.url, cdn: c, secret: map[string]string{}}
	s.Purger = newPurger(t, func(urls []string) error {
		b.begins()
		defer b.ends()
		return c.still(func() error {
			for _, u := range urls {
				if err := c.purge(u); err != nil {
					return err
				}
			}
			return nil
		})
	})
	for property, value := range map[string]string{"header_value": HeaderValue, "api_token": Token} {
		s.secret[property] = filepath.Join(filepath.Dir(b.AccessID), property)
		if err := os.WriteFile(s.secret[property], []byte(value), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return s
}

// NewPurger starts the endpoint alone: with no cache behind it, it takes every address and notes it.
func NewPurger(t testing.TB) *Purger {
	t.Helper()
	return newPurger(t, func([]string) error { return nil })
}

func newPurger(t testing.TB, purge func([]string) error) *Purger {
	p := &Purger{Zone: Zone, Token: Token, purge: purge, rate: urlsASecond, tokens: urlsASecond, filled: time.Now()}
	server := httptest.NewServer(p)
	t.Cleanup(server.Close)
	p.URL = server.URL
	return p
}

// Config is the sink's configuration, its secrets references to files.
func (s *Site) Config() map[string]any {
	config := s.Bucket.Config()
	maps.Copy(config, map[string]any{
		"public_url": s.PublicURL, "header_name": Header, "header_value": "file:" + s.secret["header_value"],
		"zone_id": s.Purger.Zone, "api_token": "file:" + s.secret["api_token"], "api_endpoint": s.Purger.URL, "expiry_days": 56,
	})
	return config
}

// Section is Config as the value of an entry of sinks: in a configuration file, with the plugin's name, on one line: JSON is YAML.
func (s *Site) Section(changes ...map[string]any) string {
	config := s.Config()
	config["plugin"] = "r2"
	for _, change := range changes {
		maps.Copy(config, change)
	}
	text, err := json.Marshal(config)
	if err != nil {
		panic(err) // a test gave what is no JSON
	}
	return string(text)
}

// Target is Config, with what the secrets refer to, and with changes.
func (s *Site) Target(changes ...map[string]any) core.Target {
	secrets := s.secrets()
	secrets["header_value"], secrets["api_token"] = HeaderValue, Token
	return target(s.Config(), secrets, changes)
}

// Read is what a consumer gets from the CDN.
type Read struct {
	Status int
	Cache  string // "HIT", "MISS" or "" where the cache was not asked
	Total  int64  // of the object, -1 if it is not known
	Body   []byte
}

// Read reads a key through the CDN as a node does, with its header; a range if to is more than 0. The
// address is the key with its slashes, percent-encoded elsewhere.
func (s *Site) Read(ctx context.Context, key string, from, to int64) (Read, error) {
	return s.get(ctx, s.PublicURL+"/"+Escape(key), from, to)
}

// ReadAddress is Read of what is behind the host's name, as it is: "/domain%2Fv1.kv".
func (s *Site) ReadAddress(ctx context.Context, path string) (Read, error) {
	return s.get(ctx, s.PublicURL+path, 0, 0)
}

// Escape is a key as it stands in an address.
func Escape(key string) string {
	parts := strings.Split(key, "/")
	for i, p := range parts {
		parts[i] = url.PathEscape(p)
	}
	return strings.Join(parts, "/")
}

var client = &http.Client{Timeout: time.Minute, Transport: &http.Transport{MaxIdleConnsPerHost: 16, DisableCompression: true}}

func (s *Site) get(ctx context.Context, address string, from, to int64) (Read, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	if err != nil {
		return Read{}, err
	}
	req.Header.Set(Header, HeaderValue)
	if to > 0 {
		req.Header.Set("Range", fmt.Sprintf("bytes=%d-%d", from, to-1))
	}
	res, err := client.Do(req)
	if err != nil {
		return Read{}, err
	}
	defer res.Body.Close()
	r := Read{Status: res.StatusCode, Cache: res.Header.Get("Cf-Cache-Status"), Total: res.ContentLength}
	if res.StatusCode == http.StatusPartialContent {
		r.Total = -1
		if _, total, ok := strings.Cut(res.Header.Get("Content-Range"), "/"); ok {
			if _, err := fmt.Sscan(total, &r.Total); err != nil {
				return r, fmt.Errorf("Content-Range %q: %w", res.Header.Get("Content-Range"), err)
			}
		}
	}
	r.Body, err = io.ReadAll(res.Body)
	return r, err
}
