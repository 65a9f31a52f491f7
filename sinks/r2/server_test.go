package main

import (
	"bytes"
	"context"
	"crypto/md5"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"

	"github.com/snapfw/snapfw/core"
)

const (
	testKey    = "test-access"
	testSecret = "test-secret-value"
	gateway    = "github.com/versity/versitygw/cmd/versitygw@v1.8.0"
)

// TestMain makes the test binary the plugin too: served for the conformance suite, and its verb as a process.
func TestMain(m *testing.M) {
	if os.Getenv("SNAPFW_PLUGIN") != "" || len(os.Args) > 1 && os.Args[1] == "upload" {
		main()
	}
	os.Exit(m.Run())
}

// needGateway finds the S3 server, or builds it once outside of this module and keeps it in the user's cache.
var needGateway = sync.OnceValues(func() (string, error) {
	if p := os.Getenv("SNAPFW_VERSITYGW"); p != "" {
		return p, nil
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		return "", err
	}
	dir := filepath.Join(cache, "snapfw-test", "versitygw-v1.8.0")
	file := filepath.Join(dir, "versitygw")
	if _, err := os.Stat(file); err == nil {
		return file, nil
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", err
	}
	tmp, err := os.MkdirTemp(dir, "build")
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(tmp)
	cmd := exec.Command("go", "install", gateway)
	cmd.Dir, cmd.Env = tmp, append(os.Environ(), "GOBIN="+tmp, "GOFLAGS=")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("go install %s: %w: %s", gateway, err, bytes.TrimSpace(out))
	}
	return file, os.Rename(filepath.Join(tmp, "versitygw"), file)
})

// site is a bucket on a real S3 server behind a proxy that has R2's limits and troubles.
type site struct {
	*proxy
	target core.Target
	dir    string // the bucket's files
}

func newSite(t testing.TB, bucket string) *site {
	t.Helper()
	program, err := needGateway()
	if err != nil {
		t.Skipf("NO S3 SERVER, NOT TESTED: %v", err)
	}
	// A socket's name has 108 bytes at most, and t.TempDir's may be longer.
	dir, err := os.MkdirTemp("", "r2")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	socket, data := filepath.Join(dir, "s"), filepath.Join(dir, "data")
	if err := os.MkdirAll(filepath.Join(data, bucket), 0o755); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(program, "--access", testKey, "--secret", testSecret, "--region", "auto", "--port", socket, "--quiet", "posix", data)
	var said bytes.Buffer
	cmd.Stdout, cmd.Stderr, cmd.Env = &said, &said, []string{"HOME=" + dir, "PATH=" + os.Getenv("PATH")}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	for end := time.Now().Add(30 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		if c, err := net.Dial("unix", socket); err == nil {
			c.Close()
			break
		}
		if time.Now().After(end) {
			t.Fatalf("the S3 server does not listen: %s", said.String())
		}
	}
	p := &proxy{
		copyWhole: r2Limits.copyWhole, maxParts: 10_000, sizes: map[string]map[int]int64{}, busy: map[string]int{},
		backend: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", socket)
		}, MaxIdleConnsPerHost: 64},
	}
	server := httptest.NewServer(p)
	t.Cleanup(server.Close)
	config, _ := json.Marshal(map[string]any{
		"bucket": bucket, "endpoint": server.URL, "access_key_id": "env:A", "secret_access_key": "env:S", "part_size_mib": 5, "patience_seconds": 20,
	})
	return &site{proxy: p, dir: filepath.Join(data, bucket), target: core.Target{
		Name: "test", Config: config, Secrets: map[string]string{"access_key_id": testKey, "secret_access_key": testSecret},
	}}
}

// with changes the configuration.
func (s *site) with(change map[string]any) core.Target {
	var c map[string]any
	_ = json.Unmarshal(s.target.Config, &c)
	for k, v := range change {
		c[k] = v
	}
	t := s.target
	t.Config, _ = json.Marshal(c)
	return t
}

// proxy refuses what R2 refuses; the pages are named in the code that keeps to them.
type proxy struct {
	backend   http.RoundTripper
	lax       bool // for other clients: no rules
	flat      bool // a key may be a folder of others, which a file system can't do
	copyWhole int64
	maxParts  int

	fault  func(w http.ResponseWriter, r *http.Request) bool // true: it answered
	answer func(r *http.Request, res *http.Response, body []byte) []byte
	lost   func(r *http.Request) bool // the request is served and the answer is not

	mu     sync.Mutex
	sizes  map[string]map[int]int64 // of parts, by upload
	busy   map[string]int           // parts at the moment, by upload
	log    []string
	bytes  atomic.Int64 // of objects, that came from the host
	broken []string     // rules
}

func refuse(w http.ResponseWriter, status int, code, msg string) {
	w.Header().Set("Content-Type", "application/xml")
	w.WriteHeader(status)
	fmt.Fprintf(w, `<?xml version="1.0"?><Error><Code>%s</Code><Message>%s</Message></Error>`, code, msg)
}

