package main

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/cloudflare/cloudflare-go/v7/cache"
	"github.com/cloudflare/cloudflare-go/v7/option"

	"github.com/snapfw/snapfw/core"
)

// Cloudflare takes 100 URLs a request, 800 URLs a second of the smallest plan
// (https://developers.cloudflare.com/cache/how-to/purge-cache/), and 1,200 requests of all kinds in five minutes
// (https://developers.cloudflare.com/fundamentals/api/reference/limits/): three a second leaves room for others.
const (
	urlsAtOnce    = 100
	purgesASecond = 3
	purgeTries    = 8
)

// Purge takes keys out of the cache, so that a consumer never gets a mix of an object's old and new ranges. It
// returns when Cloudflare said that it did; a 429 is tried again after the time that it says. Without
// zone_id it is core.ErrUnsupported.
func (s sink) Purge(ctx context.Context, t core.Target, keys ...string) error {
	c, err := readConfig(t)
	if err != nil {
		return err
	}
	if c.ZoneID == "" {
		return fmt.Errorf("purge: sink %s has no zone_id: %w", t.Name, core.ErrUnsupported)
	}
	token := t.Secrets["api_token"]
	if token == "" {
		return fmt.Errorf("purge: sink %s: api_token is empty; set what it refers to", t.Name)
	}
	var urls []string
	for _, k := range keys {
		if err := checkKey(k); err != nil {
			return fmt.Errorf("purge: %w", err)
		}
		urls = append(urls, addresses(c.PublicURL, k)...)
	}
	api := newPurger(c, token)
	for len(urls) > 0 {
		some := urls[:min(urlsAtOnce, len(urls))]
		urls = urls[len(some):]
		if err := s.purges.wait(ctx, 1); err != nil {
			return err
		}
		status := 0
		_, err := api.Purge(ctx, purgeOf(c.ZoneID, some), option.WithMiddleware(func(r *http.Request, next option.MiddlewareNext) (*http.Response, error) {
			answer, err := next(r)
			if answer != nil {
				status = answer.StatusCode
			}
			return answer, err
		}))
		if err != nil {
			return fmt.Errorf("purge %d addresses, the first is %s: %w", len(some), some[0], purgeWords(err, status, token))
		}
	}
	return nil
}

// newPurger is the service alone: a whole client would read tokens from the environment.
func newPurger(c config, token string) *cache.CacheService {
	opts := []option.RequestOption{
		option.WithEnvironmentProduction(), option.WithAPIToken(token), option.WithMaxRetries(purgeTries - 1),
		option.WithHTTPClient(&http.Client{Timeout: time.Minute}),
	}
	if c.APIEndpoint != "" {
		opts = append(opts, option.WithBaseURL(strings.TrimSuffix(c.APIEndpoint, "/")+"/"))
	}
	return cache.NewCacheService(opts...)
}

// purgeOf fills the fields in one by one: the functions that make them are in cloudflare-go's root package, which brings
// all of Cloudflare's API with it, 50 MB of program.
func purgeOf(zone string, urls []string) (p cache.CachePurgeParams) {
	var files cache.CachePurgeParamsBodyCachePurgeSingleFile
	files.Files.Value, files.Files.Present = urls, true
	p.ZoneID.Value, p.ZoneID.Present = zone, true
	p.Body = files
	return p
}

func purgeWords(err error, status int, token string) error {
	text := strings.ReplaceAll(err.Error(), token, "***")
	switch status {
	case http.StatusUnauthorized, http.StatusForbidden:
		text = fmt.Sprintf("Cloudflare refuses the token (%d); give api_token the permission Cache Purge on zone_id", status)
	case http.StatusTooManyRequests:
		text = "Cloudflare's rate limit (429) is used up; resume later"
	}
	return &storageError{text: text, err: err}
}

// addresses are the ways in which a consumer asks for a key, which to a cache are as many: with the slashes in a name as
// they are, or as %2F (https://github.com/erigontech/erigon/issues/19883), and with a plus as it is, or as %2B, which
// BitTorrent clients write since S3 takes a plus for a space.
func addresses(public, key string) []string {
	parts := strings.Split(key, "/")
	for i, p := range parts {
		parts[i] = url.PathEscape(p)
	}
	at := strings.TrimSuffix(public, "/") + "/"
	var all []string
	for _, slash := range []string{"/", "%2F"} {
		path := strings.Join(parts, slash)
		all = append(all, at+path, at+strings.ReplaceAll(path, "+", "%2B"))
	}
	slices.Sort(all)
	return slices.Compact(all)
}
