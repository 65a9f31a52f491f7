package r2test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io/fs"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"

	"github.com/snapfw/snapfw/core"
)

// Whose credentials open the bucket.
const (
	AccessKey = "test-access"
	SecretKey = "test-secret-value"
)

// R2's limits, which a test may lower: https://developers.cloudflare.com/r2/platform/limits/
const (
	copyWhole = 5<<30 - 5<<20
	maxParts  = 10_000
)

// Bucket is a bucket on a real S3 server. Its Endpoint is a proxy that refuses what R2 refuses, counts, and has the
// troubles that a test gives it. The exported fields are set before the first request, and not changed then.
type Bucket struct {
	Name     string
	Endpoint string // of the S3 API
	Dir      string // holds the objects as files
	AccessID string // the path of a file that holds AccessKey, for a reference
	Secret   string // the same of SecretKey

	Lax       bool  // no rules, for other clients
	Flat      bool  // a key may be the folder of others, which a file system can't do; Dir holds other names then
	CopyWhole int64 // the largest object that CopyObject takes
	MaxParts  int   // of one upload

	backend http.RoundTripper
	direct  *s3.Client // past the proxy

	mu     sync.Mutex
	hooks  hooks
	sizes  map[string]map[int]int64 // of parts, by upload
	busy   map[string]int           // parts at the moment, by upload
	asking int                      // requests at the moment
	since  time.Time                // when there was none
	worked []Span
	log    []string
	counts map[string]int
	broken []string
	bytes  atomic.Int64
}

// NewBucket starts the server; the bucket is empty. Where the server can't be had the test is skipped.
func NewBucket(t testing.TB, name string) *Bucket {
	t.Helper()
	dir := shortDir(t)
	b := &Bucket{
		Name: name, Dir: filepath.Join(dir, "data", name), CopyWhole: copyWhole, MaxParts: maxParts,
		AccessID: filepath.Join(dir, "access"), Secret: filepath.Join(dir, "secret"),
		sizes: map[string]map[int]int64{}, busy: map[string]int{}, counts: map[string]int{},
	}
	if err := os.MkdirAll(b.Dir, 0o755); err != nil {
		t.Fatal(err)
	}
	for file, content := range map[string]string{b.AccessID: AccessKey, b.Secret: SecretKey} {
		if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	socket := startGateway(t, dir)
	transport := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", socket)
	}, MaxIdleConnsPerHost: 64}
	b.backend = transport
	b.direct = s3.New(s3.Options{
		Region: "auto", BaseEndpoint: aws.String("http://s3"), UsePathStyle: true, HTTPClient: &http.Client{Transport: transport},
		Credentials: aws.CredentialsProviderFunc(func(context.Context) (aws.Credentials, error) {
			return aws.Credentials{AccessKeyID: AccessKey, SecretAccessKey: SecretKey}, nil
		}),
	})
	server := httptest.NewServer(b)
	t.Cleanup(server.Close)
	b.Endpoint = server.URL
	return b
}

// Config is the sink's configuration for this bucket, its secrets references to files. Parts are small,
// and patience is short.
func (b *Bucket) Config() map[string]any {
	return map[string]any{
		"bucket": b.Name, "endpoint": b.Endpoint, "access_key_id": "file:" + b.AccessID, "secret_access_key": "file:" + b.Secret,
		"part_size_mib": 5, "patience_seconds": 20,
	}
}

func (b *Bucket) secrets() map[string]string {
	return map[string]string{"access_key_id": AccessKey, "secret_access_key": SecretKey}
}

// Target is Config, with what the secrets refer to, and with changes.
func (b *Bucket) Target(changes ...map[string]any) core.Target {
	return target(b.Config(), b.secrets(), changes)
}

func target(config map[string]any, secrets map[string]string, changes []map[string]any) core.Target {
	for _, change := range changes {
		maps.Copy(config, change)
	}
	text, err := json.Marshal(config)
	if err != nil {
		panic(err) // a test gave what is no JSON
	}
	return core.Target{Name: "test", Config: text, Secrets: secrets}
}

// Object reads an object where it lies; no request is counted.
func (b *Bucket) Object(key string) ([]byte, bool) {
	body, err := os.ReadFile(b.file(key))
	return body, err == nil
}

func (b *Bucket) file(key string) string { return filepath.Join(b.Dir, filepath.FromSlash(key)) }

