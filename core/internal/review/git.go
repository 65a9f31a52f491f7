package review

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"

	"github.com/go-git/go-git/v5/plumbing"
	"github.com/go-git/go-git/v5/plumbing/transport"
	"github.com/go-git/go-git/v5/plumbing/transport/http"
	"github.com/go-git/go-git/v5/plumbing/transport/ssh"
	"golang.org/x/crypto/ssh/knownhosts"
)

// plainGit proposes by a branch. People agree by bringing its list into Base, however they
// merge, and refuse by deleting the branch.
type plainGit struct {
	Config
	ssh bool
}

func newGit(c Config) (*plainGit, error) {
	end, err := transport.NewEndpoint(c.Repo)
	if err != nil {
		return nil, errors.New("review.repo: it is no address of a git repository")
	}
	g := &plainGit{Config: c, ssh: end.Protocol == "ssh"}
	switch end.Protocol {
	case "ssh", "file":
	case "http", "https":
		u, err := url.Parse(c.Repo)
		if err != nil || u.Host == "" || u.User != nil {
			return nil, errors.New("review.repo: give https://HOST/PATH, without a user; the password is review.token")
		}
		if err := safeURL(u, c.Token); err != nil {
			return nil, fmt.Errorf("review.repo: %w", err)
		}
	default:
		return nil, fmt.Errorf("review.repo: %s is none of https, ssh, file", end.Protocol)
	}
	if end.Password != "" {
		return nil, errors.New("review.repo: take the password out of it; over ssh use review.ssh_key")
	}
	return g, nil
}

// auth is made for each conversation: the key is read then, and kept nowhere.
func (g *plainGit) auth() (transport.AuthMethod, error) {
	switch {
	case g.ssh && g.SSHKey != "":
		end, err := transport.NewEndpoint(g.Repo)
		if err != nil {
			return nil, err
		}
		user := end.User
		if user == "" {
			user = "git"
		}
		keys, err := ssh.NewPublicKeysFromFile(user, g.SSHKey, "")
		if err != nil {
			return nil, fmt.Errorf("review.ssh_key: %w; it has to be a private key without a passphrase", err)
		}
		return keys, nil
	case !g.ssh && g.Token != "":
		return &http.BasicAuth{Username: "x-access-token", Password: g.Token}, nil
	}
	return nil, nil
}

// Published reads the list at the head of Base.
func (g *plainGit) Published(ctx context.Context) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, opTime)
	defer cancel()
	t, err := g.talk(ctx)
	if err != nil {
		return nil, err
	}
	defer t.close()
	head, err := t.head(ctx)
	if err != nil {
		return nil, err
	}
	return t.list(head)
}

// Propose pushes one commit on top of Base's head to a branch of its own, and deletes the
// branches of the chain's earlier proposals to this base.
func (g *plainGit) Propose(ctx context.Context, p Proposal) (Opened, error) {
	ctx, cancel := context.WithTimeout(ctx, opTime)
	defer cancel()
	t, err := g.talk(ctx)
	if err != nil {
		return Opened{}, err
	}
	defer t.close()
	there, err := t.proposals(ctx)
	if err != nil {
		return Opened{}, err
	}
	i := slices.IndexFunc(there, func(b proposal) bool { return b.mark == p.mark() })
	var o Opened
	if i >= 0 {
		o = there[i].Opened
	} else if o, err = t.push(ctx, p); err != nil {
		return Opened{}, err
	}
	var old []string
	for _, b := range there {
		if b.mark.Chain == p.Chain && b.mark.Run != p.Run && !b.at.After(p.Time) {
			old = append(old, b.Branch)
		}
	}
	return o, t.remove(ctx, old)
}

// Look tells a merged proposal by what Base holds, so that a merge, a fast-forward, a rebase
// and a squash are one and the same: its commit can be reached, or its list was there since.
func (g *plainGit) Look(ctx context.Context, o Opened) (Answer, error) {
	ctx, cancel := context.WithTimeout(ctx, opTime)
	defer cancel()
	t, err := g.talk(ctx)
	if err != nil {
		return Answer{}, err
	}
	defer t.close()
	tip, there := t.refs[plumbing.NewBranchReferenceName(o.Branch)]
	by, merged, err := t.merged(ctx, o, tip)
	switch {
	case err != nil:
		return Answer{}, err
	case merged:
		head, err := t.head(ctx)
		if err != nil {
			return Answer{}, err
		}
		body, err := t.list(head)
		return Answer{State: Merged, Body: body, By: by}, err
	case there:
		return Answer{State: Open}, nil
	}
	return Answer{State: Rejected, Why: fmt.Sprintf("branch %s is gone, and %s never held its list", o.Branch, g.Base)}, nil
}

// Withdraw deletes the branch; git has no place for the reason.
func (g *plainGit) Withdraw(ctx context.Context, o Opened, _ string) error {
	ctx, cancel := context.WithTimeout(ctx, opTime)
	defer cancel()
	if !strings.HasPrefix(o.Branch, g.Branch+"/") {
		return fmt.Errorf("review: %q is no branch of snapfw's", o.Branch)
	}
	t, err := g.talk(ctx)
	if err != nil {
		return err
	}
	defer t.close()
	return t.remove(ctx, []string{o.Branch})
}

// explain says what was not possible and, where that is known, what to do.
func (g *plainGit) explain(what string, err error) error {
	todo := ""
	var host *knownhosts.KeyError
	switch {
	case errors.As(err, &host):
		todo = "; see that the host's key is right and put it into ~/.ssh/known_hosts"
	case errors.Is(err, transport.ErrAuthenticationRequired), errors.Is(err, transport.ErrAuthorizationFailed):
		todo = "; see that review.token or review.ssh_key may read and write " + g.Repo
	case errors.Is(err, transport.ErrRepositoryNotFound):
		todo = "; correct review.repo"
	}
	return hide(fmt.Errorf("review: %s: %w%s", what, err, todo), g.Token)
}
