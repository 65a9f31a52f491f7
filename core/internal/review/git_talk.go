package review

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/go-git/go-billy/v5/osfs"
	"github.com/go-git/go-git/v5"
	"github.com/go-git/go-git/v5/config"
	"github.com/go-git/go-git/v5/plumbing"
	"github.com/go-git/go-git/v5/plumbing/cache"
	"github.com/go-git/go-git/v5/plumbing/object"
	"github.com/go-git/go-git/v5/plumbing/transport"
	"github.com/go-git/go-git/v5/storage/filesystem"
)

// talk is one conversation with the repository: its branches as they were at the beginning,
// and what was fetched of them. That lies in a temporary folder, packed: lists are large and
// much alike, and their history would not fit into memory.
type talk struct {
	*plainGit
	auth  transport.AuthMethod
	refs  map[plumbing.ReferenceName]plumbing.Hash
	dir   string
	stage int
	repo  *git.Repository
}

const remote = "origin"

// talk begins by reading the branches. close it.
func (g *plainGit) talk(ctx context.Context) (*talk, error) {
	auth, err := g.auth()
	if err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp("", "snapfw-review-")
	if err != nil {
		return nil, fmt.Errorf("review: %w", err)
	}
	t := &talk{plainGit: g, auth: auth, dir: dir}
	if err := t.begin(ctx); err != nil {
		t.close()
		return nil, err
	}
	return t, nil
}

func (t *talk) close() { os.RemoveAll(t.dir) }

func (t *talk) begin(ctx context.Context) error {
	if err := t.forget(); err != nil {
		return err
	}
	r, err := t.repo.Remote(remote)
	if err != nil {
		return fmt.Errorf("review: %w", err)
	}
	refs, err := r.ListContext(ctx, &git.ListOptions{Auth: t.auth})
	if err != nil {
		return t.explain("read the branches", err)
	}
	t.refs = map[plumbing.ReferenceName]plumbing.Hash{}
	for _, ref := range refs {
		if ref.Type() == plumbing.HashReference {
			t.refs[ref.Name()] = ref.Hash()
		}
	}
	if _, ok := t.refs[plumbing.NewBranchReferenceName(t.Base)]; !ok {
		return fmt.Errorf("review: %s has no branch %s; correct review.repo or review.base", t.Repo, t.Base)
	}
	return nil
}

// forget begins with an empty store: what was fetched to some depth is not deepened.
func (t *talk) forget() error {
	if err := os.RemoveAll(filepath.Join(t.dir, fmt.Sprint(t.stage))); err != nil {
		return fmt.Errorf("review: %w", err)
	}
	t.stage++
	store := filesystem.NewStorage(osfs.New(filepath.Join(t.dir, fmt.Sprint(t.stage))), cache.NewObjectLRUDefault())
	repo, err := git.Init(store, nil)
	if err != nil {
		return fmt.Errorf("review: %w", err)
	}
	if _, err = repo.CreateRemote(&config.RemoteConfig{Name: remote, URLs: []string{t.Repo}}); err != nil {
		return fmt.Errorf("review: %w", err)
	}
	t.repo = repo
	return nil
}

// fetch brings the last commits of some branches, all of them where depth is 0, and nothing else.
func (t *talk) fetch(ctx context.Context, depth int, branches ...string) error {
	if err := t.forget(); err != nil {
		return err
	}
	var specs []config.RefSpec
	for _, b := range branches {
		specs = append(specs, config.RefSpec(fmt.Sprintf("+refs/heads/%s:refs/heads/%s", b, b)))
	}
	err := t.repo.FetchContext(ctx, &git.FetchOptions{RemoteName: remote, Auth: t.auth, RefSpecs: specs, Depth: depth, Tags: git.NoTags})
	if err != nil && !errors.Is(err, git.NoErrAlreadyUpToDate) {
		return t.explain("fetch "+strings.Join(branches, ", "), err)
	}
	return nil
}

// head is the last commit of Base, fetched now.
func (t *talk) head(ctx context.Context) (*object.Commit, error) {
	if err := t.fetch(ctx, 1, t.Base); err != nil {
		return nil, err
	}
	return t.at(t.Base)
}

// at is the last commit of a branch that was fetched.
func (t *talk) at(branch string) (*object.Commit, error) {
	ref, err := t.repo.Reference(plumbing.NewBranchReferenceName(branch), true)
	if err != nil {
		return nil, t.explain("read branch "+branch, err)
	}
	c, err := t.repo.CommitObject(ref.Hash())
	if err != nil {
		return nil, t.explain("read branch "+branch, err)
	}
	return c, nil
}

// list is the list at a commit.
func (t *talk) list(c *object.Commit) ([]byte, error) {
	f, err := c.File(t.Path)
	if errors.Is(err, object.ErrFileNotFound) {
		return nil, fmt.Errorf("review: %s is not in branch %s: %w", t.Path, t.Base, fs.ErrNotExist)
	}
	if err != nil {
		return nil, t.explain("read "+t.Path, err)
	}
	if f.Size > maxBody {
		return nil, fmt.Errorf("review.path: %s has %d bytes, more than a list may have", t.Path, f.Size)
	}
	body, err := f.Contents()
	if err != nil {
		return nil, t.explain("read "+t.Path, err)
	}
	return []byte(body), nil
}

// remove deletes branches; one that is not there is no error.
func (t *talk) remove(ctx context.Context, branches []string) error {
	var specs []config.RefSpec
	for _, b := range branches {
		name := plumbing.NewBranchReferenceName(b)
		if _, ok := t.refs[name]; ok {
			specs = append(specs, config.RefSpec(":"+name))
		}
	}
	if len(specs) == 0 {
		return nil
	}
	err := t.repo.PushContext(ctx, &git.PushOptions{RemoteName: remote, Auth: t.auth, RefSpecs: specs})
	if err != nil && !errors.Is(err, git.NoErrAlreadyUpToDate) {
		return t.explain("delete "+strings.Join(branches, ", "), err)
	}
	return nil
}
