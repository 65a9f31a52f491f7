package githubtest

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// repo is a bare repository, through the git command.
type repo struct{ dir string }

// open makes the repository if it is not there.
func open(dir string) (repo, error) {
	r := repo{dir}
	if _, err := os.Stat(filepath.Join(dir, "HEAD")); err == nil {
		return r, nil
	}
	_, err := r.do(nil, nil, "init", "--quiet", "--bare", "--initial-branch=main", dir)
	return r, err
}

func (r repo) do(stdin []byte, env []string, args ...string) (string, error) {
	cmd := exec.Command("git", args...)
	if args[0] != "init" {
		cmd.Args = append([]string{"git", "--git-dir=" + r.dir}, args...)
	}
	cmd.Env = append(os.Environ(), "GIT_CONFIG_NOSYSTEM=1", "GIT_CONFIG_GLOBAL="+os.DevNull,
		"GIT_COMMITTER_NAME=GitHub", "GIT_COMMITTER_EMAIL=noreply@github.com", "GIT_AUTHOR_NAME=alice", "GIT_AUTHOR_EMAIL=alice@example.org")
	cmd.Env = append(cmd.Env, env...)
	cmd.Stdin = bytes.NewReader(stdin)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("git %s: %w: %s", strings.Join(args, " "), err, bytes.TrimSpace(errs.Bytes()))
	}
	return out.String(), nil
}

// line is do for commands that answer one line.
func (r repo) line(args ...string) (string, error) {
	out, err := r.do(nil, nil, args...)
	return strings.TrimSpace(out), err
}

// ref is the object that a reference points to, "" if it is not there.
func (r repo) ref(name string) string {
	sha, err := r.line("rev-parse", "--verify", "--quiet", name)
	if err != nil {
		return ""
	}
	return sha
}

// has tells whether there is an object of a type.
func (r repo) has(sha, kind string) bool {
	if len(sha) != 40 {
		return false
	}
	got, err := r.line("cat-file", "-t", sha)
	return err == nil && got == kind
}

func (r repo) contains(ancestor, commit string) bool {
	_, err := r.line("merge-base", "--is-ancestor", ancestor, commit)
	return err == nil
}

type entry struct {
	Path    string
	Mode    string
	SHA     *string
	Content *string
}

// tree stores a tree: that of base with some entries replaced, or removed where there is no SHA.
func (r repo) tree(base string, entries []entry) (string, error) {
	index, err := os.CreateTemp("", "index")
	if err != nil {
		return "", err
	}
	index.Close()
	os.Remove(index.Name())
	defer os.Remove(index.Name())
	env := []string{"GIT_INDEX_FILE=" + index.Name()}
	if base != "" {
		if _, err := r.do(nil, env, "read-tree", base); err != nil {
			return "", err
		}
	}
	var lines strings.Builder
	for _, e := range entries {
		if e.SHA == nil {
			fmt.Fprintf(&lines, "0 %040d\t%s\n", 0, e.Path)
			continue
		}
		fmt.Fprintf(&lines, "%s %s\t%s\n", e.Mode, *e.SHA, e.Path)
	}
	if _, err := r.do([]byte(lines.String()), env, "update-index", "--index-info"); err != nil {
		return "", err
	}
	out, err := r.do(nil, env, "write-tree")
	return strings.TrimSpace(out), err
}

func (r repo) blob(content []byte) (string, error) {
	out, err := r.do(content, nil, "hash-object", "-w", "--stdin")
	return strings.TrimSpace(out), err
}

func (r repo) commit(tree, message string, env []string, parents ...string) (string, error) {
	args := []string{"commit-tree", tree}
	for _, p := range parents {
		args = append(args, "-p", p)
	}
	out, err := r.do([]byte(message), env, args...)
	return strings.TrimSpace(out), err
}
