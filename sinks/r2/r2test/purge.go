package r2test

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

// What Cloudflare takes of one account: 800 URLs a second of the smallest plan, 100 in a request
// (https://developers.cloudflare.com/cache/how-to/purge-cache/), and 1,200 requests of all kinds in five minutes
// (https://developers.cloudflare.com/fundamentals/api/reference/limits/).
const (
	urlsASecond        = 800
	urlsARequest       = 100
	requestsInMinutes5 = 1200
)

// Purger is Cloudflare's endpoint that purges addresses, with its documented rules.
type Purger struct {
	URL   string // api_endpoint
	Zone  string
	Token string

	purge func(urls []string) error

	mu       sync.Mutex
	rate     float64 // URLs a second
	tokens   float64
	filled   time.Time
	asked    []time.Time // requests of the last five minutes
	purged   []string
	refused  int
	broken   []string
	fault    func(urls []string) int
	observer func(urls []string)
}

// Purged lists the addresses in the order in which they were purged.
func (p *Purger) Purged() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.purged)
}

// Refused is how often it answered 429.
func (p *Purger) Refused() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.refused
}

// Broken lists where a client did not keep to the rules, beside the rates.
func (p *Purger) Broken() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.broken)
}

// Slow lets only n URLs through in a second, and at once.
func (p *Purger) Slow(n int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.rate, p.tokens, p.filled = float64(n), float64(n), time.Now()
}

// Fault is asked before addresses are purged; a status other than 0 is the answer instead.
func (p *Purger) Fault(f func(urls []string) int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.fault = f
}

// Before is called with what is about to be purged.
func (p *Purger) Before(f func(urls []string)) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.observer = f
}

// ServeHTTP is https://developers.cloudflare.com/api/resources/cache/methods/purge/
func (p *Purger) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	switch {
	case r.Method != http.MethodPost || r.URL.Path != "/zones/"+p.Zone+"/purge_cache":
		p.no(w, http.StatusNotFound, 7003, "Could not route to "+r.URL.Path)
		return
	case r.Header.Get("Authorization") != "Bearer "+p.Token:
		p.no(w, http.StatusForbidden, 10000, "Authentication error")
		return
	}
	urls, err := readPurge(io.LimitReader(r.Body, 1<<20))
	if err != nil {
		p.mu.Lock()
		p.broken = append(p.broken, err.Error())
		p.mu.Unlock()
		p.no(w, http.StatusBadRequest, 1012, err.Error())
		return
	}
	if wait := p.take(len(urls)); wait > 0 {
		w.Header().Set("Retry-After", strconv.Itoa(int((wait+time.Second-1)/time.Second)))
		p.no(w, http.StatusTooManyRequests, 10429, "Rate limited. Please wait and consider throttling your request speed")
		return
	}
	p.mu.Lock()
	fault, observer := p.fault, p.observer
	p.mu.Unlock()
	if fault != nil {
		if status := fault(urls); status != 0 {
			p.no(w, status, 1000, http.StatusText(status))
			return
		}
	}
	if observer != nil {
		observer(urls)
	}
	if err := p.purge(urls); err != nil {
		p.mu.Lock()
		p.broken = append(p.broken, err.Error())
		p.mu.Unlock()
		p.no(w, http.StatusBadRequest, 1107, err.Error())
		return
	}
	p.mu.Lock()
	p.purged = append(p.purged, urls...)
	p.mu.Unlock()
	answer(w, http.StatusOK, map[string]any{"success": true, "errors": []any{}, "messages": []any{}, "result": map[string]any{"id": p.Zone}})
}

// readPurge takes addresses, each perhaps with the headers of a cache key. Purging everything is not what a sink may do.
func readPurge(r io.Reader) ([]string, error) {
	var body struct {
		Files []json.RawMessage `json:"files"`
	}
	dec := json.NewDecoder(r)
	dec.DisallowUnknownFields()
	if err := dec.Decode(&body); err != nil {
		return nil, fmt.Errorf("request must contain files: %w", err)
	}
	if len(body.Files) == 0 || len(body.Files) > urlsARequest {
		return nil, fmt.Errorf("%d files; 1 to %d are taken", len(body.Files), urlsARequest)
	}
	var urls []string
	for _, raw := range body.Files {
		var with struct {
			URL string `json:"url"`
		}
		if json.Unmarshal(raw, &with.URL) != nil && json.Unmarshal(raw, &with) != nil {
			return nil, fmt.Errorf("%s is no file", raw)
		}
		if !strings.HasPrefix(with.URL, "http://") && !strings.HasPrefix(with.URL, "https://") {
			return nil, fmt.Errorf("%q is no address", with.URL)
		}
		urls = append(urls, with.URL)
	}
	return urls, nil
}

// take takes n from the bucket, or says how long to wait. A request that is refused costs a request all the same.
func (p *Purger) take(n int) time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := time.Now()
	p.asked = slices.DeleteFunc(p.asked, func(at time.Time) bool { return now.Sub(at) > 5*time.Minute })
	if len(p.asked) >= requestsInMinutes5 {
		p.refused++
		return 5*time.Minute - now.Sub(p.asked[0])
	}
	p.asked = append(p.asked, now)
	p.tokens = min(p.rate, p.tokens+now.Sub(p.filled).Seconds()*p.rate)
	p.filled = now
	if float64(n) > p.tokens {
		p.refused++
		return max(time.Second, time.Duration((float64(n)-p.tokens)/p.rate*float64(time.Second)))
	}
	p.tokens -= float64(n)
	return 0
}

func (p *Purger) no(w http.ResponseWriter, status, code int, text string) {
	answer(w, status, map[string]any{
		"success": false, "errors": []any{map[string]any{"code": code, "message": text}}, "messages": []any{}, "result": nil,
	})
}

func answer(w http.ResponseWriter, status int, body any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	// Who asked may be gone.
	_ = json.NewEncoder(w).Encode(body)
}
