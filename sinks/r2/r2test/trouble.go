package r2test

import (
	"fmt"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"sync/atomic"
)

// hooks are what a test does to requests.
type hooks struct {
	trouble func(w http.ResponseWriter, r *http.Request) bool
	after   func(r *http.Request, status int)
	alter   func(r *http.Request, body []byte) []byte
	lose    func(r *http.Request) bool
}

// Trouble is asked before a request is served: true means that it answered itself. Nil ends all trouble.
func (b *Bucket) Trouble(f func(w http.ResponseWriter, r *http.Request) bool) {
	b.set(func(h *hooks) { h.trouble = f })
}

// After is called when a request was served, before the client knows.
func (b *Bucket) After(f func(r *http.Request, status int)) { b.set(func(h *hooks) { h.after = f }) }

// Alter changes the bodies of answers.
func (b *Bucket) Alter(f func(r *http.Request, body []byte) []byte) {
	b.set(func(h *hooks) { h.alter = f })
}

// Lose says which requests are served and never answered.
func (b *Bucket) Lose(f func(r *http.Request) bool) { b.set(func(h *hooks) { h.lose = f }) }

func (b *Bucket) set(change func(*hooks)) {
	b.mu.Lock()
	defer b.mu.Unlock()
	change(&b.hooks)
}

// Unavailable answers 503 to the next n requests of these kinds (all, if none is named), for ever if n is negative.
func (b *Bucket) Unavailable(n int, kinds ...string) {
	var count atomic.Int64
	b.Trouble(func(w http.ResponseWriter, r *http.Request) bool {
		if !isKind(r, kinds) || n >= 0 && count.Add(1) > int64(n) {
			return false
		}
		Refuse(w, http.StatusServiceUnavailable, "ServiceUnavailable", "Please reduce your request rate.")
		return true
	})
}

// Expire refuses the credentials after n requests of these kinds (all, if none is named).
func (b *Bucket) Expire(n int, kinds ...string) {
	var count atomic.Int64
	b.Trouble(func(w http.ResponseWriter, r *http.Request) bool {
		if isKind(r, kinds) {
			count.Add(1)
		}
		if count.Load() <= int64(n) {
			return false
		}
		Refuse(w, http.StatusForbidden, "ExpiredToken", "The provided token has expired.")
		return true
	})
}

var (
	listedSize = regexp.MustCompile(`<Contents>.*?</Contents>`)
	sizeForm   = regexp.MustCompile(`<Size>\d+</Size>`)
)

// Lie makes lists say another size of a key than it has. An empty key ends it.
func (b *Bucket) Lie(key string, size int64) {
	if key == "" {
		b.Alter(nil)
		return
	}
	b.Alter(func(r *http.Request, body []byte) []byte {
		if Kind(r) != "list" {
			return body
		}
		return listedSize.ReplaceAllFunc(body, func(one []byte) []byte {
			if !strings.Contains(string(one), "<Key>"+key+"</Key>") {
				return one
			}
			return sizeForm.ReplaceAll(one, fmt.Appendf(nil, "<Size>%d</Size>", size))
		})
	})
}

// Refuse answers as S3 does.
func Refuse(w http.ResponseWriter, status int, code, msg string) {
	w.Header().Set("Content-Type", "application/xml")
	w.WriteHeader(status)
	fmt.Fprintf(w, `<?xml version="1.0"?><Error><Code>%s</Code><Message>%s</Message></Error>`, code, msg)
}

func isKind(r *http.Request, kinds []string) bool {
	return len(kinds) == 0 || slices.Contains(kinds, Kind(r))
}

// Kind names what a request wants: GET, HEAD, PUT and DELETE of an object; copy; create, part, copypart, complete and
// abort of an upload in parts, list, delete (many), uploads and parts (their lists).
func Kind(r *http.Request) string {
	q := r.URL.Query()
	copies := r.Header.Get("X-Amz-Copy-Source") != ""
	switch {
	case copies && q.Has("uploadId"):
		return "copypart"
	case copies:
		return "copy"
	case r.Method == http.MethodPut && q.Has("uploadId"):
		return "part"
	case r.Method == http.MethodPost && q.Has("uploadId"):
		return "complete"
	case r.Method == http.MethodPost && q.Has("uploads"):
		return "create"
	case r.Method == http.MethodPost && q.Has("delete"):
		return "delete"
	case r.Method == http.MethodDelete && q.Has("uploadId"):
		return "abort"
	case r.Method == http.MethodGet && q.Has("uploadId"):
		return "parts"
	case r.Method == http.MethodGet && q.Has("uploads"):
		return "uploads"
	case r.Method == http.MethodGet && !strings.Contains(strings.Trim(r.URL.Path, "/"), "/"):
		return "list"
	}
	return r.Method
}

// Operation is a request's Kind and, after a space, its key: "part domain/v1.kv".
func Operation(r *http.Request) string {
	_, key, _ := strings.Cut(strings.TrimPrefix(r.URL.Path, "/"), "/")
	return Kind(r) + " " + key
}
