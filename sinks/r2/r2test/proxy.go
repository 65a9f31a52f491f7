package r2test

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"regexp"
	"strconv"
	"strings"
	"sync/atomic"
	"time"
)

// ServeHTTP is the proxy.
func (b *Bucket) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	b.begins()
	defer b.ends()
	b.mu.Lock()
	op := Operation(r)
	b.log = append(b.log, op)
	b.counts[op]++
	h := b.hooks
	b.mu.Unlock()
	if h.trouble != nil && h.trouble(w, r) {
		return
	}
	if code, msg := b.rules(r); code != "" {
		b.note("%s: %s", op, msg)
		status := http.StatusBadRequest
		if code == "NotImplemented" {
			status = http.StatusNotImplemented
		}
		Refuse(w, status, code, msg)
		return
	}
	if id := r.URL.Query().Get("uploadId"); r.Method == http.MethodPut && id != "" {
		over := b.occupy(id, 1) > 2
		defer b.occupy(id, -1)
		if over && !b.Lax {
			// https://github.com/benbjohnson/litestream/pull/951
			Refuse(w, http.StatusServiceUnavailable, "ServiceUnavailable", "Reduce your concurrent request rate for the same object.")
			return
		}
	}
	b.serve(w, r, h)
}

func (b *Bucket) occupy(upload string, n int) int {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.busy[upload] += n
	return b.busy[upload]
}

func (b *Bucket) serve(w http.ResponseWriter, r *http.Request, h hooks) {
	out := r.Clone(r.Context())
	out.RequestURI, out.URL.Scheme, out.URL.Host = "", "http", "s3"
	if r.ContentLength == 0 {
		out.Body = http.NoBody
	} else if r.Method == http.MethodPut {
		out.Body = &counted{ReadCloser: r.Body, n: &b.bytes}
	}
	if b.Flat {
		flatten(out)
	}
	res, err := b.backend.RoundTrip(out)
	if err != nil {
		panic(http.ErrAbortHandler)
	}
	defer res.Body.Close()
	if res.StatusCode == http.StatusOK {
		b.renew(r)
	}
	if h.after != nil {
		h.after(r, res.StatusCode)
	}
	if h.lose != nil && h.lose(r) {
		_, _ = io.Copy(io.Discard, res.Body)
		panic(http.ErrAbortHandler)
	}
	for k, v := range res.Header {
		w.Header()[k] = v
	}
	if h.alter == nil && !b.Flat {
		w.WriteHeader(res.StatusCode)
		_, _ = io.Copy(w, res.Body)
		return
	}
	body, _ := io.ReadAll(res.Body)
	if h.alter != nil {
		body = h.alter(r, body)
	}
	if b.Flat && strings.Contains(res.Header.Get("Content-Type"), "xml") {
		body = bytes.ReplaceAll(body, []byte("∕"), []byte("/"))
	}
	if r.Method != http.MethodHead {
		w.Header().Set("Content-Length", strconv.Itoa(len(body)))
	}
	w.WriteHeader(res.StatusCode)
	_, _ = w.Write(body)
}

// renew makes an object young that was copied onto itself. R2 stores it anew; versitygw only changes what it says of it.
func (b *Bucket) renew(r *http.Request) {
	source, err := url.PathUnescape(r.Header.Get("X-Amz-Copy-Source"))
	if err != nil || source == "" || r.URL.Query().Has("uploadId") || strings.TrimPrefix(source, "/") != strings.TrimPrefix(r.URL.Path, "/") {
		return
	}
	if _, key, ok := strings.Cut(strings.TrimPrefix(r.URL.Path, "/"), "/"); ok {
		now := time.Now()
		_ = os.Chtimes(b.file(key), now, now) // it may have been removed meanwhile
	}
}

var rangeForm = regexp.MustCompile(`^bytes=(\d+)-(\d+)$`)

// rules are R2's: https://developers.cloudflare.com/r2/api/s3/api/ and
// https://developers.cloudflare.com/r2/objects/multipart-objects/
func (b *Bucket) rules(r *http.Request) (code, msg string) {
	if b.Lax {
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
			if size := b.size(r, name); size > b.CopyWhole {
				return "EntityTooLarge", fmt.Sprintf("a copy of %d bytes", size)
			}
		}
	case source != "":
		return b.copyPart(r, id)
	case r.Method == http.MethodPut && id != "":
		return b.part(id, q.Get("partNumber"), r.ContentLength)
	case r.Method == http.MethodPost && id != "":
		b.mu.Lock()
		defer b.mu.Unlock()
		sizes := b.sizes[id]
		for n := 2; n <= len(sizes); n++ {
			if last := n == len(sizes); sizes[n] > sizes[1] || !last && sizes[n] != sizes[1] {
				return "InvalidPart", "All non-trailing parts must have the same length."
			}
		}
	}
	return "", ""
}

func (b *Bucket) copyPart(r *http.Request, id string) (code, msg string) {
	for h := range r.Header {
		if strings.HasPrefix(h, "X-Amz-Copy-Source-If") {
			return "NotImplemented", h
		}
	}
	m := rangeForm.FindStringSubmatch(r.Header.Get("X-Amz-Copy-Source-Range"))
	if m == nil {
		return "InvalidArgument", "range"
	}
	from, err1 := strconv.ParseInt(m[1], 10, 64)
	to, err2 := strconv.ParseInt(m[2], 10, 64)
	if err1 != nil || err2 != nil {
		return "InvalidArgument", "range"
	}
	return b.part(id, r.URL.Query().Get("partNumber"), to-from+1)
}

func (b *Bucket) part(id, number string, size int64) (code, msg string) {
	n, err := strconv.Atoi(number)
	if err != nil || n < 1 || n > b.MaxParts {
		return "InvalidArgument", "part number " + number
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.sizes[id] == nil {
		b.sizes[id] = map[int]int64{}
	}
	b.sizes[id][n] = size
	return "", ""
}

// size asks the server itself, as a client of its own.
func (b *Bucket) size(r *http.Request, name string) int64 {
	req, err := http.NewRequestWithContext(r.Context(), http.MethodHead, "http://s3/", nil)
	if err != nil {
		return 0
	}
	req.URL.Path = "/" + name
	if b.Flat {
		flatten(req)
	} else {
		resign(req, emptySum)
	}
	res, err := b.backend.RoundTrip(req)
	if err != nil {
		return 0
	}
	res.Body.Close()
	return res.ContentLength
}

type counted struct {
	io.ReadCloser
	n *atomic.Int64
}

func (c *counted) Read(p []byte) (int, error) {
	n, err := c.ReadCloser.Read(p)
	c.n.Add(int64(n))
	return n, err
}
