package review

import (
	"context"
	"errors"

	"github.com/go-git/go-git/v5/plumbing"
	"github.com/go-git/go-git/v5/plumbing/object"
)

// depths is how far back Base is fetched until the commit that a proposal was made from shows
// up; 0 is all of it.
var depths = []int{1, 25, 250, 2500, 0}

// merged tells whether Base took a proposal since it was made, and who brought it there. tip
// is the head of the proposal's branch now, which people may have moved on; zero if it is gone.
func (t *talk) merged(ctx context.Context, o Opened, tip plumbing.Hash) (by string, ok bool, err error) {
	branches := []string{t.Base}
	if tip != plumbing.ZeroHash {
		branches = append(branches, o.Branch)
	}
	for _, depth := range depths {
		if err := t.fetch(ctx, depth, branches...); err != nil {
			return "", false, err
		}
		head, err := t.at(t.Base)
		if err != nil {
			return "", false, err
		}
		since, err := t.since(head, plumbing.NewHash(o.From))
		if err != nil {
			return "", false, err
		}
		if by, ok, err := t.took(o, head, tip, since); ok || err != nil {
			return by, ok, err
		}
		if since.whole {
			break
		}
	}
	return "", false, nil
}

// stretch is what Base got after a commit.
type stretch struct {
	commits []*object.Commit
	whole   bool // it was fetched as far back as that commit, and with it
}

// since walks back from head to the commit from, and to none before it.
func (t *talk) since(head *object.Commit, from plumbing.Hash) (stretch, error) {
	before, err := t.ancestors(from)
	if err != nil {
		return stretch{}, err
	}
	seen := map[plumbing.Hash]bool{}
	queue := []plumbing.Hash{head.Hash}
	var s stretch
	_, err = t.repo.CommitObject(from)
	missing := err != nil
	for ; len(queue) > 0; queue = queue[1:] {
		at := queue[0]
		s.whole = s.whole || at == from
		if seen[at] || before[at] {
			continue
		}
		seen[at] = true
		c, err := t.repo.CommitObject(at)
		if errors.Is(err, plumbing.ErrObjectNotFound) {
			missing = true
			continue
		}
		if err != nil {
			return stretch{}, t.explain("read the history of "+t.Base, err)
		}
		s.commits = append(s.commits, c)
		queue = append(queue, c.ParentHashes...)
	}
	s.whole = s.whole && !missing
	return s, nil
}

// ancestors is a commit and all before it, as far as that was fetched.
func (t *talk) ancestors(of plumbing.Hash) (map[plumbing.Hash]bool, error) {
	set := map[plumbing.Hash]bool{}
	for queue := []plumbing.Hash{of}; len(queue) > 0; queue = queue[1:] {
		if set[queue[0]] || queue[0] == plumbing.ZeroHash {
			continue
		}
		set[queue[0]] = true
		c, err := t.repo.CommitObject(queue[0])
		if errors.Is(err, plumbing.ErrObjectNotFound) {
			continue
		}
		if err != nil {
			return nil, t.explain("read the history of "+t.Base, err)
		}
		queue = append(queue, c.ParentHashes...)
	}
	return set, nil
}

// took looks for a proposal in what Base got: its commit; its list; or, where people went on
// with its branch, the list that they left there, in a commit that the branch did not get
// from Base itself.
//
// Where the stretch does not begin at the proposal's origin (not fetched so far, or somebody rewrote
// Base) only the commit and the head count: an older commit may hold the same list by chance.
func (t *talk) took(o Opened, head *object.Commit, tip plumbing.Hash, s stretch) (by string, ok bool, err error) {
	commit, list := plumbing.NewHash(o.Commit), plumbing.NewHash(o.Blob)
	edited, fromBase := plumbing.ZeroHash, map[plumbing.Hash]bool{}
	if c, err := t.repo.CommitObject(tip); err == nil && s.whole {
		edited = t.blob(c)
		if fromBase, err = t.ancestors(tip); err != nil {
			return "", false, err
		}
		from, err := t.repo.CommitObject(plumbing.NewHash(o.From))
		if err != nil {
			return "", false, t.explain("read commit "+o.From, err)
		}
		if t.blob(from) == edited {
			edited = plumbing.ZeroHash // people took the change back
		}
	}
	for _, c := range s.commits {
		b := t.blob(c)
		switch {
		case c.Hash == commit:
			ok = true // whoever moved Base to it left no name
		case b == list && list != plumbing.ZeroHash && (s.whole || c.Hash == head.Hash),
			b == edited && edited != plumbing.ZeroHash && !fromBase[c.Hash]:
			by, ok = c.Committer.Name, true // the walk goes back: the last hit is the first in time
		}
	}
	return by, ok, nil
}
