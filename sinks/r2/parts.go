package main

import (
	"context"
	"crypto/md5"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"
)

// How many parts of one file go at once. R2 answers 503 or 500 to many parts of one upload at once;
// clients that met it settled for two: https://github.com/benbjohnson/litestream/pull/951
const partsAtOnce = 2

// unfinished is an upload in parts that was begun.
type unfinished struct {
	key, id string
	since   time.Time
}

// unfinished lists the uploads whose keys begin with a prefix, by key, the newest first.
func (b *bucket) unfinished(ctx context.Context, prefix string) (map[string][]unfinished, error) {
	found := map[string][]unfinished{}
	in := &s3.ListMultipartUploadsInput{Bucket: &b.name, Prefix: aws.String(b.beginning(prefix))}
	for {
		page, err := b.api.ListMultipartUploads(ctx, in)
		if err != nil {
			return nil, fmt.Errorf("list unfinished uploads under %s: %w", prefix, b.words(err))
		}
		for _, u := range page.Uploads {
			if key, ok := b.relative(aws.ToString(u.Key)); ok {
				found[key] = append(found[key], unfinished{key: key, id: aws.ToString(u.UploadId), since: aws.ToTime(u.Initiated)})
			}
		}
		if !aws.ToBool(page.IsTruncated) || aws.ToString(page.NextKeyMarker) == "" {
			break
		}
		in.KeyMarker, in.UploadIdMarker = page.NextKeyMarker, page.NextUploadIdMarker
	}
	for _, list := range found {
		slices.SortFunc(list, func(x, y unfinished) int { return y.since.Compare(x.since) })
	}
	return found, nil
}

// arrived lists the parts of an unfinished upload by number. One that is gone has none.
func (b *bucket) arrived(ctx context.Context, u unfinished) (map[int64]types.Part, error) {
	parts := map[int64]types.Part{}
	in := &s3.ListPartsInput{Bucket: &b.name, Key: b.key(u.key), UploadId: &u.id}
	for {
		page, err := b.api.ListParts(ctx, in)
		if status(err) == http.StatusNotFound {
			return nil, nil
		}
		if err != nil {
			return nil, fmt.Errorf("list parts of %s: %w", u.key, b.words(err))
		}
		for _, p := range page.Parts {
			parts[int64(aws.ToInt32(p.PartNumber))] = p
		}
		next := aws.ToString(page.NextPartNumberMarker)
		if !aws.ToBool(page.IsTruncated) || next == "" || next == aws.ToString(in.PartNumberMarker) {
			return parts, nil
		}
		in.PartNumberMarker = &next
	}
}

// abort frees the parts of an unfinished upload; one that is gone is no error.
func (b *bucket) abort(ctx context.Context, u unfinished) error {
	_, err := b.api.AbortMultipartUpload(ctx, &s3.AbortMultipartUploadInput{Bucket: &b.name, Key: b.key(u.key), UploadId: &u.id})
	if err != nil && status(err) != http.StatusNotFound {
		return fmt.Errorf("abort a stale upload of %s: %w", u.key, b.words(err))
	}
	return nil
}

// errTaken says that a key that had to be new is there.
var errTaken = errors.New("the key is taken")

// complete puts the parts together. If fresh, it is errTaken where the key is there already. A first answer
// that was lost is no failure: then the upload is gone and the object has the parts' ETag.
func (b *bucket) complete(ctx context.Context, u unfinished, etags []string, fresh bool) error {
	in := &s3.CompleteMultipartUploadInput{Bucket: &b.name, Key: b.key(u.key), UploadId: &u.id, MultipartUpload: &types.CompletedMultipartUpload{}}
	for i, e := range etags {
		in.MultipartUpload.Parts = append(in.MultipartUpload.Parts, types.CompletedPart{ETag: &e, PartNumber: aws.Int32(int32(i + 1))})
	}
	if fresh {
		in.IfNoneMatch = aws.String("*")
	}
	_, err := b.api.CompleteMultipartUpload(ctx, in)
	if fresh && status(err) == http.StatusNotImplemented {
		// R2 documents conditions for PutObject only. Look, then: two uploads of one key at the
		// same moment are kept apart by the lock on the chain.
		if _, headErr := b.head(ctx, u.key); !errors.Is(headErr, fs.ErrNotExist) {
			return errors.Join(errTaken, headErr)
		}
		in.IfNoneMatch = nil
		_, err = b.api.CompleteMultipartUpload(ctx, in)
	}
	if err == nil {
		return nil
	}
	if failedCondition(err) || code(err) == "NoSuchUpload" || status(err) == http.StatusNotFound {
		h, headErr := b.head(ctx, u.key)
		if headErr == nil && sameETag(h.etag, composite(etags)) {
			return nil
		}
		if failedCondition(err) {
			return errTaken
		}
	}
	return fmt.Errorf("complete %s: %w", u.key, b.words(err))
}

// composite is the ETag of an object made of parts:
// https://developers.cloudflare.com/r2/objects/multipart-objects/#etags
// It is "" if the parts' ETags are no MD5 sums.
func composite(etags []string) string {
	whole := md5.New()
	for _, e := range etags {
		raw, err := hex.DecodeString(bare(e))
		if err != nil || len(raw) != md5.Size {
			return ""
		}
		whole.Write(raw)
	}
	return fmt.Sprintf("%s-%d", hex.EncodeToString(whole.Sum(nil)), len(etags))
}

func bare(etag string) string { return strings.ToLower(strings.Trim(etag, `"`)) }

func sameETag(a, b string) bool { return bare(a) != "" && bare(a) == bare(b) }

// isMD5 tells an ETag that is the MD5 sum of the content.
func isMD5(etag string) bool {
	raw, err := hex.DecodeString(bare(etag))
	return err == nil && len(raw) == md5.Size
}

// span is one part: its number counts from 1.
type span struct{ number, from, size int64 }

func spans(size, part int64) []span {
	var s []span
	for from := int64(0); from < size; from += part {
		s = append(s, span{number: int64(len(s) + 1), from: from, size: min(part, size-from)})
	}
	return s
}

// each runs do for every item, n at once, and ends with the first error.
func each[T any](ctx context.Context, n int, items []T, do func(context.Context, T) error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	todo := make(chan T)
	ended := make(chan struct{})
	n = min(n, len(items))
	for range n {
		go func() {
			defer func() { ended <- struct{}{} }()
			for item := range todo {
				if ctx.Err() != nil {
					continue
				}
				if err := do(ctx, item); err != nil {
					cancel(err)
				}
			}
		}()
	}
	for _, item := range items {
		todo <- item
	}
	close(todo)
	for range n {
		<-ended
	}
	return context.Cause(ctx)
}
