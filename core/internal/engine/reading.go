package engine

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/snapfw/snapfw/core"
	"github.com/snapfw/snapfw/core/internal/manifest"
)

// readings remembers what documents say, by kind and SHA-256. A release meets the same lists of tens of thousands of
// lines again and again: rendered, published, under review, in its stage.
type readings struct {
	mu  sync.Mutex
	got map[string]any
}

func (k *readings) keep(kind, sum string, value any) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.got == nil {
		k.got = map[string]any{}
	}
	k.got[kind+" "+sum] = value
}

// find returns what is remembered of a document, or nil.
func (k *readings) find(kind, sum string) any {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.got[kind+" "+sum]
}

// reading parses a document, unless this process did. Its value is shared, so nobody writes to it.
func reading[T any](k *readings, kind string, body []byte, parse func() (T, error)) (T, error) {
	sum := manifest.SHA256(body)
	if was, ok := k.find(kind, sum).(T); ok {
		return was, nil
	}
	value, err := parse()
	if err == nil {
		k.keep(kind, sum, value)
	}
	return value, err
}

// catalog is the chain's own list.
func (r *Run) catalog() (core.Catalog, error) {
	c, ok := r.Chain.(core.Catalog)
	if !ok {
		return nil, fmt.Errorf("driver %s replaces keys in place and has no catalog: %w", r.Driver, core.ErrUnsupported)
	}
	return c, nil
}

// parse reads a list as the chain's Catalog does.
func (r *Run) parse(ctx context.Context, list []byte) ([]core.Entry, error) {
	c, err := r.catalog()
	if err != nil {
		return nil, err
	}
	return reading(&r.readings, "list", list, func() ([]core.Entry, error) { return c.Parse(ctx, list) })
}

// proposal is what a copy would publish.
type proposal struct {
	entries []core.Entry // of all objects
	list    []byte
}

// proposed reads what was sealed and renders its list.
func (r *Run) proposed(ctx context.Context, n *Node) (*proposal, error) {
	p := n.proposal
	if p == nil {
		m, err := r.machine(ctx, n)
		if err != nil {
			return nil, err
		}
		p = &proposal{}
		if p.entries, err = r.entries(ctx, m, n); err != nil {
			return nil, err
		}
	}
	if p.list != nil {
		return p, nil
	}
	c, err := r.catalog()
	if err != nil {
		return nil, err
	}
	if p.list, err = c.Render(ctx, p.entries); err != nil {
		return nil, fmt.Errorf("render the list: %w", err)
	}
	named, err := r.parse(ctx, p.list) // what is judged is what consumers read
	if err == nil && len(named) == 0 {
		err = errors.New("it names nothing, and such a list makes nodes fail")
	}
	if err != nil {
		return nil, fmt.Errorf("the rendered list: %w", err)
	}
	n.proposal = p
	return p, nil
}
