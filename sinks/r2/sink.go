package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"mime"
	"path"
	"strconv"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"

	"github.com/snapfw/snapfw/core"
)

const (
	version = "0.1.0"
	maxGet  = 64 << 20
)

// sink is a bucket of R2. Its methods may be called concurrently.
type sink struct {
	clients *clients
	purges  *pace // requests to Cloudflare's API, over all calls
}

func newSink() sink { return sink{clients: new(clients), purges: newPace(purgesASecond)} }

func (s sink) Describe(context.Context) (core.Description, error) {
	return core.Description{
		Name: "r2", Kind: core.KindSink, Version: version, Schema: schema,
		Enforces: []string{"if-none-match", "if-match", "copy-unchanged"},
	}, nil
}

// Upload plans the verb "upload". A file whose key is published already, Upload.Replace, is parked under
// r.Stage + "/" + r.Prefix + "/" + its name; the Copier moves it from there to r.Prefix + "/" + name.
// Files whose name ends in .torrent go after all others.
func (s sink) Upload(_ context.Context, t core.Target, r core.UploadRequest) (core.Command, error) {
	c, err := readConfig(t)
	if err != nil {
		return core.Command{}, err
	}
	if err := checkPrefix(r.Prefix, r.Previous, r.Stage); err != nil {
		return core.Command{}, fmt.Errorf("upload: %w", err)
	}
	if !path.IsAbs(r.Dir) || !path.IsAbs(r.List) {
		return core.Command{}, fmt.Errorf("upload: %q and %q are not both absolute", r.Dir, r.List)
	}
	transfers := c.Transfers
	if r.Transfers > 0 {
		transfers = r.Transfers
	}
	argv := []string{
		"@self", "upload", "--list", r.List, "--dir", r.Dir, "--endpoint", c.endpoint(), "--bucket", c.Bucket,
		"--transfers", strconv.Itoa(transfers), "--part-size-mib", strconv.FormatInt(c.PartSizeMiB, 10), "--patience", strconv.Itoa(c.Patience) + "s",
	}
	for _, f := range []struct{ flag, value string }{{"--base", c.Prefix}, {"--prefix", r.Prefix}, {"--previous", r.Previous}, {"--stage", r.Stage}} {
		if f.value != "" {
			argv = append(argv, f.flag, f.value)
		}
	}
	if r.Rate > 0 {
		argv = append(argv, "--rate", strconv.FormatInt(r.Rate, 10))
	}
	env := map[string]string{accessEnv: "secret:access_key_id", secretEnv: "secret:secret_access_key"}
	if c.Session != "" {
		env[sessionEnv] = "secret:session_token"
	}
	return core.Command{Argv: argv, Env: env, End: "TERM", Grace: time.Minute}, nil
}

// Put stores the body with its SHA-256 as metadata. A condition that was met is not mistaken for one that
// failed when the answer to the first try was lost: the object says which Put made it.
func (s sink) Put(ctx context.Context, t core.Target, key string, body []byte, c core.Condition) (core.Object, error) {
	b, err := s.bucket(t)
	if err == nil {
		err = checkKey(key)
	}
	if err != nil {
		return core.Object{}, err
	}
	if len(body) > maxGet {
		return core.Object{}, fmt.Errorf("put %s: %d bytes are no small object", key, len(body))
	}
	sum, id := sha256.Sum256(body), rand.Text()
	in := &s3.PutObjectInput{
		Bucket: &b.name, Key: b.key(key), Body: bytes.NewReader(body), ContentType: contentType(key),
		Metadata: map[string]string{"sha256": hex.EncodeToString(sum[:]), "put": id},
	}
	if c.IfNoneMatch {
		in.IfNoneMatch = aws.String("*")
	}
	if c.IfMatch != "" {
		in.IfMatch = &c.IfMatch
	}
	etag := ""
	out, err := b.api.PutObject(ctx, in)
	switch {
	case err == nil:
		etag = aws.ToString(out.ETag)
	case failedCondition(err) || c.IfMatch != "" && missing(err):
		h, headErr := b.head(ctx, key)
		if headErr != nil || h.meta["put"] != id {
			return core.Object{}, fmt.Errorf("put %s: %w", key, core.ErrCondition)
		}
		etag = h.etag
	default:
		return core.Object{}, fmt.Errorf("put %s: %w", key, b.words(err))
	}
	return core.Object{Key: key, Size: int64(len(body)), ETag: etag, Modified: time.Now().UTC(), Meta: in.Metadata}, nil
}