var rangeForm = regexp.MustCompile(`^bytes=(\d+)-(\d+)$`)

func (p *proxy) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	p.mu.Lock()
	p.log = append(p.log, operation(r))
	fault, answer, lost := p.fault, p.answer, p.lost
	p.mu.Unlock()
	if fault != nil && fault(w, r) {
		return
	}
	if code, msg := p.rules(r); code != "" {
		p.mu.Lock()
		p.broken = append(p.broken, operation(r)+": "+msg)
		p.mu.Unlock()
		status := http.StatusBadRequest
		if code == "NotImplemented" {
			status = http.StatusNotImplemented
		}
		refuse(w, status, code, msg)
		return
	}
	if id := q.Get("uploadId"); r.Method == http.MethodPut && id != "" {
		p.mu.Lock()
		p.busy[id]++
		over := p.busy[id] > 2
		p.mu.Unlock()
		defer func() {
			p.mu.Lock()
			p.busy[id]--
			p.mu.Unlock()
		}()
		if over && !p.lax {
			refuse(w, http.StatusServiceUnavailable, "ServiceUnavailable", "Reduce your concurrent request rate for the same object.")
			return
		}
	}
	out := r.Clone(r.Context())
	out.RequestURI, out.URL.Scheme, out.URL.Host = "", "http", "s3"
	if r.ContentLength == 0 {
		out.Body = http.NoBody
	} else if r.Method == http.MethodPut {
		out.Body = &counted{ReadCloser: r.Body, n: &p.bytes}
	}
	if p.flat {
		p.flatten(out)
	}
	res, err := p.backend.RoundTrip(out)
	if err != nil {
		panic(http.ErrAbortHandler)
	}
	defer res.Body.Close()
	if lost != nil && lost(r) {
		_, _ = io.Copy(io.Discard, res.Body)
		panic(http.ErrAbortHandler)
	}
	for k, v := range res.Header {
		w.Header()[k] = v
	}
	if answer == nil && !p.flat {
		w.WriteHeader(res.StatusCode)
		_, _ = io.Copy(w, res.Body)
		return
	}
	body, _ := io.ReadAll(res.Body)
	if answer != nil {
		body = answer(r, res, body)
	}
	if p.flat && strings.Contains(res.Header.Get("Content-Type"), "xml") {
		body = bytes.ReplaceAll(body, []byte("∕"), []byte("/"))
	}
	if r.Method != http.MethodHead {
		w.Header().Set("Content-Length", strconv.Itoa(len(body)))
	}
	w.WriteHeader(res.StatusCode)
	_, _ = w.Write(body)
}

// rules are R2's.
func (p *proxy) rules(r *http.Request) (code, msg string) {
	if p.lax {
		return "", ""
	}
	q := r.URL.Query()
	for _, h := range []string{"X-Amz-Acl", "X-Amz-Tagging", "X-Amz-Expected-Bucket-Owner", "X-Amz-Trailer", "Expect"} {
		if r.Header.Get(h) != "" {
			return "NotImplemented", h
		}
	}
	if hash := r.Header.Get("X-Amz-Content-Sha256"); len(hash) != 64 {
		return "NotImplemented", "payload " + hash
	}
	source, id := r.Header.Get("X-Amz-Copy-Source"), q.Get("uploadId")
	switch {
	case source != "" && id == "":
		if name, err := url.PathUnescape(source); err == nil {
			if size := p.size(r, name); size > p.copyWhole {
				return "EntityTooLarge", fmt.Sprintf("a copy of %d bytes", size)
			}
		}
	case source != "":
		for h := range r.Header {
			if strings.HasPrefix(h, "X-Amz-Copy-Source-If") {
				return "NotImplemented", h
			}
		}
		m := rangeForm.FindStringSubmatch(r.Header.Get("X-Amz-Copy-Source-Range"))
		if m == nil {
			return "InvalidArgument", "range"
		}
		from, _ := strconv.ParseInt(m[1], 10, 64)
		to, _ := strconv.ParseInt(m[2], 10, 64)
		return p.part(id, q.Get("partNumber"), to-from+1)
	case r.Method == http.MethodPut && id != "":
		return p.part(id, q.Get("partNumber"), r.ContentLength)
	case r.Method == http.MethodPost && id != "":
		p.mu.Lock()
		defer p.mu.Unlock()
		sizes := p.sizes[id]
		for n := 2; n <= len(sizes); n++ {
			if last := n == len(sizes); sizes[n] > sizes[1] || !last && sizes[n] != sizes[1] {
				return "InvalidPart", "All non-trailing parts must have the same length."
			}
		}
	}
	return "", ""
}

