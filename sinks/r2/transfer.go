package main

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"net/http"
	"os"
	"strconv"

	"github.com/aws/aws-sdk-go-v2/aws"
	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"
	"github.com/aws/aws-sdk-go-v2/service/s3"
)

// bring makes the storage hold one file.
func (s *sending) bring(ctx context.Context, f *file) error {
	src, err := s.open(f)
	if err != nil {
		return err
	}
	defer src.Close()
	from := ""
	switch {
	case f.Previous && s.previous != "":
		from = join(s.previous, f.Name)
	case f.Replace: // what is published may be the file: nobody remembers it, or a release that was given up sent it
		from = join(s.prefix, f.Name)
	}
	if from != "" {
		if ok, err := s.copyThere(ctx, f, src, from); ok || err != nil {
			return err
		}
	}
	if f.Size <= s.partSize(f) {
		return s.whole(ctx, f, src)
	}
	return s.inParts(ctx, f, src)
}

func (s *sending) open(f *file) (source, error) {
	r, err := s.root.Open(f.Name)
	if err != nil {
		return source{}, fmt.Errorf("open %s: %w", f.Name, err)
	}
	readOnce(r)
	before, err := r.Stat()
	if err == nil && before.Size() != f.Size {
		err = refusal{fmt.Errorf("it has %d bytes now instead of %d", before.Size(), f.Size)}
	}
	if err != nil {
		return source{}, errors.Join(fmt.Errorf("look at %s: %w", f.Name, err), r.Close())
	}
	return source{r, before}, nil
}

// source is a file that must stay as it was when it was opened.
type source struct {
	*os.File
	before fs.FileInfo
}

// unchanged is asked before the bytes become an object: files were once read in the middle of a merge
// (https://github.com/erigontech/erigon/issues/14394).
func (s source) unchanged() error {
	now, err := s.Stat()
	if err != nil {
		return err
	}
	if now.Size() != s.before.Size() || !now.ModTime().Equal(s.before.ModTime()) {
		return refusal{fmt.Errorf("%s was written to while it was uploaded; what is uploaded must stand still", s.before.Name())}
	}
	return nil
}

// meta is what goes with an object. mtime is written as rclone writes it: seconds.
func (s *sending) meta(f *file, src source) map[string]string {
	at := src.before.ModTime()
	m := map[string]string{"mtime": fmt.Sprintf("%d.%09d", at.Unix(), at.Nanosecond())}
	for name, value := range f.Sums {
		m[name] = value
	}
	return m
}

// whole sends a file in one request.
func (s *sending) whole(ctx context.Context, f *file, src source) error {
	sum, err := sum(ctx, src, 0, f.Size)
	if err != nil {
		return fmt.Errorf("%s: %w", f.Name, err)
	}
	if want := f.Sums["sha256"]; want != "" && want != sum.sha() {
		return refusal{fmt.Errorf("%s is not the file that was listed: its sha256 is %s instead of %s", f.Name, sum.sha(), want)}
	}
	if err := src.unchanged(); err != nil {
		return err
	}
	in := &s3.PutObjectInput{
		Bucket: &s.bucket.name, Key: s.bucket.key(f.key), Body: s.body(ctx, src, 0, f.Size), ContentLength: &f.Size,
		ContentMD5: contentMD5(sum), ContentType: contentType(f.Name), Metadata: s.meta(f, src),
	}
	if !f.Replace {
		in.IfNoneMatch = aws.String("*")
	}
	out, err := s.bucket.api.PutObject(v4.SetPayloadHash(ctx, sum.sha()), in)
	if failedCondition(err) {
		return s.taken(ctx, f, sum.etag())
	}
	if err != nil {
		return fmt.Errorf("send %s: %w", f.key, s.bucket.words(err))
	}
	if e := aws.ToString(out.ETag); isMD5(e) && !sameETag(e, sum.etag()) {
		return fmt.Errorf("send %s: the storage has another ETag, %s, than what was sent", f.key, e)
	}
	s.arrived(f, sum.etag(), f.Size)
	s.progress.add(f.Size)
	return nil
}

