package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"path"
	"strings"
	"time"

	"github.com/snapfw/snapfw/core"
)

const maxObject = 64 << 20 // of Put and Get

// errStop ends a listing that its reader has had enough of.
var errStop = errors.New("stop")

// storage is where a target's keys lie: dir, where that is a directory of this machine, else what
// rclone calls to.
type storage struct {
	program
	config
	features
	dir string
}

// open reads a target's configuration and looks what its storage can do.
func (s sink) open(ctx context.Context, t core.Target) (storage, error) {
	c, err := readConfig(t)
	if err != nil {
		return storage{}, err
	}
	if isDir(c.To) {
		return storage{config: c, program: program{conf: placed{remove: func() {}}}, dir: path.Clean(c.To)}, nil
	}
	p, err := newProgram(s.rclone, s.env, []byte(t.Secrets[secret]), "")
	if err != nil {
		return storage{}, err
	}
	st := storage{program: p, config: c}
	if st.features, err = s.features(ctx, p, c.To, t.Secrets[secret]); err != nil {
		p.close()
		return storage{}, err
	}
	if st.Features.IsLocal {
		st.dir = path.Clean(st.Root)
	}
	return st, nil
}

// features asks rclone once for a place and a configuration.
func (s sink) features(ctx context.Context, p program, to, content string) (features, error) {
	if s.seen == nil || content == "" { // rclone's own file may change
		return p.features(ctx, to)
	}
	key := sha256.Sum256([]byte(to + "\x00" + content))
	if f, ok := s.seen.Load(key); ok {
		return f.(features), nil
	}
	f, err := p.features(ctx, to)
	if err == nil {
		s.seen.Store(key, f)
	}
	return f, err
}

// Put enforces no condition: rclone has none, and to look first is no promise.
func (s sink) Put(ctx context.Context, t core.Target, key string, body []byte, c core.Condition) (core.Object, error) {
	if c != (core.Condition{}) {
		return core.Object{}, fmt.Errorf("put %s on a condition: %w", key, core.ErrUnsupported)
	}
	if err := checkKey(key); err != nil {
		return core.Object{}, err
	}
	if len(body) > maxObject {
		return core.Object{}, fmt.Errorf("put %s: %d bytes: %d are the most", key, len(body), maxObject)
	}
	st, err := s.open(ctx, t)
	if err != nil {
		return core.Object{}, fmt.Errorf("put %s: %w", key, err)
	}
	defer st.close()
	if st.dir != "" {
		err = putFile(st.dir, key, body)
	} else {
		// Below the cut-off rclone sends one request with the whole body.
		_, err = st.run(ctx, bytes.NewReader(body), 1<<20, "rcat", join(st.To, key),
			"--size", fmt.Sprint(len(body)), "--streaming-upload-cutoff", "65M")
	}
	if err != nil {
		return core.Object{}, fmt.Errorf("put %s: %w", key, err)
	}
	return st.object(key, int64(len(body)), time.Time{}), nil
}

func (st storage) object(key string, size int64, modified time.Time) core.Object {
	o := core.Object{Key: key, Size: size, Modified: modified}
	if st.PublicURL != "" {
		o.Meta = map[string]string{"url": strings.TrimSuffix(st.PublicURL, "/") + "/" + key}
	}
	return o
}

// listed is a line of "rclone lsjson".
type listed struct {
	Path    string
	Size    int64
	ModTime time.Time
	IsDir   bool
}

func (s sink) Get(ctx context.Context, t core.Target, key string) ([]byte, core.Object, error) {
	if err := checkKey(key); err != nil {
		return nil, core.Object{}, err
	}
	st, err := s.open(ctx, t)
	if err != nil {
		return nil, core.Object{}, fmt.Errorf("get %s: %w", key, err)
	}
	defer st.close()
	var body []byte
	var at listed
	if st.dir != "" {
		body, at, err = getFile(st.dir, key)
	} else {
		body, at, err = st.get(ctx, key)
	}
	if err != nil {
		return nil, core.Object{}, fmt.Errorf("get %s: %w", key, err)
	}
	return body, st.object(key, int64(len(body)), at.ModTime), nil
}

// get looks at the object first: "rclone cat" of a folder writes all that is in it.
func (st storage) get(ctx context.Context, key string) ([]byte, listed, error) {
	at, err := st.stat(ctx, key)
	if err != nil {
		return nil, at, err
	}
	if at.Size > maxObject {
		return nil, at, fmt.Errorf("%d bytes: %d are the most", at.Size, maxObject)
	}
	body, err := st.run(ctx, nil, maxObject, "cat", join(st.To, key), "--count", fmt.Sprint(maxObject+1))
	if notFound(err) {
		return nil, at, fs.ErrNotExist // it went away just now
	}
	return body, at, err
}

