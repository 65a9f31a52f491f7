package toy

import (
	"bufio"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"iter"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/snapfw/snapfw/core"
)

// Sink is a core.Sink and Copier that keeps its objects under {"dir": "/path"}. The verb
// Upload is its other half. It has no Purger: there is no cache in front of a folder.
type Sink struct{}

const sinkSchema = `{
  "$schema": "https://json-schema.org/draft/2020-12/schema",
  "type": "object", "additionalProperties": false, "required": ["dir"],
  "properties": {"dir": {"type": "string"}, "token": {"type": "string", "x-secret": "reference"}}}`

func (Sink) Describe(context.Context) (core.Description, error) {
	return core.Description{
		Name: "folder", Kind: core.KindSink, Version: "1.0.0", Schema: json.RawMessage(sinkSchema),
		Enforces: []string{"if-none-match", "if-match"},
	}, nil
}

// store is the folder of one target, open for one call.
type store struct{ root *os.Root }

func open(t core.Target) (*store, error) {
	var c struct{ Dir, Token string }
	if err := strict("", t.Config, &c); err != nil {
		return nil, err
	}
	root, err := os.OpenRoot(c.Dir)
	if err != nil {
		return nil, err
	}
	return &store{root}, nil
}

// file is the name under which a key lies: escaped, so that "a" and "a/b" can both be keys.
func file(key string) string { return hex.EncodeToString([]byte(key)) }

func (s *store) object(key string) ([]byte, core.Object, error) {
	body, err := s.root.ReadFile(file(key))
	if err != nil {
		return nil, core.Object{}, fmt.Errorf("get %s: %w", key, err)
	}
	info, err := s.root.Stat(file(key))
	if err != nil {
		return nil, core.Object{}, fmt.Errorf("get %s: %w", key, err)
	}
	sum := sha256.Sum256(body)
	hash := hex.EncodeToString(sum[:])
	return body, core.Object{Key: key, Size: int64(len(body)), ETag: hash, Modified: info.ModTime().UTC(), Sums: map[string]string{"sha256": hash}}, nil
}

// locked lets one process at a time compare and replace.
func (s *store) locked(do func() error) error {
	f, err := s.root.OpenFile(".lock", os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX); err != nil {
		return fmt.Errorf("lock the folder: %w", err)
	}
	return do()
}

func (s *store) put(key string, body []byte, c core.Condition) (o core.Object, err error) {
	err = s.locked(func() error {
		_, old, err := s.object(key)
		switch {
		case err == nil && c.IfNoneMatch, c.IfMatch != "" && old.ETag != c.IfMatch:
			return fmt.Errorf("put %s: %w", key, core.ErrCondition)
		case err != nil && !errors.Is(err, fs.ErrNotExist):
			return err
		}
		if err := s.root.WriteFile(".new", body, 0o600); err != nil {
			return err
		}
		if err := s.root.Rename(".new", file(key)); err != nil {
			return err
		}
		_, o, err = s.object(key)
		return err
	})
	return o, err
}

func (Sink) Put(_ context.Context, t core.Target, key string, body []byte, c core.Condition) (core.Object, error) {
	s, err := open(t)
	if err != nil {
		return core.Object{}, err
	}
	defer s.root.Close()
	return s.put(key, body, c)
}

func (Sink) Get(_ context.Context, t core.Target, key string) ([]byte, core.Object, error) {
	s, err := open(t)
	if err != nil {
		return nil, core.Object{}, err
	}
	defer s.root.Close()
	return s.object(key)
}

func (Sink) List(ctx context.Context, t core.Target, prefix string) iter.Seq2[core.Object, error] {
	return func(yield func(core.Object, error) bool) {
		s, err := open(t)
		if err != nil {
			yield(core.Object{}, err)
			return
		}
		defer s.root.Close()
		files, err := fs.ReadDir(s.root.FS(), ".")
		if err != nil {
			yield(core.Object{}, err)
			return
		}
		for _, f := range files {
			key, err := hex.DecodeString(f.Name())
			if err != nil || !strings.HasPrefix(string(key), prefix) {
				continue
			}
			_, o, err := s.object(string(key))
			if errors.Is(err, fs.ErrNotExist) {
				continue // deleted meanwhile
			}
			if err == nil {
				err = ctx.Err()
			}
			if !yield(o, err) || err != nil {
				return
			}
		}
	}
}

func (Sink) Delete(_ context.Context, t core.Target, keys ...string) error {
	s, err := open(t)
	if err != nil {
		return err
	}
	defer s.root.Close()
	for _, key := range keys {
		if err := s.root.Remove(file(key)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("delete %s: %w", key, err)
		}
	}
	return nil
}

func (Sink) Copy(ctx context.Context, t core.Target, moves []core.Move) iter.Seq2[core.Move, error] {
	return func(yield func(core.Move, error) bool) {
		s, err := open(t)
		if err != nil {
			yield(core.Move{}, err)
			return
		}
		defer s.root.Close()
		for _, m := range moves {
			body, _, err := s.object(m.From)
			if err == nil {
				_, err = s.put(m.To, body, core.Condition{})
			}
			if !yield(m, err) || err != nil {
				return
			}
		}
	}
}

func (Sink) Upload(_ context.Context, t core.Target, r core.UploadRequest) (core.Command, error) {
	s, err := open(t)
	if err != nil {
		return core.Command{}, err
	}
	defer s.root.Close()
	return core.Command{Argv: []string{"@self", "upload", "-dir", r.Dir, "-list", r.List, "-to", s.root.Name(),
		"-prefix", r.Prefix, "-previous", r.Previous, "-stage", r.Stage}}, nil
}

// Upload is the verb that Sink.Upload's command runs beside the data.
func Upload(ctx context.Context, args []string) int {
	flags := flag.NewFlagSet("upload", flag.ContinueOnError)
	dir, list, to := flags.String("dir", "", ""), flags.String("list", "", ""), flags.String("to", "", "")
	prefix, previous, stage := flags.String("prefix", "", ""), flags.String("previous", "", ""), flags.String("stage", "", "")
	if flags.Parse(args) != nil {
		return 2
	}
	if err := upload(ctx, *dir, *list, *to, *prefix, *previous, *stage); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return core.ExitDone
}

func upload(ctx context.Context, dir, list, to, prefix, previous, stage string) error {
	root, err := os.OpenRoot(to)
	if err != nil {
		return err
	}
	defer root.Close()
	s := &store{root}
	f, err := os.Open(list)
	if err != nil {
		return err
	}
	defer f.Close()
	var done int64
	for lines := bufio.NewScanner(f); lines.Scan(); {
		var u core.Upload
		if err := json.Unmarshal(lines.Bytes(), &u); err != nil {
			return fmt.Errorf("read %s: %w", list, err)
		}
		key := prefix + "/" + u.Name
		if u.Replace {
			key = stage + "/" + key
		}
		var body []byte
		if u.Previous {
			body, _, err = s.object(previous + "/" + u.Name)
		} else {
			body, err = os.ReadFile(filepath.Join(dir, filepath.FromSlash(u.Name)))
		}
		if err != nil {
			return err
		}
		if _, err := s.put(key, body, core.Condition{}); err != nil {
			return err
		}
		done += u.Size
		fmt.Printf("{\"done\":%d,\"total\":0}\n", done)
		if err := ctx.Err(); err != nil {
			return err
		}
	}
	return nil
}
