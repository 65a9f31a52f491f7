package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"regexp"
	"strconv"
	"strings"
	"time"
)

// Limits of what an address may answer.
const (
	maxFrontTorrent = 64 << 20
	frontPatience   = 2 * time.Minute // for one request of at most a few pieces
)

// frontHeaderEnv holds a header that the address asks for, "Name: value". It is a secret.
const frontHeaderEnv = "SNAPFW_FRONT_HEADER"

// front is the address that consumers download from.
type front struct {
	base        *url.URL
	name, value string // a header; the value is never printed
	client      *http.Client
}

var headerName = regexp.MustCompile("^[A-Za-z0-9!#$%&'*+.^_`|~-]+$")

// newFront reads an address and a header.
func newFront(address, header string) (*front, error) {
	u, err := url.Parse(address)
	switch {
	case err != nil:
		return nil, errors.New("the address is no URL") // the error would hold it, and with it a password
	case u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "":
		return nil, fmt.Errorf("the address of host %q is no plain http:// or https:// address: credentials go into %s", u.Host, frontHeaderEnv)
	}
	f := &front{base: u}
	if header != "" {
		name, value, ok := strings.Cut(header, ":")
		f.name, f.value = name, strings.TrimSpace(value)
		if !ok || !headerName.MatchString(name) || strings.ContainsFunc(f.value, func(r rune) bool { return r < ' ' || r == 0x7f }) {
			return nil, fmt.Errorf("%s is not of the form \"Name: value\"", frontHeaderEnv)
		}
	}
	f.client = &http.Client{
		Transport: &http.Transport{
			Proxy:                  http.ProxyFromEnvironment,
			DialContext:            (&net.Dialer{Timeout: 15 * time.Second}).DialContext,
			TLSHandshakeTimeout:    15 * time.Second,
			ResponseHeaderTimeout:  time.Minute,
			MaxIdleConnsPerHost:    8,
			IdleConnTimeout:        time.Minute,
			MaxResponseHeaderBytes: 64 << 10,
			DisableCompression:     true, // sums are of the bytes as they lie there
			ForceAttemptHTTP2:      true,
		},
		CheckRedirect: func(r *http.Request, via []*http.Request) error {
			if len(via) > 3 || r.URL.Host != via[0].URL.Host || r.URL.Scheme != via[0].URL.Scheme {
				return fmt.Errorf("it redirects to host %q", r.URL.Host)
			}
			return nil
		},
	}
	return f, nil
}

// frontError is an answer that is not as it should be.
type frontError struct {
	key    string
	want   string
	got    string
	cache  string // what the cache says of it; "" if it says nothing
	status int    // of HTTP; 0 if there was no answer
	silent bool   // nothing answered: no such host, a refused connection, a failure of TLS
}

func (e *frontError) Error() string {
	text := fmt.Sprintf("%s: want %s, got %s", e.key, e.want, e.got)
	if e.cache != "" {
		text += " (" + e.cache + ")"
	}
	return text
}

// cacheOf is what an answer says of the cache that it came from.
func cacheOf(h http.Header) string {
	var said []string
	for _, name := range []string{"Cf-Cache-Status", "X-Cache", "Age"} {
		if v := h.Get(name); v != "" {
			said = append(said, fmt.Sprintf("%s: %.40q", strings.ToLower(name), v))
		}
	}
	return strings.Join(said, ", ")
}

// address is that of a key, with its slashes as they are.
func (f *front) address(key string) string {
	u := *f.base
	u.Path = strings.TrimSuffix(u.Path, "/") + "/" + key
	u.RawPath = ""
	return u.String()
}

// ask sends a request. Whoever gets an answer closes its body and calls cancel.
func (f *front) ask(ctx context.Context, key, span string) (*http.Response, context.CancelFunc, error) {
	ctx, cancel := context.WithTimeout(ctx, frontPatience)
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, f.address(key), nil)
	if err != nil {
		cancel()
		return nil, nil, fmt.Errorf("%s is no key of an address", key)
	}
	r.Header.Set("User-Agent", "snapfw-erigon")
	if f.name != "" {
		r.Header.Set(f.name, f.value)
	}
	if span != "" {
		r.Header.Set("Range", span)
	}
	resp, err := f.client.Do(r)
	if err != nil {
		cancel()
		return nil, nil, &frontError{key: key, want: "an answer", got: f.plain(err), silent: resp == nil} // with a redirect that is refused there is one
	}
	return resp, cancel, nil
}

