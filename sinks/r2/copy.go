package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"maps"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"
	smithyhttp "github.com/aws/smithy-go/transport/http"

	"github.com/snapfw/snapfw/core"
)

const copiesAtOnce = 8

// Few keys are looked at one by one, more by a list.
const fewSelves = 16

// Copy copies several at once and yields each as it is done, the error last. A move from a key to itself makes
// the object young again, for buckets that expire objects by age: only when half of expiry_days is used
// up, and never without expiry_days. The ages of many such keys are read from one list.
func (s sink) Copy(ctx context.Context, t core.Target, moves []core.Move) iter.Seq2[core.Move, error] {
	return func(yield func(core.Move, error) bool) {
		b, err := s.bucket(t)
		if err != nil {
			yield(core.Move{}, err)
			return
		}
		c, err := readConfig(t)
		if err != nil {
			yield(core.Move{}, err)
			return
		}
		young, due, err := b.young(ctx, moves, c.expiry())
		if err != nil {
			yield(core.Move{}, err)
			return
		}
		for _, m := range young {
			if !yield(m, nil) {
				return
			}
		}
		// Data before the .torrent that tells of it, as in an upload.
		isTorrent := func(m core.Move) bool { return strings.HasSuffix(m.To, ".torrent") }
		data := slices.DeleteFunc(slices.Clone(due), isTorrent)
		torrents := slices.DeleteFunc(slices.Clone(due), func(m core.Move) bool { return !isTorrent(m) })
		if b.moveAll(ctx, data, c.expiry(), yield) {
			b.moveAll(ctx, torrents, c.expiry(), yield)
		}
	}
}

// moveAll tells whether all were moved and nobody had enough.
func (b *bucket) moveAll(ctx context.Context, moves []core.Move, expiry time.Duration, yield func(core.Move, error) bool) bool {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	done := make(chan core.Move)
	end := make(chan error, 1)
	go func() {
		end <- each(ctx, copiesAtOnce, moves, func(ctx context.Context, m core.Move) error {
			if err := b.move(ctx, m, expiry); err != nil {
				return err
			}
			select {
			case done <- m:
			case <-ctx.Done():
			}
			return nil
		})
		close(done)
	}()
	for m := range done {
		if !yield(m, nil) {
			return false
		}
	}
	if err := <-end; err != nil {
		yield(core.Move{}, err)
		return false
	}
	return true
}

// isYoung tells whether an object stored then need not be stored anew.
func isYoung(stored time.Time, expiry time.Duration) bool {
	return expiry == 0 || time.Since(stored) < expiry/2
}

// young splits off the moves of a key to itself that have nothing to do. For a release these are as many as
// the chain has files, so one list tells, and no object is asked for by itself.
func (b *bucket) young(ctx context.Context, moves []core.Move, expiry time.Duration) (young, due []core.Move, err error) {
	selves := map[string]core.Move{}
	var keys []string
	for _, m := range moves {
		if m.From == m.To {
			if err := checkKey(m.To); err != nil {
				return nil, nil, fmt.Errorf("copy: %w", err)
			}
			selves[m.To] = m
			keys = append(keys, m.To)
		} else {
			due = append(due, m)
		}
	}
	if len(keys) <= fewSelves {
		return nil, moves, nil
	}
	for o, err := range b.list(ctx, commonPrefix(keys)) {
		if err != nil {
			return nil, nil, err
		}
		m, ok := selves[o.Key]
		if !ok {
			continue
		}
		delete(selves, o.Key)
		if isYoung(o.Modified, expiry) && (m.Size == 0 || m.Size == o.Size) {
			young = append(young, m)
		} else {
			due = append(due, m)
		}
	}
	// What is not listed is looked at, so that its error says why.
	for _, key := range slices.Sorted(maps.Keys(selves)) {
		due = append(due, selves[key])
	}
	return young, due, nil
}

// commonPrefix is what all keys begin with.
func commonPrefix(keys []string) string {
	first, last := slices.Min(keys), slices.Max(keys)
	n := 0
	for n < len(first) && n < len(last) && first[n] == last[n] {
		n++
	}
	for n > 0 && n < len(first) && !utf8.RuneStart(first[n]) {
		n--
	}
	return first[:n]
}

// move makes m.To what m.From is.
func (b *bucket) move(ctx context.Context, m core.Move, expiry time.Duration) error {
	for _, k := range []string{m.From, m.To} {
		if err := checkKey(k); err != nil {
			return fmt.Errorf("copy: %w", err)
		}
	}
	from, err := b.head(ctx, m.From)
	if err != nil {
		return fmt.Errorf("copy to %s: %w", m.To, err)
	}
	if m.Size != 0 && from.size != m.Size {
		return fmt.Errorf("copy to %s: %s has %d bytes instead of %d", m.To, m.From, from.size, m.Size)
	}
	if m.From == m.To {
		if isYoung(from.modified, expiry) {
			return nil
		}
	} else {
		to, err := b.head(ctx, m.To)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		if err == nil && isCopy(from, to) {
			return nil
		}
	}
	if err := b.copy(ctx, copying{from: m.From, to: m.To, head: from}); err != nil {
		return err
	}
	to, err := b.head(ctx, m.To)
	if err != nil {
		return fmt.Errorf("copy %s: %w", m.From, err)
	}
	if to.size != from.size || !maps.Equal(to.meta, from.meta) {
		return fmt.Errorf("copy %s: %s is not the same afterwards; resume to copy it again", m.From, m.To)
	}
	return nil
}

// isCopy tells a copy that was made already, by its metadata, which holds a sum, or by its ETag.
func isCopy(from, to head) bool {
	if from.size != to.size || !maps.Equal(from.meta, to.meta) {
		return false
	}
	return from.meta["sha256"] != "" || from.meta["infohash"] != "" || sameETag(from.etag, to.etag)
}

