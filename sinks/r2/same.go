package main

import (
	"context"
	"crypto/md5"
	"encoding/base64"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"net/http"
	"slices"
	"strconv"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"

	"github.com/snapfw/snapfw/core"
)

// same tells whether the stored object has the file's content. Size alone never says so
// (https://github.com/erigontech/erigon/issues/17664): a sum in its metadata decides, else the file is read and compared
// with what the ETag is made of.
func (s *sending) same(ctx context.Context, f *file, o core.Object) (bool, error) {
	if o.Size != f.Size {
		return false, nil
	}
	h, err := s.bucket.head(ctx, f.key)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	if h.size != f.Size {
		return false, nil
	}
	switch agree, differ := compare(f.Sums, h.meta); {
	case differ:
		return false, nil
	case agree:
		return true, nil
	}
	src, err := s.open(f)
	if err != nil {
		return false, err
	}
	defer src.Close()
	return s.sameBytes(ctx, src, h)
}

// compare says whether two sets of sums have one in common that agrees, and whether they have one that differs.
func compare(sums, meta map[string]string) (agree, differ bool) {
	for name, value := range sums {
		if stored := meta[name]; stored == value {
			agree = true
		} else if stored != "" {
			differ = true
		}
	}
	return agree && !differ, differ
}

// sameBytes reads the file once, and nothing of the object: its ETag is the MD5 sum of its content or, where it was sent in
// parts, of their MD5 sums (https://developers.cloudflare.com/r2/objects/multipart-objects/#etags). An ETag that
// is neither, as R2's of parts before June 2023, counts as other content.
func (s *sending) sameBytes(ctx context.Context, src source, h head) (bool, error) {
	var sizes []int64
	told := isMD5(h.etag)
	if n := partsIn(h.etag); n > 0 {
		var err error
		if sizes, told, err = s.partSizes(ctx, h, n); err != nil {
			return false, err
		}
	}
	// What rclone leaves with an object that it sent in parts counts where nobody knows how large these are.
	theirs := h.meta["md5chksum"]
	whole := md5.New()
	var to []io.Writer
	if isMD5(h.etag) || !told && theirs != "" {
		to = append(to, whole)
	}
	var cuts []*cut
	for _, size := range sizes {
		c := newCut(size)
		cuts, to = append(cuts, c), append(to, c)
	}
	if len(to) == 0 {
		return false, nil
	}
	if err := feed(ctx, io.MultiWriter(append(to, paced{ctx, s.reads})...), src, 0, h.size); err != nil {
		return false, fmt.Errorf("%s: %w", src.before.Name(), err)
	}
	if err := src.unchanged(); err != nil {
		return false, err
	}
	sum := whole.Sum(nil)
	if isMD5(h.etag) {
		return sameETag(h.etag, fmt.Sprintf("%x", sum)), nil
	}
	if slices.ContainsFunc(cuts, func(c *cut) bool { return sameETag(h.etag, c.etag()) }) {
		return true, nil
	}
	return !told && theirs != "" && theirs == base64.StdEncoding.EncodeToString(sum), nil
}

// partsIn is how many parts an object had, by its ETag; 0 if that does not tell.
func partsIn(etag string) int64 {
	sum, count, _ := strings.Cut(bare(etag), "-")
	n, err := strconv.ParseInt(count, 10, 64)
	if err != nil || n < 1 || !isMD5(sum) {
		return 0
	}
	return n
}

// partSizes are those that the n parts of an object may have had; told says that there is but this one.
func (s *sending) partSizes(ctx context.Context, h head, n int64) (sizes []int64, told bool, err error) {
	if n == 1 {
		return []int64{max(h.size, 1)}, true, nil
	}
	first, err := s.bucket.firstPart(ctx, h.key)
	if err != nil {
		return nil, false, err
	}
	if partsFit(h.size, first, n) {
		return []int64{first}, true, nil
	}
	ours, _ := strconv.ParseInt(h.meta["part-size"], 10, 64)
	return guessParts(h.size, n, ours, s.bucket.limits.partSize(h.size, s.partMiB*mib), s.bucket.limits.copyPart), false, nil
}

// firstPart asks how large an object's first part is; 0 where the storage does not tell.
func (b *bucket) firstPart(ctx context.Context, key string) (int64, error) {
	out, err := b.api.HeadObject(ctx, &s3.HeadObjectInput{Bucket: &b.name, Key: b.key(key), PartNumber: aws.Int32(1)})
	switch status(err) {
	case http.StatusBadRequest, http.StatusNotFound, http.StatusMethodNotAllowed, http.StatusRequestedRangeNotSatisfiable, http.StatusNotImplemented:
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("look at the first part of %s: %w", key, b.words(err))
	}
	return aws.ToInt64(out.ContentLength), nil
}

func partsFit(size, part, n int64) bool { return part > 0 && (size+part-1)/part == n }

// usualParts are sizes that people configure and tools have as their default, in MiB: rclone 5, the AWS tools 8, s3cmd 15,
// minio 16 and 64.
var usualParts = []int64{5, 8, 10, 12, 15, 16, 20, 24, 25, 30, 32, 40, 48, 50, 60, 64, 80, 96, 100, 128, 150, 160, 200, 250, 256, 300, 320, 400, 500, 512, 640, 1000, 1024, 2048, 4096}

// guessParts are the sizes of which an object has exactly n parts: every whole MiB where these are few, as where the parts
// are many, else the usual ones. Those that the caller knows of come first.
func guessParts(size, n int64, known ...int64) []int64 {
	var sizes []int64
	add := func(part int64) {
		if partsFit(size, part, n) && !slices.Contains(sizes, part) {
			sizes = append(sizes, part)
		}
	}
	for _, part := range known {
		add(part)
	}
	const few = 8
	least := (size/n + mib - 1) / mib
	if !partsFit(size, (least+few)*mib, n) {
		for i := range int64(few) {
			add((least + i) * mib)
		}
		return sizes
	}
	for _, m := range usualParts {
		add(m * mib)
	}
	return sizes
}

// cut makes of a stream the ETag of an object that has it in parts of one size.
type cut struct {
	size, left, n int64
	part, all     hash.Hash
}

func newCut(size int64) *cut { return &cut{size: size, left: size, part: md5.New(), all: md5.New()} }

func (c *cut) Write(p []byte) (int, error) {
	for rest := p; len(rest) > 0; {
		if c.left == 0 {
			c.end()
		}
		k := min(c.left, int64(len(rest)))
		c.part.Write(rest[:k])
		c.left -= k
		rest = rest[k:]
	}
	return len(p), nil
}

func (c *cut) end() {
	c.all.Write(c.part.Sum(nil))
	c.part.Reset()
	c.left = c.size
	c.n++
}

// etag ends the last part, which is the only one that may be empty.
func (c *cut) etag() string {
	c.end()
	return fmt.Sprintf("%x-%d", c.all.Sum(nil), c.n)
}
