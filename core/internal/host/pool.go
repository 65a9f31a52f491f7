package host

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/snapfw/snapfw/core"
)

// Options are the same for all machines of a Pool.
type Options struct {
	SSH      SSHOptions
	HostDir  string            // the root on every machine, absolute; "" chooses one, see settle
	Core     Binary            // snapfw-host; the zero Binary is what is embedded or lies beside snapfw
	Programs map[string]string // where "@program:NAME" lies on this machine; else it is looked for in PATH
	Log      *slog.Logger      // nil is silence
	Warn     func(string)      // what an operator should see: host keys not checked, a lost connection; nil is Log
}

// Pool holds the machines of a process, one for each user, host and port. It is safe for
// concurrent use.
type Pool struct {
	options Options
	dialer  *dialer
	files   *library
	err     error // of the options

	mu       sync.Mutex
	closed   bool
	machines map[string]*Machine
}

// NewPool makes a Pool; it touches no machine. What is wrong with the options, Machine says.
func NewPool(o Options) *Pool {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Warn == nil {
		o.Warn = func(text string) { o.Log.Warn(text) }
	}
	if o.SSH.Keepalive <= 0 {
		o.SSH.Keepalive = 15 * time.Second
	}
	if o.SSH.DialTimeout <= 0 {
		o.SSH.DialTimeout = 20 * time.Second
	}
	p := &Pool{options: o, files: &library{}, machines: map[string]*Machine{}}
	known, err := newHostKeys(o.SSH, o.Warn)
	p.err = err
	if o.HostDir != "" && (!strings.HasPrefix(o.HostDir, "/") || strings.ContainsAny(o.HostDir, "\n\x00")) {
		p.err = errors.Join(p.err, errors.New("host_dir "+o.HostDir+": it must be an absolute path"))
	}
	p.dialer = &dialer{options: o.SSH, known: known,
		keys: &keyring{options: o.SSH, warn: o.Warn}}
	return p
}

// Machine returns the machine at an address and, the first time, connects and places
// snapfw-host there, so that what is wrong is said before anything is stopped. An error is not
// remembered: the next call tries again.
func (p *Pool) Machine(ctx context.Context, a core.Addr) (*Machine, error) {
	if p.err != nil {
		return nil, p.err
	}
	m, err := p.machine(a)
	if err != nil {
		return nil, err
	}
	_, err = m.ground(ctx)
	if errors.Is(err, ErrCut) { // it was there; one that can't be reached at all is said at once
		err = m.again(ctx, func() error { _, err := m.ground(ctx); return err })
	}
	if err != nil {
		return nil, err
	}
	return m, nil
}

func (p *Pool) machine(a core.Addr) (*Machine, error) {
	name, t := "", target{}
	if a.Host != "" {
		var err error
		if t, err = p.dialer.targetOf(a); err != nil {
			return nil, err
		}
		name = t.user + "@" + t.address
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return nil, errors.New("connect: " + os.ErrClosed.Error())
	}
	if m, ok := p.machines[name]; ok {
		return m, nil
	}
	m := &Machine{options: p.options, files: p.files, entry: make(chan struct{}, 1)}
	m.at = local{}
	if name != "" {
		log := p.options.Log.With("machine", t.String())
		m.at = &remote{links: newLinks(p.dialer, t, log.Debug)}
		if p.options.SSH.HostKeys == HostKeysOff {
			p.options.Warn("the host key of " + t.String() + " is not checked (host keys are off): anybody in between can pretend to be it")
		}
	}
	p.machines[name] = m
	return m, nil
}

// Close ends all connections. Jobs and guards on the machines go on.
func (p *Pool) Close() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.closed = true
	var errs []error
	for _, m := range p.machines {
		errs = append(errs, m.at.close())
	}
	p.dialer.close()
	return errors.Join(errs...)
}
