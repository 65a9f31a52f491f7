// Package review puts a list before the people who have to agree to it, and tells what they
// said: as a pull request on GitHub, as a branch of any git repository, or by hand.
//
// What is proposed is one whole file. Nobody's work is overwritten: a proposal is a branch of
// its own, made from the head of the base branch as it is at that moment.
package review

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/mail"
	"net/url"
	"strings"
	"time"

	"github.com/go-git/go-git/v5/plumbing"
)

// Kinds of places, as Config.Kind and Opened.Kind say them.
const (
	KindGitHub = "github"
	KindGit    = "git"
	KindManual = "manual"
)

// States of a proposal.
const (
	Open     = "open"
	Merged   = "merged"
	Rejected = "rejected"
)

// ErrSame is Propose's answer where the head of Base holds the very bytes already.
var ErrSame = errors.New("the base branch holds this list already")

const (
	maxBody = 100 << 20 // of a list; GitHub serves no larger file
	opTime  = 15 * time.Minute
)

// Config is the part `review:` of a chain's configuration.
type Config struct {
	Kind          string   // "github", "git", "manual"; "" is manual
	Repo          string   // github: "owner/name"; git: a URL or a path (https, ssh, file), without a password
	Base          string   // the branch that holds what is published: "release/3.4"
	Path          string   // the list's path in it, with forward slashes: "mainnet.toml"
	APIURL        string   // github: base URL of the API; "" is https://api.github.com/
	Token         string   // the secret itself. github: API token; git over https: the password of user "x-access-token"; "" none
	SSHKey        string   // git over ssh: the file of a private key; "" asks the agent. Hosts are those of ~/.ssh/known_hosts
	Author        string   // "Name <mail>"; "" is "snapfw <snapfw@localhost>"
	Branch        string   // prefix of the branches; "" is "Snapshot-Automation"
	Labels        []string // github; nil is "automation"
	Reviewers     []string // github: logins
	TeamReviewers []string // github: slugs
}

// Proposal is a list for review. Run names it: the same Run proposed again is the same proposal.
type Proposal struct {
	Chain  string
	Run    string
	Host   string    // the machine that made the list
	Time   time.Time // of the proposal; part of its branch's name
	Title  string    // one line
	Report string    // Markdown; cut to what the place takes, with a sentence that says so
	Body   []byte    // the whole list
}

// Opened says where a proposal is: all that Look and Withdraw need, and no secret.
type Opened struct {
	Kind   string `json:"kind"`
	Branch string `json:"branch,omitempty"`
	Base   string `json:"base,omitempty"`
	Commit string `json:"commit,omitempty"` // of the proposed list, on Branch
	From   string `json:"from,omitempty"`   // the head of Base that Commit was made from
	Blob   string `json:"blob,omitempty"`   // git's name for the proposed bytes
	URL    string `json:"url,omitempty"`    // for people; "" where there is no page
	Number int    `json:"number,omitempty"` // github: of the pull request
}

// Answer is what became of a proposal.
type Answer struct {
	State string // Open, Merged or Rejected
	Body  []byte // Merged: Path at the head of Base now
	By    string // who merged or rejected it, where the place says so
	Why   string // Rejected: the last thing that was said, one line
}

// Place is where lists are proposed. It can be used by several goroutines. No error of it
// holds the token.
type Place interface {
	// Published returns Path at the head of Base, fetched now. The error is fs.ErrNotExist
	// only where the branch is there and the file is not.
	Published(ctx context.Context) ([]byte, error)

	// Propose opens a proposal and closes the chain's older open ones. Called again with
	// the same Run it finds what is there and opens no second one; what people did to
	// the branch meanwhile stays. ErrSame: there is nothing to propose.
	Propose(ctx context.Context, p Proposal) (Opened, error)

	// Look asks what became of a proposal.
	Look(ctx context.Context, o Opened) (Answer, error)

	// Withdraw closes a proposal and deletes its branch; a second time is no error. A
	// merged one can't be withdrawn.
	Withdraw(ctx context.Context, o Opened, why string) error
}