func (p *proxy) part(id, number string, size int64) (code, msg string) {
	n, err := strconv.Atoi(number)
	if err != nil || n < 1 || n > p.maxParts {
		return "InvalidArgument", "part number " + number
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.sizes[id] == nil {
		p.sizes[id] = map[int]int64{}
	}
	p.sizes[id][n] = size
	return "", ""
}

// size asks the server itself, as a client of its own.
func (p *proxy) size(r *http.Request, name string) int64 {
	req, _ := http.NewRequestWithContext(r.Context(), http.MethodHead, "http://s3/", nil)
	req.URL.Path = "/" + name
	if p.flat {
		p.flatten(req)
	} else {
		resign(req, emptySum)
	}
	res, err := p.backend.RoundTrip(req)
	if err != nil {
		return 0
	}
	res.Body.Close()
	return res.ContentLength
}

const emptySum = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"

func resign(r *http.Request, sum string) {
	r.Header.Del("Authorization")
	r.Header.Set("X-Amz-Content-Sha256", sum)
	creds := aws.Credentials{AccessKeyID: testKey, SecretAccessKey: testSecret}
	_ = v4.NewSigner(func(o *v4.SignerOptions) { o.DisableURIPathEscaping = true }).SignHTTP(r.Context(), creds, r, sum, "s3", "auto", time.Now())
}

// escape is how S3 wants a path: only letters, digits and -._~/ stay.
func escape(path string) string {
	var b strings.Builder
	for _, c := range []byte(path) {
		if c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || strings.IndexByte("-._~/", c) >= 0 {
			b.WriteByte(c)
		} else {
			fmt.Fprintf(&b, "%%%02X", c)
		}
	}
	return b.String()
}

// flatten hides the slashes of keys from a server that makes folders of them.
func (p *proxy) flatten(r *http.Request) {
	sum := r.Header.Get("X-Amz-Content-Sha256")
	if sum == "" {
		sum = emptySum
	}
	if bucket, key, ok := strings.Cut(strings.TrimPrefix(r.URL.Path, "/"), "/"); ok {
		r.URL.Path = "/" + bucket + "/" + strings.ReplaceAll(key, "/", "∕")
		r.URL.RawPath = escape(r.URL.Path)
	}
	q := r.URL.Query()
	for _, name := range []string{"prefix", "start-after", "key-marker", "continuation-token"} {
		if v := q.Get(name); v != "" {
			q.Set(name, strings.ReplaceAll(v, "/", "∕"))
		}
	}
	r.URL.RawQuery = strings.ReplaceAll(q.Encode(), "+", "%20")
	if from := r.Header.Get("X-Amz-Copy-Source"); from != "" {
		bucket, key, _ := strings.Cut(from, "/")
		r.Header.Set("X-Amz-Copy-Source", bucket+"/"+strings.ReplaceAll(key, "/", url.PathEscape("∕")))
	}
	if q.Has("delete") {
		body, _ := io.ReadAll(r.Body)
		body = regexp.MustCompile(`<Key>[^<]*</Key>`).ReplaceAllFunc(body, func(b []byte) []byte {
			return []byte("<Key>" + strings.ReplaceAll(string(b[5:len(b)-6]), "/", "∕") + "</Key>")
		})
		for h := range r.Header {
			if strings.Contains(h, "hecksum") {
				r.Header.Del(h)
			}
		}
		md := md5.Sum(body)
		r.Header.Set("Content-Md5", base64.StdEncoding.EncodeToString(md[:]))
		hash := sha256.Sum256(body)
		sum = hex.EncodeToString(hash[:])
		r.Body, r.ContentLength = io.NopCloser(bytes.NewReader(body)), int64(len(body))
	}
	resign(r, sum)
}

// operation names a request: "PUT part domain/v1.kv".
func operation(r *http.Request) string {
	q := r.URL.Query()
	_, key, _ := strings.Cut(strings.TrimPrefix(r.URL.Path, "/"), "/")
	kind := r.Method
	switch {
	case r.Header.Get("X-Amz-Copy-Source") != "" && q.Has("uploadId"):
		kind = "copypart"
	case r.Header.Get("X-Amz-Copy-Source") != "":
		kind = "copy"
	case r.Method == http.MethodPut && q.Has("uploadId"):
		kind = "part"
	case r.Method == http.MethodPost && q.Has("uploadId"):
		kind = "complete"
	case r.Method == http.MethodPost && q.Has("uploads"):
		kind = "create"
	case r.Method == http.MethodDelete && q.Has("uploadId"):
		kind = "abort"
	}
	return kind + " " + key
}

// took returns what was asked for since the last call.
func (p *proxy) took() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	log := p.log
	p.log = nil
	return log
}

func (p *proxy) trouble(fault func(w http.ResponseWriter, r *http.Request) bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.fault = fault
}

type counted struct {
	io.ReadCloser
	n *atomic.Int64
}

func (c *counted) Read(b []byte) (int, error) {
	n, err := c.ReadCloser.Read(b)
	c.n.Add(int64(n))
	return n, err
}