// taken says what to make of a key that had to be new and is there: our own request may have been answered
// into a broken connection.
func (s *sending) taken(ctx context.Context, f *file, etag string) error {
	h, err := s.bucket.head(ctx, f.key)
	if err != nil {
		return err
	}
	if h.size != f.Size || !sameETag(h.etag, etag) {
		return refusal{fmt.Errorf("published with other content meanwhile, and not listed as a replacement: %s", f.key)}
	}
	s.arrived(f, etag, f.Size)
	s.progress.add(f.Size)
	return nil
}

func (s *sending) body(ctx context.Context, src source, from, size int64) body {
	return body{SectionReader: io.NewSectionReader(src, from, size), ctx: ctx, pace: s.pace}
}

func contentMD5(s sums) *string { return aws.String(base64.StdEncoding.EncodeToString(s.md5[:])) }

// arrived notes what was sent.
func (s *sending) arrived(f *file, etag string, sent int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.etags[f.key] = etag
	s.sent.Files++
	s.sent.Bytes += sent
}

// inParts sends a large file, or what is still missing of it.
func (s *sending) inParts(ctx context.Context, f *file, src source) error {
	size := s.partSize(f)
	all := spans(f.Size, size)
	etags := make([]string, len(all))
	meta := s.meta(f, src)
	meta["part-size"] = strconv.FormatInt(size, 10)
	up, err := s.adopt(ctx, f, src, all, etags)
	if err != nil {
		return err
	}
	adopted := up.id != ""
	if !adopted {
		out, err := s.bucket.api.CreateMultipartUpload(ctx, &s3.CreateMultipartUploadInput{
			Bucket: &s.bucket.name, Key: s.bucket.key(f.key), Metadata: meta, ContentType: contentType(f.Name),
		})
		if err != nil {
			return fmt.Errorf("begin %s: %w", f.key, s.bucket.words(err))
		}
		up = unfinished{key: f.key, id: aws.ToString(out.UploadId)}
	}
	var missing []span
	sent := int64(0)
	for _, p := range all {
		if etags[p.number-1] == "" {
			missing = append(missing, p)
			sent += p.size
		} else {
			s.progress.add(p.size)
		}
	}
	err = each(ctx, partsAtOnce, missing, func(ctx context.Context, p span) error {
		var err error
		etags[p.number-1], err = s.part(ctx, up, src, p)
		return err
	})
	if err != nil {
		return err
	}
	if err := src.unchanged(); err != nil {
		return err
	}
	err = s.bucket.complete(ctx, up, etags, !f.Replace)
	if errors.Is(err, errTaken) {
		return refusal{fmt.Errorf("published with other content meanwhile, and not listed as a replacement: %s", f.key)}
	}
	if err != nil {
		return err
	}
	if adopted {
		if err := s.restamp(ctx, f.key, meta); err != nil {
			return err
		}
	} else {
		s.expect(f.key, composite(etags))
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.sent.Bytes += sent
	if sent > 0 {
		s.sent.Files++
	}
	return nil
}

func (s *sending) expect(key, etag string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.etags[key] = etag
}

// part sends one part. The SHA-256 in the signature and the MD5 make the storage refuse what was changed on the
// way; the ETag of the answer says once more what it has.
func (s *sending) part(ctx context.Context, up unfinished, src source, p span) (string, error) {
	sum, err := sum(ctx, src, p.from, p.size)
	if err != nil {
		return "", fmt.Errorf("%s: %w", src.before.Name(), err)
	}
	out, err := s.bucket.api.UploadPart(v4.SetPayloadHash(ctx, sum.sha()), &s3.UploadPartInput{
		Bucket: &s.bucket.name, Key: s.bucket.key(up.key), UploadId: &up.id, PartNumber: aws.Int32(int32(p.number)),
		Body: s.body(ctx, src, p.from, p.size), ContentLength: &p.size, ContentMD5: contentMD5(sum),
	})
	if err != nil {
		return "", fmt.Errorf("send part %d of %s: %w", p.number, up.key, s.bucket.words(err))
	}
	etag := aws.ToString(out.ETag)
	if isMD5(etag) && !sameETag(etag, sum.etag()) {
		return "", fmt.Errorf("send part %d of %s: the storage has another ETag, %s, than what was sent", p.number, up.key, etag)
	}
	s.progress.add(p.size)
	return etag, nil
}

// adopt finds an upload of this file that was broken off, whose every part is what the file has there, and fills in
// their ETags. Others of the key are aborted.
func (s *sending) adopt(ctx context.Context, f *file, src source, all []span, etags []string) (unfinished, error) {
	var found unfinished
	for _, u := range s.begun[f.key] {
		if found.id == "" {
			parts, err := s.matching(ctx, u, src, all)
			if err != nil {
				return unfinished{}, err
			}
			if parts != nil {
				copy(etags, parts)
				found = u
				continue
			}
		}
		if err := s.bucket.abort(ctx, u); err != nil {
			return unfinished{}, err
		}
	}
	return found, nil
}

// matching returns the ETags of the parts that arrived, "" for those that did not; nil if one is not the file's, or none arrived.
func (s *sending) matching(ctx context.Context, u unfinished, src source, all []span) ([]string, error) {
	parts, err := s.bucket.arrived(ctx, u)
	if err != nil || len(parts) == 0 {
		return nil, err
	}
	for number, p := range parts {
		if number < 1 || number > int64(len(all)) || aws.ToInt64(p.Size) != all[number-1].size || !isMD5(aws.ToString(p.ETag)) {
			return nil, nil
		}
	}
	etags := make([]string, len(all))
	for number, p := range parts {
		at := all[number-1]
		sum, err := sumMD5(ctx, s.reads, src, at.from, at.size)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", src.before.Name(), err)
		}
		if etags[number-1] = aws.ToString(p.ETag); !sameETag(etags[number-1], fmt.Sprintf("%x", sum)) {
			return nil, nil
		}
	}
	return etags, nil
}

