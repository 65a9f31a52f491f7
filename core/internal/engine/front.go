package engine

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/snapfw/snapfw/core"
	"github.com/snapfw/snapfw/core/onhost"
)

// Where a plan's commands find the address that consumers read from.
const (
	frontURL    = "SNAPFW_FRONT_URL"
	frontHeader = "SNAPFW_FRONT_HEADER" // "Name: value", a secret
	listURL     = "SNAPFW_LIST_URL"     // of the published list
)

// front is a core.Front with the value of its header.
type front struct {
	url, header, value string
}

// front asks a sink where its consumers read; the zero front if it does not say.
func (r *Run) front(ctx context.Context, s *Sink) (front, error) {
	if s == nil {
		return front{}, nil
	}
	fronted, ok := s.Sink.(core.Fronted)
	if !ok {
		return front{}, nil
	}
	f, err := fronted.Front(ctx, s.Target)
	if errors.Is(err, core.ErrUnsupported) {
		return front{}, nil
	}
	if err != nil {
		return front{}, fmt.Errorf("ask sink %s where consumers read: %w", s.Name, err)
	}
	out := front{url: strings.TrimSuffix(f.URL, "/"), header: f.Header}
	if f.Secret != "" {
		if out.value, err = s.Secret(ctx, f.Secret); err != nil {
			return front{}, fmt.Errorf("secret of sink %s: %w", s.Name, err)
		}
	}
	return out, nil
}

// address is where consumers find a key.
func (f front) address(key string) string {
	return f.url + "/" + (&url.URL{Path: key}).EscapedPath()
}

// give tells a job where consumers read. Only jobs that no guard may have to run get it: they have a secret.
func (r *Run) give(ctx context.Context, n *Node, phase string, job *onhost.Job) (map[string]string, error) {
	if !n.inPlace() || phase != phasePrepare && phase != phaseSeal && phase != phaseProve {
		return nil, nil
	}
	f, err := r.front(ctx, r.Sink)
	if err != nil || f.url == "" {
		return nil, err
	}
	job.Env[frontURL] = f.url
	l, err := r.front(ctx, r.lists())
	if err != nil {
		return nil, err
	}
	if l.url != "" {
		job.Env[listURL] = l.address(n.Plan.Publish.Pointer)
	}
	if f.header == "" {
		return nil, nil
	}
	job.Secrets = append(job.Secrets, frontHeader)
	return map[string]string{frontHeader: f.header + ": " + f.value}, nil
}

// seen reads a key as consumers do until it is what was published, or a cache had time enough.
func (r *Run) seen(ctx context.Context, s *Sink, key string, want []byte) error {
	f, err := r.front(ctx, s)
	if err != nil || f.url == "" {
		return err
	}
	deadline, pause := r.Clock.Now().Add(proofTime), time.Second
	for {
		err := f.reads(ctx, key, want)
		if err == nil || ctx.Err() != nil {
			return err
		}
		if r.Clock.Now().Add(pause).After(deadline) {
			return fmt.Errorf("%w; what consumers read is not what was published: purge %s, then `snapfw resume %s`", err, f.address(key), r.ID)
		}
		r.View.Note("", fmt.Sprintf("%v; looked at again in %s", err, pause))
		if err := r.Clock.Sleep(ctx, pause); err != nil {
			return err
		}
		pause = min(2*pause, 30*time.Second)
	}
}

// tryFronts sees that something answers where consumers read. It asks for what is published already: a cache would keep
// the answer that a key is not there.
func (r *Run) tryFronts(ctx context.Context, n *Node) error {
	body, named, _, err := r.published(ctx, n)
	if err != nil || body == nil {
		return nil // the judge reads it too, and says what is wrong with it
	}
	asked := map[*Sink]string{r.lists(): n.Plan.Publish.Pointer}
	if _, ok := asked[r.Sink]; !ok && len(named) > 0 {
		asked[r.Sink] = keyOf(n, named[0].Name)
	}
	for s, key := range asked {
		f, err := r.front(ctx, s)
		if err != nil || f.url == "" {
			return err
		}
		err = r.retryTimes(ctx, n, "try "+f.url, probeTries, func() error { return f.answers(ctx, key) })
		if err != nil && ctx.Err() == nil {
			return &RefusedError{fmt.Sprintf("nobody answers where consumers read: %v; put the address of sink %s right, or what stands behind it; no node was stopped", err, s.Name)}
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// answers is content with any answer: what it says is for the proof.
func (f front) answers(ctx context.Context, key string) error {
	res, cancel, err := f.ask(ctx, http.MethodHead, key)
	defer cancel()
	if err != nil {
		return err
	}
	return res.Body.Close()
}

// ask sends a request as consumers do; the answer's body is read before cancel.
func (f front) ask(ctx context.Context, method, key string) (*http.Response, context.CancelFunc, error) {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	req, err := http.NewRequestWithContext(ctx, method, f.address(key), nil)
	if err != nil {
		return nil, cancel, err
	}
	if f.header != "" {
		req.Header.Set(f.header, f.value)
	}
	// The header must not go to where an answer points.
	client := http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	res, err := client.Do(req)
	if err != nil {
		err = fmt.Errorf("read %s: %w", f.address(key), err)
	}
	return res, cancel, err
}

func (f front) reads(ctx context.Context, key string, want []byte) error {
	res, cancel, err := f.ask(ctx, http.MethodGet, key)
	defer cancel()
	if err != nil {
		return err
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		return fmt.Errorf("read %s: HTTP %s", f.address(key), res.Status)
	}
	got, err := io.ReadAll(io.LimitReader(res.Body, int64(len(want))+1))
	if err != nil {
		return fmt.Errorf("read %s: %w", f.address(key), err)
	}
	if !bytes.Equal(got, want) {
		return fmt.Errorf("%s is not what was published (age %s, cache %s)", f.address(key), or(res.Header.Get("Age"), "none"), or(res.Header.Get("Cf-Cache-Status"), "unknown"))
	}
	return nil
}

func or(s, none string) string {
	if s == "" {
		return none
	}
	return s
}