// plain is an error's text without the header's value, which a proxy or a hostile server might send back.
func (f *front) plain(err error) string {
	var u *url.Error
	if errors.As(err, &u) {
		err = u.Err
	}
	text := err.Error()
	if len(f.value) > 3 {
		text = strings.ReplaceAll(text, f.value, "***")
	}
	return text
}

// whole gets a small object of at most so many bytes.
func (f *front) whole(ctx context.Context, key string, most int64) ([]byte, http.Header, error) {
	resp, cancel, err := f.ask(ctx, key, "")
	if err != nil {
		return nil, nil, err
	}
	defer cancel()
	defer resp.Body.Close()
	wrong := func(want, got string) error {
		return &frontError{key: key, want: want, got: got, cache: cacheOf(resp.Header), status: resp.StatusCode}
	}
	if resp.StatusCode != http.StatusOK {
		return nil, nil, wrong("HTTP 200", "HTTP "+strconv.Itoa(resp.StatusCode))
	}
	if resp.ContentLength > most {
		return nil, nil, wrong(fmt.Sprintf("at most %d bytes", most), fmt.Sprintf("%d bytes", resp.ContentLength))
	}
	b, err := io.ReadAll(io.LimitReader(resp.Body, most+1))
	if err != nil {
		return nil, nil, wrong("the whole object", f.plain(err))
	}
	if int64(len(b)) > most {
		return nil, nil, wrong(fmt.Sprintf("at most %d bytes", most), "more")
	}
	return b, resp.Header, nil
}

// span gets bytes of an object as nodes do: they take 206 and discard a 200.
func (f *front) span(ctx context.Context, key string, from, n, size int64) ([]byte, http.Header, error) {
	resp, cancel, err := f.ask(ctx, key, fmt.Sprintf("bytes=%d-%d", from, from+n-1))
	if err != nil {
		return nil, nil, err
	}
	defer cancel()
	defer resp.Body.Close()
	wrong := func(want, got string) error {
		return &frontError{key: key, want: want, got: got, cache: cacheOf(resp.Header), status: resp.StatusCode}
	}
	if resp.StatusCode != http.StatusPartialContent {
		return nil, nil, wrong("HTTP 206", "HTTP "+strconv.Itoa(resp.StatusCode))
	}
	want := fmt.Sprintf("bytes %d-%d/%d", from, from+n-1, size)
	if got := resp.Header.Get("Content-Range"); got != want {
		return nil, nil, wrong(want, fmt.Sprintf("%.60q", got))
	}
	b := make([]byte, n)
	if _, err := io.ReadFull(resp.Body, b); err != nil {
		return nil, nil, wrong(fmt.Sprintf("%d bytes from %d on", n, from), f.plain(err))
	}
	if extra, _ := resp.Body.Read(make([]byte, 1)); extra > 0 {
		return nil, nil, wrong(fmt.Sprintf("%d bytes from %d on", n, from), "more")
	}
	return b, resp.Header, nil
}

// torrent gets the torrent of a file and sees that it has this infohash.
func (f *front) torrent(ctx context.Context, name, infohash string, most int64) (torrentFile, error) {
	key := name + torrentExt
	b, head, err := f.whole(ctx, key, min(most, maxFrontTorrent))
	if err != nil {
		return torrentFile{}, err
	}
	wrong := func(want, got string) error {
		return &frontError{key: key, want: want, got: got, cache: cacheOf(head), status: http.StatusOK}
	}
	t, err := parseTorrent(b)
	if err != nil {
		return t, wrong("a torrent", err.Error())
	}
	if got := t.Infohash(); got != infohash {
		return t, wrong("infohash "+infohash, "infohash "+got)
	}
	if t.Length <= 0 {
		return t, wrong("a torrent of a file with bytes", "none")
	}
	if err := t.fits(name, t.Length); err != nil {
		return t, wrong("a torrent of this file", err.Error())
	}
	return t, nil
}
