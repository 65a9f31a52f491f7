package r2test

import (
	"bytes"
	"crypto/md5"
	"encoding/hex"
	"fmt"
	"io/fs"
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
	"testing"
	"text/template"
	"time"
)

// cdn is nginx with a cache in front of the bucket's public reads.
type cdn struct {
	url   string // without a slash at its end
	cache string // its folder
	slice int64
	fetch sync.RWMutex // read-held while the origin is asked, held while something is purged
}

// The cache's key is the address as it was asked for, so that a slash and %2F are two, as they are to Cloudflare.
// One process and no master: nothing to be left behind, and the user stays who he is.
var nginxConf = template.Must(template.New("").Parse(`
daemon off; master_process off; worker_processes 1; pid {{.Dir}}/pid; error_log stderr warn;
events { worker_connections 512; }
http {
	access_log off; default_type application/octet-stream; server_tokens off; etag off;
	client_body_temp_path {{.Dir}}/body; proxy_temp_path {{.Dir}}/proxy;
	fastcgi_temp_path {{.Dir}}/fastcgi; uwsgi_temp_path {{.Dir}}/uwsgi; scgi_temp_path {{.Dir}}/scgi;
	proxy_cache_path {{.Cache}} levels=1:2 keys_zone=edge:16m inactive=1d use_temp_path=off;
	upstream origin { server {{.Origin}}; keepalive 16; }
	server {
		listen {{.Listen}};
		merge_slashes off;
		if ($http_{{.Variable}} != "{{.Secret}}") { return 403; }
		location / {
			proxy_pass http://origin;
			proxy_http_version 1.1;
			proxy_set_header Connection "";
			proxy_cache edge;
			proxy_cache_methods GET HEAD;
			proxy_cache_lock on;
			proxy_ignore_headers Cache-Control Expires Set-Cookie Vary X-Accel-Expires;
			proxy_cache_valid 200 206 404 1h;
			proxy_force_ranges on;
			{{if .Slice}}slice {{.Slice}};
			proxy_set_header Range $slice_range;
			proxy_cache_key $request_uri$slice_range;
			{{else}}proxy_cache_key $request_uri;
			{{end}}add_header Cf-Cache-Status $upstream_cache_status always;
		}
	}
}
`))

// Debian's nginx lies where a user has no path to.
func findNginx() (string, error) {
	if p, err := exec.LookPath("nginx"); err == nil {
		return p, nil
	}
	return exec.LookPath("/usr/sbin/nginx")
}

// startCDN starts nginx in front of a bucket. With slice it caches ranges of that size each for itself, so that it
// can hold old and new ranges of one object at once; else whole objects, of which it serves ranges.
func startCDN(t testing.TB, b *Bucket, slice int64) *cdn {
	t.Helper()
	program, err := findNginx()
	if err != nil {
		t.Skip("NO CDN, NOT TESTED: nginx is not installed (Debian: apt install nginx-light)")
	}
	dir := shortDir(t)
	c := &cdn{cache: filepath.Join(dir, "cache"), slice: slice}
	origin := httptest.NewServer(c.origin(b))
	t.Cleanup(origin.Close)
	var said string
	for range 5 {
		// Somebody else may take the port before nginx does.
		free, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		listen := free.Addr().String()
		free.Close()
		c.url = "http://" + listen
		var conf bytes.Buffer
		err = nginxConf.Execute(&conf, map[string]any{
			"Dir": dir, "Cache": c.cache, "Origin": strings.TrimPrefix(origin.URL, "http://"), "Listen": listen,
			"Variable": strings.ReplaceAll(strings.ToLower(Header), "-", "_"), "Secret": HeaderValue, "Slice": slice,
		})
		if err != nil {
			t.Fatal(err)
		}
		file := filepath.Join(dir, "nginx.conf")
		if err := os.WriteFile(file, conf.Bytes(), 0o600); err != nil {
			t.Fatal(err)
		}
		cmd := exec.Command(program, "-p", dir, "-c", file, "-e", "stderr")
		cmd.Env = []string{}
		stop := startUntilEnd(t, cmd)
		for end := time.Now().Add(10 * time.Second); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
			if err = c.ping(time.Second); err == nil {
				return c
			}
		}
		said = fmt.Sprintf("%v: %s", err, stop())
	}
	t.Fatalf("nginx does not serve: %s", said)
	return nil
}