func (st storage) stat(ctx context.Context, key string) (listed, error) {
	var at *listed
	out, err := st.run(ctx, nil, 1<<20, "lsjson", "--stat", "--no-mimetype", "--use-server-modtime", join(st.To, key))
	if notFound(err) {
		return listed{}, fs.ErrNotExist
	}
	if err != nil {
		return listed{}, err
	}
	if err := json.Unmarshal(out, &at); err != nil {
		return listed{}, fmt.Errorf("rclone lsjson: %w", err)
	}
	if at == nil || at.IsDir {
		return listed{}, fs.ErrNotExist
	}
	return *at, nil
}

func (s sink) List(ctx context.Context, t core.Target, prefix string) iter.Seq2[core.Object, error] {
	return func(yield func(core.Object, error) bool) {
		if err := s.list(ctx, t, prefix, func(o core.Object) bool { return yield(o, nil) }); err != nil && !errors.Is(err, errStop) {
			yield(core.Object{}, fmt.Errorf("list %s: %w", prefix, err))
		}
	}
}

func (s sink) list(ctx context.Context, t core.Target, prefix string, yield func(core.Object) bool) error {
	folder := ""
	if i := strings.LastIndexByte(prefix, '/'); i >= 0 {
		folder = prefix[:i]
		if err := checkKey(folder); err != nil {
			return err
		}
	}
	st, err := s.open(ctx, t)
	if err != nil {
		return err
	}
	defer st.close()
	each := func(l listed) error {
		key := path.Join(folder, l.Path)
		if l.IsDir || !strings.HasPrefix(key, prefix) {
			return nil
		}
		if !yield(st.object(key, l.Size, l.ModTime)) {
			return errStop
		}
		return nil
	}
	if st.dir != "" {
		return listFiles(st.dir, folder, each)
	}
	return st.program.list(ctx, join(st.To, folder), each)
}

// list calls each for every file under a place, with paths relative to it. A place that is not
// there holds none.
func (p program) list(ctx context.Context, place string, each func(listed) error) error {
	err := p.stream(ctx, nil, func(r io.Reader) error {
		dec := json.NewDecoder(r)
		if _, err := dec.Token(); err != nil { // "["
			return endless(err)
		}
		for dec.More() {
			var l listed
			if err := dec.Decode(&l); err != nil {
				return endless(err)
			}
			if err := each(l); err != nil {
				return err
			}
		}
		_, err := io.Copy(io.Discard, r)
		return err
	}, "lsjson", "-R", "--files-only", "--no-mimetype", "--use-server-modtime", place)
	if notFound(err) {
		return nil
	}
	return err
}

// endless leaves it to rclone's exit code to say why its output broke off.
func endless(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return nil
	}
	return fmt.Errorf("read what rclone lists: %w", err)
}

func (s sink) Delete(ctx context.Context, t core.Target, keys ...string) error {
	for _, key := range keys {
		if err := checkKey(key); err != nil {
			return err
		}
	}
	if len(keys) == 0 {
		return nil // to rclone an empty list of names means everything
	}
	st, err := s.open(ctx, t)
	if err != nil {
		return fmt.Errorf("delete: %w", err)
	}
	defer st.close()
	if st.dir != "" {
		return deleteFiles(st.dir, keys)
	}
	return st.delete(ctx, keys)
}

func (st storage) delete(ctx context.Context, keys []string) error {
	names := strings.NewReader(strings.Join(keys, "\n") + "\n")
	if _, err := st.run(ctx, names, 1<<20, "delete", st.To, "--files-from-raw", "-"); err != nil && !notFound(err) {
		return fmt.Errorf("delete: %w", err)
	}
	if !st.Features.CanHaveEmptyDirectories {
		return nil
	}
	folder := commonFolder(keys)
	if folder == "" {
		return nil // of what lies side by side at the top no folder was ours alone
	}
	if _, err := st.run(ctx, nil, 1<<20, "rmdirs", join(st.To, folder)); err != nil && !notFound(err) {
		return fmt.Errorf("delete empty folders: %w", err)
	}
	return nil
}

// commonFolder is the deepest folder that all keys share, "" at the top.
func commonFolder(keys []string) string {
	folder := path.Dir(keys[0])
	for _, key := range keys[1:] {
		for folder != "." && !strings.HasPrefix(key, folder+"/") {
			folder = path.Dir(folder)
		}
	}
	if folder == "." {
		return ""
	}
	return folder
}
