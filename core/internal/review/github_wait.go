package review

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"github.com/google/go-github/v88/github"
)

const (
	longestWait = 2 * time.Minute // for a rate limit
	maxWaits    = 5
	firstPause  = time.Second // after a server's error; doubled
	maxRetries  = 3
)

// patient sends requests, with the token to the API's own host only, waits where the API says
// "not now", and asks again where a server failed and asking again changes nothing.
//
// The rules are GitHub's: https://docs.github.com/rest/using-the-rest-api/rate-limits-for-the-rest-api
type patient struct {
	host  string
	token string
	next  http.RoundTripper
	now   func() time.Time
	pause time.Duration
}

func newPatient(api *url.URL, token string) *patient {
	t := http.DefaultTransport.(*http.Transport).Clone()
	t.ResponseHeaderTimeout = 2 * time.Minute
	return &patient{host: api.Scheme + api.Host, token: token, next: t, now: time.Now, pause: firstPause}
}

// limited says that the API takes nothing before a moment that is too far away to wait for.
type limited struct{ until time.Time }

func (l *limited) Error() string {
	return fmt.Sprintf("the rate limit of the API is used up until %s; resume the run then", l.until.UTC().Format(time.RFC3339))
}

func (p *patient) RoundTrip(req *http.Request) (*http.Response, error) {
	waits, retries := 0, 0
	for {
		resp, err := p.once(req)
		pause := time.Duration(0)
		switch {
		case err == nil && !busy(resp):
			return resp, nil
		case err == nil && isLimit(resp):
			until := p.until(resp)
			pause = until.Sub(p.now())
			if waits++; pause > longestWait || waits > maxWaits {
				drain(resp)
				return nil, &limited{until}
			}
		case retries == maxRetries || !repeatable(req) || req.Context().Err() != nil:
			return resp, err
		default:
			pause = p.pause << retries
			retries++
		}
		drain(resp)
		if err := sleep(req.Context(), pause); err != nil {
			return nil, err
		}
	}
}

// once sends a fresh copy of the request.
func (p *patient) once(req *http.Request) (*http.Response, error) {
	r := req.Clone(req.Context())
	if req.GetBody != nil {
		body, err := req.GetBody()
		if err != nil {
			return nil, err
		}
		r.Body = body
	}
	if p.token != "" && r.URL.Scheme+r.URL.Host == p.host {
		r.Header.Set("Authorization", "Bearer "+p.token)
	}
	return p.next.RoundTrip(r)
}

func busy(r *http.Response) bool { return isLimit(r) || r.StatusCode >= 500 }

// isLimit tells a rate limit from a request that is forbidden for good: both may be 403.
func isLimit(r *http.Response) bool {
	switch r.StatusCode {
	case http.StatusTooManyRequests:
		return true
	case http.StatusForbidden:
		return r.Header.Get("Retry-After") != "" || r.Header.Get("X-RateLimit-Remaining") == "0"
	}
	return false
}

// until is when the API will listen again: as Retry-After says, else X-RateLimit-Reset, else in
// a minute.
func (p *patient) until(r *http.Response) time.Time {
	if s, err := strconv.ParseInt(r.Header.Get("Retry-After"), 10, 32); err == nil && s >= 0 {
		return p.now().Add(time.Duration(s) * time.Second)
	}
	if at, err := http.ParseTime(r.Header.Get("Retry-After")); err == nil {
		return at
	}
	if s, err := strconv.ParseInt(r.Header.Get("X-RateLimit-Reset"), 10, 64); err == nil && r.Header.Get("X-RateLimit-Remaining") == "0" {
		return time.Unix(s, 0).Add(time.Second)
	}
	return p.now().Add(time.Minute)
}

// repeatable requests leave the same behind when they are sent twice.
func repeatable(r *http.Request) bool { return r.Method != http.MethodPost }

func drain(r *http.Response) {
	if r != nil {
		_, _ = io.CopyN(io.Discard, r.Body, 64<<10)
		r.Body.Close()
	}
}

func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// sameOrSafer follows a few redirects, never from https to http.
func sameOrSafer(req *http.Request, via []*http.Request) error {
	if len(via) >= 5 {
		return errors.New("more than 5 redirects")
	}
	if via[0].URL.Scheme == "https" && req.URL.Scheme != "https" {
		return errors.New("the API redirects to an address without https")
	}
	return nil
}

// status is the HTTP status that an error of the API stands for, or 0.
func status(err error) int {
	var e *github.ErrorResponse
	if errors.As(err, &e) && e.Response != nil {
		return e.Response.StatusCode
	}
	return 0
}

func isNotExist(err error) bool { return errors.Is(err, fs.ErrNotExist) }

// explain says what was not possible and, where that is known, what to do.
func (g *gitHub) explain(what string, err error) error {
	var l *limited
	if errors.As(err, &l) {
		return fmt.Errorf("review: %s: %w", what, l)
	}
	todo := ""
	switch status(err) {
	case http.StatusUnauthorized:
		todo = "; the token is wrong or expired: renew review.token"
	case http.StatusForbidden:
		todo = "; the token needs write access to the contents and the pull requests of " + g.Repo
	case http.StatusNotFound:
		todo = "; see that review.repo is right and that the token may use it"
	}
	return hide(fmt.Errorf("review: %s: %w%s", what, err, todo), g.Token)
}