// ping asks for nothing, without the header: nginx answers 403 by itself.
func (c *cdn) ping(patience time.Duration) error {
	client := http.Client{Timeout: patience}
	res, err := client.Get(c.url + "/")
	if err != nil {
		return err
	}
	res.Body.Close()
	if res.StatusCode != http.StatusForbidden {
		return fmt.Errorf("without the header it answers %s", res.Status)
	}
	return nil
}

// origin serves the bucket's objects to everybody, with ranges, as a public bucket does.
func (c *cdn) origin(b *Bucket) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c.fetch.RLock()
		defer c.fetch.RUnlock()
		key := strings.TrimPrefix(r.URL.Path, "/")
		name := filepath.FromSlash(key)
		if r.Method != http.MethodGet && r.Method != http.MethodHead || !filepath.IsLocal(name) || strings.HasPrefix(key, inside) {
			http.NotFound(w, r)
			return
		}
		f, err := os.Open(filepath.Join(b.Dir, name))
		if err != nil {
			http.NotFound(w, r)
			return
		}
		defer f.Close()
		info, err := f.Stat()
		if err != nil || !info.Mode().IsRegular() {
			http.NotFound(w, r)
			return
		}
		w.Header().Set("Content-Type", "application/octet-stream")
		w.Header().Set("ETag", fmt.Sprintf(`"%x-%x"`, info.ModTime().UnixNano(), info.Size()))
		http.ServeContent(w, r, "", info.ModTime(), f)
	})
}

// purge removes from the cache what was asked for at exactly this address. What nginx is fetching at the moment
// arrives first, so that it is removed too.
func (c *cdn) purge(address string) error {
	at, err := url.Parse(address)
	if err != nil || at.Scheme+"://"+at.Host != c.url {
		return fmt.Errorf("%s is not an address of this zone", address)
	}
	asked := at.EscapedPath()
	if at.RawQuery != "" {
		asked += "?" + at.RawQuery
	}
	if c.slice > 0 {
		return c.removeSlices(asked)
	}
	sum := md5.Sum([]byte(asked))
	name := hex.EncodeToString(sum[:])
	// levels=1:2
	err = os.Remove(filepath.Join(c.cache, name[31:], name[29:31], name))
	if os.IsNotExist(err) {
		return nil
	}
	return err
}

var keyLine = regexp.MustCompile(`\nKEY: ([^\n]*)\n`)

// removeSlices reads the key in the beginning of each file.
func (c *cdn) removeSlices(asked string) error {
	return filepath.WalkDir(c.cache, func(file string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		f, err := os.Open(file)
		if err != nil {
			return err
		}
		defer f.Close()
		head := make([]byte, 8<<10)
		n, _ := f.Read(head)
		m := keyLine.FindSubmatch(head[:n])
		if m == nil {
			return nil
		}
		if key, _, _ := strings.Cut(string(m[1]), "bytes="); key != asked {
			return nil
		}
		return os.Remove(file)
	})
}

// still runs do while nginx fetches nothing, and after it has stored what it was fetching.
func (c *cdn) still(do func() error) error {
	c.fetch.Lock()
	defer c.fetch.Unlock()
	// The origin's last answers are sent. nginx is one loop: when it has answered twice it has begun to read them; what is
	// not read to its end has a temporary file beside its place.
	for range 2 {
		if err := c.ping(10 * time.Second); err != nil {
			return err
		}
	}
	for end := time.Now().Add(10 * time.Second); c.storing(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			return fmt.Errorf("nginx still stores what it fetched")
		}
	}
	return do()
}

// storing tells whether there are temporary files: their names have a dot and a number after the key's sum.
func (c *cdn) storing() (yes bool) {
	_ = filepath.WalkDir(c.cache, func(file string, d fs.DirEntry, err error) error {
		if err == nil && strings.Contains(d.Name(), ".") {
			if _, err := strconv.Atoi(d.Name()[strings.LastIndexByte(d.Name(), '.')+1:]); err == nil {
				yes = true
				return fs.SkipAll
			}
		}
		return nil
	})
	return yes
}
