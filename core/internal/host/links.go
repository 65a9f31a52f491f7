package host

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"golang.org/x/crypto/ssh"
)

const (
	sessionsPerLink = 8  // sshd's MaxSessions is 10 where nobody changed it
	maxLinks        = 16 // to one machine; a second one is made only when the first is full
	awayRetry       = time.Minute
)

// link is one ssh connection.
type link struct {
	client *ssh.Client
	used   int
	room   int // sessions that it carries at once
}

// links are the connections to one machine, normally one. They are made when they are
// needed, and made again when they were lost.
type links struct {
	dialer *dialer
	target target
	note   func(msg string, args ...any)

	mu      sync.Mutex
	up      []*link
	dialing bool
	lost    int           // how many connections were lost
	seen    bool          // there was a connection once
	crowded time.Time     // until then no further connection is tried beside those that are up
	changed chan struct{} // closed and replaced when anything above changes
}

func newLinks(d *dialer, t target, note func(string, ...any)) *links {
	return &links{dialer: d, target: t, note: note, changed: make(chan struct{})}
}

// tell wakes up everybody who waits; the lock is held.
func (l *links) tell() {
	close(l.changed)
	l.changed = make(chan struct{})
}

// take returns a connection with room for one more session. Give it back.
func (l *links) take(ctx context.Context) (*link, error) {
	for {
		l.mu.Lock()
		for _, k := range l.up {
			if k.used < k.room {
				k.used++
				l.mu.Unlock()
				return k, nil
			}
		}
		full := len(l.up) >= maxLinks || len(l.up) > 0 && time.Now().Before(l.crowded)
		if l.dialing || full {
			changed := l.changed
			l.mu.Unlock()
			select {
			case <-changed:
				continue
			case <-ctx.Done():
				return nil, context.Cause(ctx)
			}
		}
		l.dialing = true
		others := len(l.up)
		l.mu.Unlock()
		if err := l.more(ctx, others); err != nil {
			return nil, err
		}
	}
}

// more makes one more connection. When others are up, failing is no error: there is one to wait for.
func (l *links) more(ctx context.Context, others int) error {
	standing := "nothing was stopped on it"
	if l.everUp() {
		standing = "what was started on it goes on under its guard"
	}
	client, err := l.dialer.dial(ctx, l.target, standing)
	l.mu.Lock()
	defer l.mu.Unlock()
	l.dialing = false
	defer l.tell()
	if err != nil {
		if others > 0 && ctx.Err() == nil {
			l.crowded = time.Now().Add(awayRetry)
			return nil
		}
		return err
	}
	l.seen = true
	k := &link{client: client, room: sessionsPerLink}
	l.up = append(l.up, k)
	l.note("connected", "links", len(l.up))
	go func() {
		watch(client, l.dialer.options.Keepalive)
		l.drop(k)
	}()
	return nil
}

func (l *links) everUp() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.seen
}

func (l *links) give(k *link) {
	l.mu.Lock()
	defer l.mu.Unlock()
	k.used--
	l.tell()
}

// drop forgets a connection that has ended, or ends it.
func (l *links) drop(k *link) {
	k.client.Close()
	l.mu.Lock()
	defer l.mu.Unlock()
	for i, other := range l.up {
		if other == k {
			l.up = append(l.up[:i], l.up[i+1:]...)
			l.lost++
			l.note("connection ended", "links", len(l.up))
			l.tell()
			return
		}
	}
}

func (l *links) epoch() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.lost
}

func (l *links) close() {
	l.mu.Lock()
	up := append([]*link(nil), l.up...)
	l.mu.Unlock()
	for _, k := range up {
		l.drop(k)
	}
}

// session opens a session. An sshd that allows fewer of them than we thought is believed, and
// another connection is made for the rest.
func (l *links) session(ctx context.Context) (*ssh.Session, *link, error) {
	for {
		k, err := l.take(ctx)
		if err != nil {
			return nil, nil, err
		}
		s, err := openSession(ctx, k.client)
		if err == nil {
			return s, k, nil
		}
		var refused *ssh.OpenChannelError
		switch {
		case ctx.Err() != nil:
			l.give(k)
			return nil, nil, context.Cause(ctx)
		case !errors.As(err, &refused):
			l.drop(k)
			l.give(k)
			return nil, nil, fmt.Errorf("%s: %w: %w", l.target, ErrCut, err)
		case !l.narrow(k):
			return nil, nil, &Error{Kind: ErrUnreachable, Machine: l.target.String(), Err: err, Msg: "its sshd refuses sessions (" + refused.Message + "): check MaxSessions in its sshd_config"}
		}
	}
}

// narrow gives back a connection that took no further session; false if it took none at all.
func (l *links) narrow(k *link) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	k.used--
	k.room = max(1, min(k.room, k.used))
	l.tell()
	return k.used > 0
}

// openSession is NewSession with an end: a dead peer answers nothing.
func openSession(ctx context.Context, c *ssh.Client) (*ssh.Session, error) {
	type answer struct {
		s   *ssh.Session
		err error
	}
	got := make(chan answer, 1)
	go func() {
		s, err := c.NewSession()
		got <- answer{s, err}
	}()
	select {
	case a := <-got:
		return a.s, a.err
	case <-ctx.Done():
		go func() {
			if a := <-got; a.err == nil {
				a.s.Close()
			}
		}()
		return nil, ctx.Err()
	}
}
