package engine

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/snapfw/snapfw/core"
	"github.com/snapfw/snapfw/core/internal/review"
)

type noDesk struct {
	review.Place
	err error
}

func (d noDesk) Published(context.Context) ([]byte, error) { return nil, d.err }

// frontedBucket is a bucket with a public address.
type frontedBucket struct {
	copyBucket
	url string
}

func (b frontedBucket) Front(context.Context, core.Target) (core.Front, error) {
	return core.Front{URL: b.url}, nil
}

func TestAReviewThatCantBeReadStopsNobody(t *testing.T) {
	w := newWorld("node0")
	w.desk = &desk{merges: true}
	p := w.process(0)
	d := p.listDeps("")
	d.Review = noDesk{err: errors.New("branch release/9.9 does not exist")}
	out, err := p.release(d, core.Intent{})
	if err != nil {
		t.Fatal(err)
	}
	wantExit(t, out, ExitRefused, "branch release/9.9 does not exist; put review: in the configuration right")
	if w.hosts["node0"].stops != 0 || !out.Closed {
		t.Errorf("%d stops, %+v", w.hosts["node0"].stops, out)
	}
	p = w.process(0) // the branch without a list is what every chain begins with
	if out, err := p.release(p.listDeps(""), core.Intent{}); err != nil || out.Exit != ExitDone {
		t.Fatalf("%+v, %v", out, err)
	}
}

func TestAnAddressWhereNobodyAnswersStopsNobody(t *testing.T) {
	w := newWorld("node0")
	w.desk = &desk{merges: true}
	p := w.process(0)
	if out, err := p.release(p.listDeps(""), core.Intent{}); err != nil || out.Exit != ExitDone {
		t.Fatalf("%+v, %v", out, err)
	}
	var asked []string
	front := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		asked = append(asked, r.Method+" "+r.URL.Path)
		rw.WriteHeader(http.StatusForbidden)
	}))
	t.Cleanup(front.Close)
	release := func() (Outcome, int) {
		t.Helper()
		p := w.process(0)
		d, stops := p.listDeps(""), w.hosts["node0"].stops
		d.Sink.Sink = frontedBucket{copyBucket{bucket{p}}, front.URL}
		out, err := p.release(d, core.Intent{})
		if err != nil {
			t.Fatal(err)
		}
		return out, w.hosts["node0"].stops - stops
	}
	if out, stops := release(); stops != 1 || len(asked) == 0 || asked[0] != "HEAD /"+listKey {
		t.Fatalf("any answer will do: %+v, %d stops, asked: %q", out, stops, asked)
	}
	front.Close()
	p = w.process(0)
	if out := p.dropOpen(t); !out.Closed {
		t.Fatalf("%+v", out)
	}
	out, stops := release()
	wantExit(t, out, ExitRefused, "nobody answers where consumers read")
	if stops != 0 {
		t.Errorf("%d stops", stops)
	}
}

// dropOpen cancels the run that is open, whatever it replaced.
func (p *process) dropOpen(t *testing.T) Outcome {
	t.Helper()
	open, err := Open(p, "chain")
	if err != nil {
		t.Fatal(err)
	}
	out := Outcome{Closed: true}
	for _, s := range open {
		r, err := Resume(p.listDeps(""), s.Run)
		if err != nil {
			t.Fatal(err)
		}
		out = r.Cancel(p.ctx, "not needed", true)
	}
	return out
}