// New checks the configuration and connects to nothing. Its errors name the field.
func New(c Config) (Place, error) {
	if c.Kind == "" || c.Kind == KindManual {
		return manual{}, nil
	}
	if err := c.complete(); err != nil {
		return nil, err
	}
	switch c.Kind {
	case KindGitHub:
		return newGitHub(c)
	case KindGit:
		return newGit(c)
	}
	return nil, fmt.Errorf("review.kind: %q is none of github, git, manual", c.Kind)
}

// complete fills in what is not said and refuses what is wrong in any kind.
func (c *Config) complete() error {
	if c.Author == "" {
		c.Author = "snapfw <snapfw@localhost>"
	}
	if c.Branch == "" {
		c.Branch = "Snapshot-Automation"
	}
	if c.Labels == nil {
		c.Labels = []string{"automation"}
	}
	c.Branch = strings.TrimSuffix(c.Branch, "/")
	switch {
	case c.Repo == "":
		return errors.New("review.repo: it is missing")
	case c.Base == "":
		return errors.New("review.base: it is missing; name the branch that holds what is published")
	case plumbing.NewBranchReferenceName(c.Base).Validate() != nil:
		return fmt.Errorf("review.base: %q is no name of a branch", c.Base)
	case plumbing.NewBranchReferenceName(c.Branch).Validate() != nil:
		return fmt.Errorf("review.branch: %q is no name of a branch", c.Branch)
	case c.Path == "":
		return errors.New("review.path: it is missing; name the list's file in the repository")
	case !goodPath(c.Path):
		return fmt.Errorf("review.path: %q is no path inside a repository", c.Path)
	}
	if _, err := c.author(); err != nil {
		return fmt.Errorf("review.author: %q is not of the form Name <mail>", c.Author)
	}
	return nil
}

// goodPath is what git takes as the path of a file: below the root, and not in its own folder.
func goodPath(p string) bool {
	if !fs.ValidPath(p) || p == "." || strings.ContainsAny(p, "\\\x00\n\r") {
		return false
	}
	for part := range strings.SplitSeq(p, "/") {
		if strings.EqualFold(part, ".git") {
			return false
		}
	}
	return true
}

func (c *Config) author() (*mail.Address, error) {
	a, err := mail.ParseAddress(c.Author)
	if err == nil && (a.Name == "" || strings.ContainsAny(a.Name+a.Address, "<>\n\r\x00")) {
		err = errors.New("no name")
	}
	return a, err
}

// safeURL refuses to send a token over a line that everybody can read; loopback is none.
func safeURL(u *url.URL, token string) error {
	if u.Scheme == "https" || token == "" {
		return nil
	}
	if u.Scheme == "http" {
		if ip := net.ParseIP(u.Hostname()); ip != nil && ip.IsLoopback() || u.Hostname() == "localhost" {
			return nil
		}
	}
	return errors.New("a token is sent over https only; correct the address or take the token out")
}

// hide replaces an error that a server made hold the token.
func hide(err error, token string) error {
	if err == nil || token == "" || !strings.Contains(err.Error(), token) {
		return err
	}
	return errors.New(strings.ReplaceAll(err.Error(), token, "***"))
}

// manual is nobody's place: the run waits for `snapfw approve`.
type manual struct{}

func (manual) Published(context.Context) ([]byte, error) {
	return nil, fmt.Errorf("review: no repository is configured: %w", fs.ErrNotExist)
}

func (manual) Propose(context.Context, Proposal) (Opened, error) {
	return Opened{Kind: KindManual}, nil
}

func (manual) Look(context.Context, Opened) (Answer, error) { return Answer{State: Open}, nil }

func (manual) Withdraw(context.Context, Opened, string) error { return nil }
