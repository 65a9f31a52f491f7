package review

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/go-git/go-git/v5"
	"github.com/go-git/go-git/v5/config"
	"github.com/go-git/go-git/v5/plumbing"
	"github.com/go-git/go-git/v5/plumbing/filemode"
	"github.com/go-git/go-git/v5/plumbing/object"
)

const (
	// ownDepth is how many commits people may push on top of a proposal before its branch is
	// not known as one any more.
	ownDepth = 20
	// mostBranches is how many branches under the prefix are looked at, the newest first.
	mostBranches = 50
)

// proposal is a branch that snapfw made, whoever added to it since.
type proposal struct {
	Opened
	mark mark
	at   time.Time
}

// proposals finds the proposals to Base among the branches under the prefix.
func (t *talk) proposals(ctx context.Context) ([]proposal, error) {
	var names []string
	for ref := range t.refs {
		if strings.HasPrefix(ref.Short(), t.Branch+"/") && ref.IsBranch() {
			names = append(names, ref.Short())
		}
	}
	// Names end with the time.
	slices.SortFunc(names, func(a, b string) int { return strings.Compare(last(b), last(a)) })
	names = names[:min(len(names), mostBranches)]
	if len(names) == 0 {
		return nil, nil
	}
	if err := t.fetch(ctx, ownDepth, names...); err != nil {
		return nil, err
	}
	var found []proposal
	for _, name := range names {
		p, ok, err := t.proposal(name)
		if err != nil {
			return nil, err
		}
		if ok {
			found = append(found, p)
		}
	}
	return found, nil
}

func last(name string) string { return name[strings.LastIndexByte(name, '/')+1:] }

// proposal walks back from a branch's tip to the commit that snapfw made.
func (t *talk) proposal(branch string) (proposal, bool, error) {
	ref, err := t.repo.Reference(plumbing.NewBranchReferenceName(branch), true)
	if err != nil {
		return proposal{}, false, t.explain("read branch "+branch, err)
	}
	at := ref.Hash()
	for range ownDepth {
		c, err := t.repo.CommitObject(at)
		if errors.Is(err, plumbing.ErrObjectNotFound) {
			break // as far as was fetched
		}
		if err != nil {
			return proposal{}, false, t.explain("read branch "+branch, err)
		}
		m, ok := readMark(c.Message)
		if ok && len(c.ParentHashes) == 1 && strings.Contains(c.Message, t.baseLine()) {
			return proposal{mark: m, at: c.Author.When, Opened: Opened{Kind: KindGit, Branch: branch, Base: t.Base,
				Commit: c.Hash.String(), From: c.ParentHashes[0].String(), Blob: t.blob(c).String()}}, true, nil
		}
		if len(c.ParentHashes) == 0 {
			break
		}
		at = c.ParentHashes[0]
	}
	return proposal{}, false, nil
}

// baseLine tells in a commit's message which base it is for.
func (t *talk) baseLine() string { return fmt.Sprintf("\nFor branch %s, file %s.\n", t.Base, t.Path) }

// blob is git's name for the list's bytes at a commit; the zero hash where there is no list.
func (t *talk) blob(c *object.Commit) plumbing.Hash {
	tree, err := t.repo.TreeObject(c.TreeHash)
	if err != nil {
		return plumbing.ZeroHash
	}
	e, err := tree.FindEntry(t.Path)
	if err != nil || !e.Mode.IsFile() {
		return plumbing.ZeroHash
	}
	return e.Hash
}

