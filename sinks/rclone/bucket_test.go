package main

import (
	"bytes"
	"crypto/md5"
	"encoding/hex"
	"encoding/xml"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// bucket is a server that speaks as much S3 as rclone needs: whole objects, lists in one page,
// copies inside, uploads in parts. It counts, and refuses on demand.
type bucket struct {
	mu       sync.Mutex
	objects  map[string]stored // "bucket/key"
	parts    map[string][]byte
	received int64 // bytes of bodies
	copies   int
	refuse   func(*http.Request) bool // 403
}

type stored struct {
	body []byte
	meta http.Header
	at   time.Time
}

func (s stored) etag() string {
	sum := md5.Sum(s.body)
	return `"` + hex.EncodeToString(sum[:]) + `"`
}

// startBucket returns the server and the section of rclone's configuration that reaches it.
func startBucket(t *testing.T) (*bucket, string) {
	b := &bucket{objects: map[string]stored{}, parts: map[string][]byte{}}
	server := httptest.NewServer(b)
	t.Cleanup(server.Close)
	return b, fmt.Sprintf("[s3]\ntype = s3\nprovider = Other\naccess_key_id = AKIDEXAMPLE\nsecret_access_key = very-secret-key\nendpoint = %s\nforce_path_style = true\n", server.URL)
}

// refusing makes the server answer 403 to some requests from now on.
func (b *bucket) refusing(some func(*http.Request) bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.refuse = some
}

func (b *bucket) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	b.mu.Lock()
	defer b.mu.Unlock()
	b.received += int64(len(body))
	if err != nil {
		return // the client went away: nothing is stored
	}
	if b.refuse != nil && b.refuse(r) {
		w.WriteHeader(http.StatusForbidden)
		fmt.Fprint(w, `<Error><Code>AccessDenied</Code><Message>Access Denied</Message></Error>`)
		return
	}
	name := strings.TrimPrefix(r.URL.Path, "/")
	q := r.URL.Query()
	switch {
	case strings.Count(strings.Trim(name, "/"), "/") == 0 && r.Method == http.MethodGet:
		b.list(w, strings.Trim(name, "/"), q)
	case r.Method == http.MethodPost && q.Has("uploads"):
		fmt.Fprint(w, `<InitiateMultipartUploadResult><UploadId>u</UploadId></InitiateMultipartUploadResult>`)
	case r.Method == http.MethodPut && q.Has("partNumber"):
		b.parts[fmt.Sprintf("%s %04s", name, q.Get("partNumber"))] = body
		w.Header().Set("ETag", stored{body: body}.etag())
	case r.Method == http.MethodPost && q.Has("uploadId"):
		b.complete(w, name)
	case r.Method == http.MethodPut && r.Header.Get("X-Amz-Copy-Source") != "":
		b.copy(w, r, name)
	case r.Method == http.MethodPut:
		s := stored{body: body, meta: meta(r.Header), at: time.Now()}
		b.objects[name] = s
		w.Header().Set("ETag", s.etag())
	case r.Method == http.MethodDelete:
		delete(b.objects, name)
		w.WriteHeader(http.StatusNoContent)
	default:
		b.get(w, r, name)
	}
}

func meta(h http.Header) http.Header {
	m := http.Header{}
	for k, v := range h {
		if strings.HasPrefix(k, "X-Amz-Meta-") || k == "Content-Type" || k == "Cache-Control" {
			m[k] = v
		}
	}
	return m
}

func (b *bucket) get(w http.ResponseWriter, r *http.Request, name string) {
	s, ok := b.objects[name]
	if !ok {
		w.WriteHeader(http.StatusNotFound)
		fmt.Fprint(w, `<Error><Code>NoSuchKey</Code></Error>`)
		return
	}
	for k, v := range s.meta {
		w.Header()[k] = v
	}
	w.Header().Set("ETag", s.etag())
	http.ServeContent(w, r, "", s.at, bytes.NewReader(s.body))
}

func (b *bucket) copy(w http.ResponseWriter, r *http.Request, name string) {
	from, _ := url.PathUnescape(strings.TrimPrefix(r.Header.Get("X-Amz-Copy-Source"), "/"))
	s, ok := b.objects[from]
	if !ok {
		w.WriteHeader(http.StatusNotFound)
		return
	}
	b.copies++
	b.objects[name] = s
	fmt.Fprintf(w, `<CopyObjectResult><ETag>%s</ETag><LastModified>%s</LastModified></CopyObjectResult>`, s.etag(), s.at.UTC().Format(time.RFC3339))
}

func (b *bucket) complete(w http.ResponseWriter, name string) {
	var names []string
	for part := range b.parts {
		if strings.HasPrefix(part, name+" ") {
			names = append(names, part)
		}
	}
	slices.Sort(names)
	var s stored
	for _, part := range names {
		s.body = append(s.body, b.parts[part]...)
		delete(b.parts, part)
	}
	s.at, s.meta = time.Now(), http.Header{}
	b.objects[name] = s
	fmt.Fprintf(w, `<CompleteMultipartUploadResult><ETag>%s</ETag></CompleteMultipartUploadResult>`, s.etag())
}

type listResult struct {
	XMLName        xml.Name `xml:"ListBucketResult"`
	IsTruncated    bool
	EncodingType   string `xml:",omitempty"`
	Contents       []content
	CommonPrefixes []commonPrefix
}

type content struct {
	Key          string
	Size         int
	ETag         string
	LastModified string
}

type commonPrefix struct{ Prefix string }

func (b *bucket) list(w http.ResponseWriter, name string, q url.Values) {
	result := listResult{EncodingType: q.Get("encoding-type")}
	encode := func(s string) string {
		if result.EncodingType == "url" {
			return url.QueryEscape(s)
		}
		return s
	}
	seen := map[string]bool{}
	for full, s := range b.objects {
		key, ok := strings.CutPrefix(full, name+"/")
		rest, under := strings.CutPrefix(key, q.Get("prefix"))
		if !ok || !under {
			continue
		}
		if d := q.Get("delimiter"); d != "" && strings.Contains(rest, d) {
			folder := q.Get("prefix") + rest[:strings.Index(rest, d)+1]
			if !seen[folder] {
				seen[folder] = true
				result.CommonPrefixes = append(result.CommonPrefixes, commonPrefix{encode(folder)})
			}
			continue
		}
		result.Contents = append(result.Contents, content{encode(key), len(s.body), s.etag(), s.at.UTC().Format(time.RFC3339)})
	}
	slices.SortFunc(result.Contents, func(a, b content) int { return strings.Compare(a.Key, b.Key) })
	w.Header().Set("Content-Type", "application/xml")
	xml.NewEncoder(w).Encode(result)
}

func (b *bucket) snapshot() (received int64, copies int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.received, b.copies
}