// contentType is for people and browsers; nil where the name tells nothing.
func contentType(key string) *string {
	switch path.Ext(key) {
	case ".toml":
		return aws.String("application/toml")
	case ".torrent":
		return aws.String("application/x-bittorrent")
	case ".json", ".html", ".txt":
		return aws.String(mime.TypeByExtension(path.Ext(key)))
	}
	return nil
}

func (s sink) Get(ctx context.Context, t core.Target, key string) ([]byte, core.Object, error) {
	b, err := s.bucket(t)
	if err == nil {
		err = checkKey(key)
	}
	if err != nil {
		return nil, core.Object{}, err
	}
	out, err := b.api.GetObject(ctx, &s3.GetObjectInput{Bucket: &b.name, Key: b.key(key)})
	if missing(err) {
		return nil, core.Object{}, fmt.Errorf("get %s: %w", key, fs.ErrNotExist)
	}
	if err != nil {
		return nil, core.Object{}, fmt.Errorf("get %s: %w", key, b.words(err))
	}
	defer out.Body.Close()
	if size := aws.ToInt64(out.ContentLength); size > maxGet {
		return nil, core.Object{}, fmt.Errorf("get %s: %d bytes are no small object", key, size)
	}
	body, err := io.ReadAll(io.LimitReader(out.Body, maxGet+1))
	if err != nil {
		return nil, core.Object{}, fmt.Errorf("get %s: %w", key, err)
	}
	if len(body) > maxGet || out.ContentLength != nil && int64(len(body)) != *out.ContentLength {
		return nil, core.Object{}, fmt.Errorf("get %s: %d bytes came", key, len(body))
	}
	return body, core.Object{
		Key: key, Size: int64(len(body)), ETag: aws.ToString(out.ETag), Modified: aws.ToTime(out.LastModified), Meta: lower(out.Metadata),
	}, nil
}

func (s sink) List(ctx context.Context, t core.Target, prefix string) iter.Seq2[core.Object, error] {
	return func(yield func(core.Object, error) bool) {
		b, err := s.bucket(t)
		if err != nil {
			yield(core.Object{}, err)
			return
		}
		for o, err := range b.list(ctx, prefix) {
			if !yield(o, err) || err != nil {
				return
			}
		}
	}
}

// Delete asks for 1,000 keys at once, the most that DeleteObjects takes.
func (s sink) Delete(ctx context.Context, t core.Target, keys ...string) error {
	b, err := s.bucket(t)
	if err != nil {
		return err
	}
	for len(keys) > 0 {
		some := keys[:min(1000, len(keys))]
		keys = keys[len(some):]
		var ids []types.ObjectIdentifier
		for _, k := range some {
			if err := checkKey(k); err != nil {
				return fmt.Errorf("delete: %w", err)
			}
			ids = append(ids, types.ObjectIdentifier{Key: b.key(k)})
		}
		out, err := b.api.DeleteObjects(ctx, &s3.DeleteObjectsInput{Bucket: &b.name, Delete: &types.Delete{Objects: ids, Quiet: aws.Bool(true)}})
		if err != nil {
			return fmt.Errorf("delete %d keys: %w", len(some), b.words(err))
		}
		var errs []error
		for _, e := range out.Errors {
			if aws.ToString(e.Code) != "NoSuchKey" && len(errs) < 5 {
				errs = append(errs, fmt.Errorf("delete %s: %s %s", aws.ToString(e.Key), aws.ToString(e.Code), aws.ToString(e.Message)))
			}
		}
		if err := errors.Join(errs...); err != nil {
			return err
		}
	}
	return nil
}

// lower makes the names of metadata what they were when they were put: HTTP does not keep their case.
func lower(meta map[string]string) map[string]string {
	m := make(map[string]string, len(meta))
	for k, v := range meta {
		m[strings.ToLower(k)] = v
	}
	return m
}