// push makes the commit and its branch.
func (t *talk) push(ctx context.Context, p Proposal) (Opened, error) {
	head, err := t.head(ctx)
	if err != nil {
		return Opened{}, err
	}
	want := plumbing.ComputeHash(plumbing.BlobObject, p.Body)
	if t.blob(head) == want {
		return Opened{}, fmt.Errorf("review: propose %s: %w", t.Path, ErrSame)
	}
	commit, err := t.commit(p, head)
	if err != nil {
		return Opened{}, t.explain("make the commit", err)
	}
	name := ""
	for nth := 1; ; nth++ {
		name = p.branch(t.Branch, nth)
		if _, taken := t.refs[plumbing.NewBranchReferenceName(name)]; !taken {
			break
		}
	}
	ref := plumbing.NewHashReference(plumbing.NewBranchReferenceName(name), commit)
	if err := t.repo.Storer.SetReference(ref); err != nil {
		return Opened{}, t.explain("make branch "+name, err)
	}
	spec := config.RefSpec(ref.Name() + ":" + ref.Name())
	if err := t.repo.PushContext(ctx, &git.PushOptions{RemoteName: remote, Auth: t.auth, RefSpecs: []config.RefSpec{spec}}); err != nil {
		return Opened{}, t.explain("push branch "+name, err)
	}
	return Opened{Kind: KindGit, Branch: name, Base: t.Base, Commit: commit.String(), From: head.Hash.String(), Blob: want.String()}, nil
}

// commit stores the list and what leads to it, without a work tree that could change a byte.
func (t *talk) commit(p Proposal, head *object.Commit) (plumbing.Hash, error) {
	who, err := t.author()
	if err != nil {
		return plumbing.ZeroHash, err
	}
	o := t.repo.Storer.NewEncodedObject()
	o.SetType(plumbing.BlobObject)
	w, err := o.Writer()
	if err != nil {
		return plumbing.ZeroHash, err
	}
	if _, err := w.Write(p.Body); err != nil {
		return plumbing.ZeroHash, err
	}
	if err := w.Close(); err != nil {
		return plumbing.ZeroHash, err
	}
	blob, err := t.repo.Storer.SetEncodedObject(o)
	if err != nil {
		return plumbing.ZeroHash, err
	}
	tree, err := t.tree(head.TreeHash, strings.Split(t.Path, "/"), blob)
	if err != nil {
		return plumbing.ZeroHash, err
	}
	by := object.Signature{Name: who.Name, Email: who.Address, When: p.Time.UTC()}
	title, rest, _ := strings.Cut(p.message(true), "\n\n")
	marked, said, _ := strings.Cut(rest, "\n")
	return t.store(&object.Commit{Author: by, Committer: by, TreeHash: tree, ParentHashes: []plumbing.Hash{head.Hash},
		Message: title + "\n\n" + marked + t.baseLine() + said})
}

// tree stores a copy of a tree in which the path leads to the blob.
func (t *talk) tree(old plumbing.Hash, path []string, blob plumbing.Hash) (plumbing.Hash, error) {
	var entries []object.TreeEntry
	if old != plumbing.ZeroHash {
		tree, err := t.repo.TreeObject(old)
		if err != nil {
			return plumbing.ZeroHash, err
		}
		entries = slices.Clone(tree.Entries)
	}
	e := object.TreeEntry{Name: path[0], Mode: filemode.Regular, Hash: blob}
	i := slices.IndexFunc(entries, func(e object.TreeEntry) bool { return e.Name == path[0] })
	if i >= 0 && entries[i].Mode == filemode.Executable && len(path) == 1 {
		e.Mode = filemode.Executable
	}
	if len(path) > 1 {
		below := plumbing.ZeroHash
		if i >= 0 && entries[i].Mode == filemode.Dir {
			below = entries[i].Hash
		}
		sub, err := t.tree(below, path[1:], blob)
		if err != nil {
			return plumbing.ZeroHash, err
		}
		e.Mode, e.Hash = filemode.Dir, sub
	}
	if i >= 0 {
		entries = slices.Delete(entries, i, i+1)
	}
	entries = append(entries, e)
	slices.SortFunc(entries, func(a, b object.TreeEntry) int { return strings.Compare(treeKey(a), treeKey(b)) })
	return t.store(&object.Tree{Entries: entries})
}

// treeKey is what git sorts a tree by: folders as if their names ended with a slash.
func treeKey(e object.TreeEntry) string {
	if e.Mode == filemode.Dir {
		return e.Name + "/"
	}
	return e.Name
}

func (t *talk) store(x interface {
	Encode(plumbing.EncodedObject) error
}) (plumbing.Hash, error) {
	o := t.repo.Storer.NewEncodedObject()
	if err := x.Encode(o); err != nil {
		return plumbing.ZeroHash, err
	}
	return t.repo.Storer.SetEncodedObject(o)
}
