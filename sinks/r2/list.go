package main

import (
	"context"
	"fmt"
	"iter"
	"slices"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"

	"github.com/snapfw/snapfw/core"
)

const listsAtOnce = 8

// list yields the objects whose keys begin with a prefix, in no order. A page holds 1,000 and names where the next
// begins, so pages come one after the other; what does not fit one page is listed folder by folder, several at once.
func (b *bucket) list(ctx context.Context, prefix string) iter.Seq2[core.Object, error] {
	return func(yield func(core.Object, error) bool) {
		begin := b.beginning(prefix)
		for in := (&s3.ListObjectsV2Input{Bucket: &b.name, Prefix: &begin}); in != nil; {
			page, next, err := b.page(ctx, in)
			if err == nil && next != nil && in.ContinuationToken == nil && hasFolders(page, begin) {
				b.listFolders(ctx, prefix, yield)
				return
			}
			if !b.give(prefix, page, err, yield) {
				return
			}
			in = next
		}
	}
}

func hasFolders(page *s3.ListObjectsV2Output, begin string) bool {
	return slices.ContainsFunc(page.Contents, func(o types.Object) bool {
		return strings.Contains(strings.TrimPrefix(aws.ToString(o.Key), begin), "/")
	})
}

func (b *bucket) listFolders(ctx context.Context, prefix string, yield func(core.Object, error) bool) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var folders []string
	in := &s3.ListObjectsV2Input{Bucket: &b.name, Prefix: aws.String(b.beginning(prefix)), Delimiter: aws.String("/")}
	for in != nil {
		page, next, err := b.page(ctx, in)
		if !b.give(prefix, page, err, yield) {
			return
		}
		for _, p := range page.CommonPrefixes {
			folders = append(folders, aws.ToString(p.Prefix))
		}
		in = next
	}
	pages := make(chan *s3.ListObjectsV2Output)
	end := make(chan error, 1)
	go func() {
		end <- each(ctx, listsAtOnce, folders, func(ctx context.Context, folder string) error {
			for in := (&s3.ListObjectsV2Input{Bucket: &b.name, Prefix: &folder}); in != nil; {
				page, next, err := b.page(ctx, in)
				if err != nil {
					return err
				}
				select {
				case pages <- page:
				case <-ctx.Done():
					return context.Cause(ctx)
				}
				in = next
			}
			return nil
		})
		close(pages)
	}()
	for page := range pages {
		if !b.give(prefix, page, nil, yield) {
			return
		}
	}
	if err := <-end; err != nil {
		b.give(prefix, nil, err, yield)
	}
}

// page asks for one, and returns what to ask for next, or nil.
func (b *bucket) page(ctx context.Context, in *s3.ListObjectsV2Input) (*s3.ListObjectsV2Output, *s3.ListObjectsV2Input, error) {
	page, err := b.api.ListObjectsV2(ctx, in)
	if err != nil {
		return nil, nil, b.words(err)
	}
	if !aws.ToBool(page.IsTruncated) {
		return page, nil, nil
	}
	next := *in
	next.ContinuationToken = page.NextContinuationToken
	if token := aws.ToString(next.ContinuationToken); token == "" || token == aws.ToString(in.ContinuationToken) {
		return nil, nil, &storageError{text: "the storage says that there is more and not where"}
	}
	return page, &next, nil
}

// give yields the objects of a page, or an error, and tells whether more is wanted.
func (b *bucket) give(prefix string, page *s3.ListObjectsV2Output, err error, yield func(core.Object, error) bool) bool {
	if err != nil {
		yield(core.Object{}, fmt.Errorf("list %s: %w", prefix, err))
		return false
	}
	for _, o := range page.Contents {
		key, ok := b.relative(aws.ToString(o.Key))
		if !ok || strings.HasSuffix(key, "/") { // folders that other programs make
			continue
		}
		if !yield(core.Object{Key: key, Size: aws.ToInt64(o.Size), ETag: aws.ToString(o.ETag), Modified: aws.ToTime(o.LastModified)}, nil) {
			return false
		}
	}
	return true
}