// Keys lists the objects whose keys begin with a prefix, sorted, where they lie.
func (b *Bucket) Keys(prefix string) []string {
	var keys []string
	_ = fs.WalkDir(os.DirFS(b.Dir), ".", func(name string, d fs.DirEntry, err error) error {
		if name == inside {
			return fs.SkipDir
		}
		if err == nil && d.Type().IsRegular() && strings.HasPrefix(name, prefix) {
			keys = append(keys, name)
		}
		return nil // what goes away meanwhile is no object
	})
	slices.Sort(keys)
	return keys
}

// inside is where the server keeps parts, in the bucket's own folder.
const inside = ".sgwtmp"

// Put stores an object as somebody else would, past the proxy and its rules.
func (b *Bucket) Put(t testing.TB, key string, body []byte, meta map[string]string) {
	t.Helper()
	_, err := b.direct.PutObject(t.Context(), &s3.PutObjectInput{Bucket: &b.Name, Key: &key, Body: bytes.NewReader(body), Metadata: meta})
	if err != nil {
		t.Fatalf("put %s: %v", key, err)
	}
}

// PutParts is Put in parts of this size, as other tools upload large files.
func (b *Bucket) PutParts(t testing.TB, key string, body []byte, size int, meta map[string]string) {
	t.Helper()
	up, err := b.direct.CreateMultipartUpload(t.Context(), &s3.CreateMultipartUploadInput{Bucket: &b.Name, Key: &key, Metadata: meta})
	if err != nil {
		t.Fatalf("put %s: %v", key, err)
	}
	var parts []types.CompletedPart
	for part := range slices.Chunk(body, size) {
		n := aws.Int32(int32(len(parts) + 1))
		out, err := b.direct.UploadPart(t.Context(), &s3.UploadPartInput{Bucket: &b.Name, Key: &key, UploadId: up.UploadId, PartNumber: n, Body: bytes.NewReader(part)})
		if err != nil {
			t.Fatalf("put part %d of %s: %v", *n, key, err)
		}
		parts = append(parts, types.CompletedPart{PartNumber: n, ETag: out.ETag})
	}
	_, err = b.direct.CompleteMultipartUpload(t.Context(), &s3.CompleteMultipartUploadInput{
		Bucket: &b.Name, Key: &key, UploadId: up.UploadId, MultipartUpload: &types.CompletedMultipartUpload{Parts: parts},
	})
	if err != nil {
		t.Fatalf("put %s: %v", key, err)
	}
}

// Meta is an object's metadata, names in lower case; nil if there is no such object.
func (b *Bucket) Meta(t testing.TB, key string) map[string]string {
	t.Helper()
	out, err := b.direct.HeadObject(t.Context(), &s3.HeadObjectInput{Bucket: &b.Name, Key: &key})
	if err != nil {
		return nil
	}
	meta := map[string]string{}
	for name, value := range out.Metadata {
		meta[strings.ToLower(name)] = value
	}
	return meta
}

// Age makes objects as old as said.
func (b *Bucket) Age(t testing.TB, age time.Duration, keys ...string) {
	t.Helper()
	at := time.Now().Add(-age)
	for _, key := range keys {
		if err := os.Chtimes(b.file(key), at, at); err != nil {
			t.Fatal(err)
		}
	}
}

// Remove takes objects away where they lie.
func (b *Bucket) Remove(t testing.TB, keys ...string) {
	t.Helper()
	for _, key := range keys {
		if err := os.Remove(b.file(key)); err != nil {
			t.Fatal(err)
		}
	}
}

// Took returns what was asked for since the last call, each as Operation says.
func (b *Bucket) Took() []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	log := b.log
	b.log = nil
	return log
}

// Counts is how often each Operation was asked for since the beginning.
func (b *Bucket) Counts() map[string]int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return maps.Clone(b.counts)
}

// Span is a time.
type Span struct{ From, To time.Time }

// Worked is when there was a request that the bucket, or the cache before it, had not answered; in order.
func (b *Bucket) Worked() []Span {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Clone(b.worked)
}

func (b *Bucket) begins() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.asking++; b.asking == 1 {
		b.since = time.Now()
	}
}

func (b *Bucket) ends() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.asking--; b.asking == 0 {
		b.worked = append(b.worked, Span{b.since, time.Now()})
	}
}

// Received is how many bytes of objects came to the proxy so far.
func (b *Bucket) Received() int64 { return b.bytes.Load() }

// Broken lists where a client did not keep to R2's rules.
func (b *Bucket) Broken() []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Clone(b.broken)
}

func (b *Bucket) note(broken string, args ...any) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.broken = append(b.broken, fmt.Sprintf(broken, args...))
}