// restamp corrects the metadata of an object whose upload an earlier run began: it may have begun with
// another version of the file, of which the same parts had arrived.
func (s *sending) restamp(ctx context.Context, key string, meta map[string]string) error {
	h, err := s.bucket.head(ctx, key)
	if err != nil {
		return err
	}
	for name, value := range meta {
		if h.meta[name] != value {
			return s.bucket.copy(ctx, copying{from: key, to: key, head: h, meta: meta})
		}
	}
	return nil
}

// copyThere copies inside the storage what did not change. It is false where what lies there is not
// the file that it is said to be: then the file is sent.
//
// What other tools stored, and their releases published, has none of our sums. Its bytes are compared; if they are the file's,
// they are parked with them. A .torrent of theirs differs from ours, as it has a date, and is sent, which is little; to
// replace it is harmless, since all that a node takes from it is under the infohash, and that is the same.
func (s *sending) copyThere(ctx context.Context, f *file, src source, from string) (bool, error) {
	h, err := s.bucket.head(ctx, from)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	if h.size != f.Size {
		return false, nil
	}
	c := copying{from: from, to: f.key, head: h, fresh: !f.Replace}
	switch agree, differ := compare(f.Sums, h.meta); {
	case differ:
		return false, nil
	case f.Replace && !agree:
		if same, err := s.sameBytes(ctx, src, h); !same || err != nil {
			return false, err
		}
		c.meta = maps.Clone(h.meta)
		maps.Copy(c.meta, s.meta(f, src))
	}
	err = s.bucket.copy(ctx, c)
	if failedCondition(err) || errors.Is(err, errTaken) {
		return false, nil // whatever it is, sending the file says so
	}
	if status(err) == http.StatusNotFound {
		return false, nil
	}
	if err == nil && c.meta != nil && h.size > s.bucket.limits.copyWhole { // an earlier run may have begun it
		err = s.restamp(ctx, f.key, c.meta)
	}
	if err != nil {
		return false, err
	}
	s.progress.add(f.Size)
	return true, nil
}