// copying is one copy inside the bucket. Metadata goes with it, or is meta instead.
type copying struct {
	from, to string
	head     head // of from
	meta     map[string]string
	fresh    bool // only if there is no such key: errTaken, or HTTP 412
}

func (b *bucket) copy(ctx context.Context, c copying) error {
	if c.head.size > b.limits.copyWhole {
		return b.copyParts(ctx, c)
	}
	in := &s3.CopyObjectInput{Bucket: &b.name, Key: b.key(c.to), CopySource: b.source(c.from), CopySourceIfMatch: &c.head.etag}
	if c.meta != nil || c.from == c.to { // a copy onto itself must change something, if only in name
		out := c.head.out
		in.MetadataDirective, in.Metadata = types.MetadataDirectiveReplace, c.metadata()
		in.ContentType, in.CacheControl, in.ContentDisposition = out.ContentType, out.CacheControl, out.ContentDisposition
		in.ContentEncoding, in.ContentLanguage = out.ContentEncoding, out.ContentLanguage
	}
	var opts []func(*s3.Options)
	if c.fresh {
		// https://developers.cloudflare.com/r2/api/s3/extensions/: what If-None-Match is to PutObject.
		opts = append(opts, s3.WithAPIOptions(smithyhttp.AddHeaderValue("cf-copy-destination-if-none-match", "*")))
	}
	if _, err := b.api.CopyObject(ctx, in, opts...); err != nil {
		return fmt.Errorf("copy %s to %s: %w", c.from, c.to, b.words(err))
	}
	return nil
}

func (c copying) metadata() map[string]string {
	if c.meta != nil {
		return c.meta
	}
	return c.head.meta
}

// copyParts copies what is too large for one request, and carries on where an earlier one was broken off.
func (b *bucket) copyParts(ctx context.Context, c copying) error {
	size := b.limits.copyPart
	for (c.head.size+size-1)/size > b.limits.parts {
		size += mib
	}
	all := spans(c.head.size, size)
	etags := make([]string, len(all))
	up, err := b.adoptCopy(ctx, c, all, etags)
	if err != nil {
		return err
	}
	if up.id == "" {
		out, err := b.api.CreateMultipartUpload(ctx, &s3.CreateMultipartUploadInput{
			Bucket: &b.name, Key: b.key(c.to), Metadata: c.metadata(), ContentType: c.head.out.ContentType, CacheControl: c.head.out.CacheControl,
			ContentDisposition: c.head.out.ContentDisposition, ContentEncoding: c.head.out.ContentEncoding, ContentLanguage: c.head.out.ContentLanguage,
		})
		if err != nil {
			return fmt.Errorf("begin a copy to %s: %w", c.to, b.words(err))
		}
		up = unfinished{key: c.to, id: aws.ToString(out.UploadId)}
	}
	var missing []span
	for _, p := range all {
		if etags[p.number-1] == "" {
			missing = append(missing, p)
		}
	}
	err = each(ctx, partsAtOnce, missing, func(ctx context.Context, p span) error {
		out, err := b.api.UploadPartCopy(ctx, &s3.UploadPartCopyInput{
			Bucket: &b.name, Key: b.key(c.to), UploadId: &up.id, PartNumber: aws.Int32(int32(p.number)), CopySource: b.source(c.from),
			CopySourceRange: aws.String(fmt.Sprintf("bytes=%d-%d", p.from, p.from+p.size-1)),
		})
		if err != nil {
			return fmt.Errorf("copy part %d of %s: %w", p.number, c.from, b.words(err))
		}
		if out.CopyPartResult == nil {
			return fmt.Errorf("copy part %d of %s: the storage says nothing of it", p.number, c.from)
		}
		etags[p.number-1] = aws.ToString(out.CopyPartResult.ETag)
		return nil
	})
	if err != nil {
		return err
	}
	// R2 does not take x-amz-copy-source-if-match for a part: see that all came from one object.
	now, err := b.head(ctx, c.from)
	if err != nil {
		return err
	}
	if now.etag != c.head.etag || !now.modified.Equal(c.head.modified) {
		return errors.Join(fmt.Errorf("%s was replaced while it was copied; resume to copy it again", c.from), b.abort(ctx, up))
	}
	return b.complete(ctx, up, etags, c.fresh)
}

// adoptCopy finds the parts of a broken copy of the same object: begun after the source was stored, and
// cut as only copies are. Everything else that was begun for the key is aborted. What metadata it was begun with nobody can
// ask: a copy onto itself with other metadata is begun anew, and who gives metadata to a copy elsewhere looks afterwards.
func (b *bucket) adoptCopy(ctx context.Context, c copying, all []span, etags []string) (unfinished, error) {
	begun, err := b.unfinished(ctx, c.to)
	if err != nil {
		return unfinished{}, err
	}
	var found unfinished
	for _, u := range begun[c.to] {
		if found.id == "" && (c.meta == nil || c.from != c.to) && u.since.After(c.head.modified.Add(time.Second)) { // times are in seconds
			parts, err := b.arrived(ctx, u)
			if err != nil {
				return unfinished{}, err
			}
			fits := len(parts) > 0
			for n, p := range parts {
				fits = fits && n >= 1 && n <= int64(len(all)) && aws.ToInt64(p.Size) == all[n-1].size
			}
			if fits {
				for n, p := range parts {
					etags[n-1] = aws.ToString(p.ETag)
				}
				found = u
				continue
			}
		}
		if err := b.abort(ctx, u); err != nil {
			return unfinished{}, err
		}
	}
	return found, nil
}
