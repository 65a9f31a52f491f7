package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/aws/ratelimit"
	"github.com/aws/aws-sdk-go-v2/aws/retry"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/smithy-go"

	"github.com/snapfw/snapfw/core"
)

const mib = 1 << 20

// limits are R2's: https://developers.cloudflare.com/r2/platform/limits/ and
// https://developers.cloudflare.com/r2/objects/multipart-objects/
type limits struct {
	object    int64 // an object's size
	parts     int64 // of one upload
	copyWhole int64 // what CopyObject takes in one go
	copyPart  int64 // what we let UploadPartCopy copy at once
}

// An object may have 5 TiB less 5 GiB, one request 5 GiB less 5 MiB. A part of a copy is half a MiB more
// than a multiple of a MiB, which no part of an upload is: so the two are told apart when a broken one is found.
var r2Limits = limits{object: 5<<40 - 5<<30, parts: 10_000, copyWhole: 5<<30 - 5*mib, copyPart: 1<<30 + mib/2}

// bucket is what a Target names, with the keys relative to its prefix.
type bucket struct {
	api     *s3.Client
	name    string
	base    string
	limits  limits
	secrets []string
}

// access is what opens a bucket.
type access struct {
	endpoint, bucket, base string
	key, secret, session   string
	patience               time.Duration
	connections            int
}

func openBucket(a access) *bucket {
	creds := aws.CredentialsProviderFunc(func(context.Context) (aws.Credentials, error) {
		return aws.Credentials{AccessKeyID: a.key, SecretAccessKey: a.secret, SessionToken: a.session}, nil
	})
	return &bucket{
		name: a.bucket, base: a.base, limits: r2Limits, secrets: []string{a.secret, a.session, a.key},
		api: s3.New(s3.Options{
			Region: "auto", BaseEndpoint: &a.endpoint, UsePathStyle: true, Credentials: creds,
			HTTPClient: &http.Client{Transport: transport(max(a.connections, 16))},
			Retryer:    patient(a.patience),
			// A checksum in a trailer needs a payload signed in chunks, which R2 does not take. Bodies are
			// signed whole instead: their SHA-256 is in the signature.
			RequestChecksumCalculation: aws.RequestChecksumCalculationWhenRequired,
			ResponseChecksumValidation: aws.ResponseChecksumValidationWhenRequired,
			// R2 does not answer "100 Continue", so that waiting for it costs a second a part:
			// https://developers.cloudflare.com/r2/api/s3/extensions/
			ContinueHeaderThresholdBytes: -1,
		}),
	}
}

// clients remembers connections between calls: a plugin is asked for one object after another.
type clients struct{ open sync.Map }

func (s sink) bucket(t core.Target) (*bucket, error) {
	c, err := readConfig(t)
	if err != nil {
		return nil, err
	}
	a := access{
		endpoint: c.endpoint(), bucket: c.Bucket, base: c.Prefix, patience: time.Duration(c.Patience) * time.Second,
		key: t.Secrets["access_key_id"], secret: t.Secrets["secret_access_key"], session: t.Secrets["session_token"],
	}
	if err := a.check(); err != nil {
		return nil, fmt.Errorf("sink %s: %w", t.Name, err)
	}
	b, _ := s.clients.open.LoadOrStore(a, sync.OnceValue(func() *bucket { return openBucket(a) }))
	return b.(func() *bucket)(), nil
}

func (a access) check() error {
	if a.key == "" || a.secret == "" {
		return errors.New("access_key_id and secret_access_key are empty; set what they refer to")
	}
	return nil
}

func transport(connections int) *http.Transport {
	dial := &net.Dialer{Timeout: 20 * time.Second, KeepAlive: 30 * time.Second}
	return &http.Transport{
		Proxy: http.ProxyFromEnvironment,
		DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
			c, err := dial.DialContext(ctx, network, addr)
			if err != nil {
				return nil, err
			}
			return lively{c}, nil
		},
		// HTTP/2 would put every part on one connection.
		TLSNextProto:        map[string]func(string, *tls.Conn) http.RoundTripper{},
		MaxIdleConnsPerHost: connections, IdleConnTimeout: 90 * time.Second,
		TLSHandshakeTimeout: 20 * time.Second, WriteBufferSize: 256 << 10,
	}
}

// lively is a connection that breaks when nothing moves for a while. The storage may need minutes to
// put the parts of a large object together.
type lively struct{ net.Conn }

const silence = 10 * time.Minute

func (c lively) Read(b []byte) (int, error) {
	if err := c.SetReadDeadline(time.Now().Add(silence)); err != nil {
		return 0, err
	}
	return c.Conn.Read(b)
}

func (c lively) Write(b []byte) (int, error) {
	if err := c.SetWriteDeadline(time.Now().Add(silence)); err != nil {
		return 0, err
	}
	return c.Conn.Write(b)
}

// patient tries again for about this long: with 429 (R2 takes one write a second to one key), 5xx and broken
// connections, not with 403.
func patient(long time.Duration) aws.Retryer {
	const most = 10 * time.Second
	// The SDK's delays double, and are most when that is reached.
	tries, sum, delay := 1, time.Duration(0), 250*time.Millisecond
	for ; sum < long; tries++ {
		delay = min(delay*2, most)
		sum += delay
	}
	return retry.NewStandard(func(o *retry.StandardOptions) {
		o.MaxAttempts, o.MaxBackoff = tries, most
		o.RateLimiter = ratelimit.None // one broken hour of the storage must not use up the tries of all files
		o.Retryables = append(o.Retryables, retry.IsErrorRetryableFunc(func(err error) aws.Ternary {
			switch status(err) {
			case http.StatusTooManyRequests, http.StatusRequestTimeout, http.StatusConflict:
				return aws.TrueTernary
			}
			return aws.UnknownTernary
		}))
	})
}

func (b *bucket) key(key string) *string { return aws.String(join(b.base, key)) }

// head is what the storage says of one object.
type head struct {
	key      string
	size     int64
	etag     string
	modified time.Time
	meta     map[string]string
	out      *s3.HeadObjectOutput
}

// head returns an error that is fs.ErrNotExist if there is no such object.
func (b *bucket) head(ctx context.Context, key string) (head, error) {
	out, err := b.api.HeadObject(ctx, &s3.HeadObjectInput{Bucket: &b.name, Key: b.key(key)})
	if missing(err) {
		return head{}, fmt.Errorf("look at %s: %w", key, fs.ErrNotExist)
	}
	if err != nil {
		return head{}, fmt.Errorf("look at %s: %w", key, b.words(err))
	}
	return head{
		key: key, size: aws.ToInt64(out.ContentLength), etag: aws.ToString(out.ETag), modified: aws.ToTime(out.LastModified), meta: lower(out.Metadata), out: out,
	}, nil
}

// beginning is where keys with this prefix begin in the bucket.
func (b *bucket) beginning(prefix string) string {
	if b.base == "" {
		return prefix
	}
	return b.base + "/" + prefix
}

func (b *bucket) relative(key string) (string, bool) {
	if b.base == "" {
		return key, true
	}
	return strings.CutPrefix(key, b.base+"/")
}

// source is a key as x-amz-copy-source wants it.
func (b *bucket) source(key string) *string {
	parts := strings.Split(b.name+"/"+*b.key(key), "/")
	for i, p := range parts {
		parts[i] = strings.ReplaceAll(url.PathEscape(p), "+", "%2B")
	}
	return aws.String(strings.Join(parts, "/"))
}

// partSize is the same for all parts of an object: a multiple of 1 MiB, and such that the parts suffice.
func (l limits) partSize(size, wanted int64) int64 {
	need := int64(math.Ceil(float64(size) / float64(l.parts)))
	for (size+max(need, 1)-1)/max(need, 1) > l.parts {
		need++
	}
	return max(wanted, (need+mib-1)/mib*mib)
}

// storageError is what the storage said, in words; the error behind it is kept.
type storageError struct {
	text string
	err  error
}

func (e *storageError) Error() string { return e.text }
func (e *storageError) Unwrap() error { return e.err }

// spentTokens are answered with 400 by AWS: https://docs.aws.amazon.com/AmazonS3/latest/API/ErrorResponses.html
var spentTokens = []string{"ExpiredToken", "InvalidToken", "TokenRefreshRequired"}

// words says what went wrong and, where it is known, what to do.
func (b *bucket) words(err error) error {
	var api smithy.APIError
	n := status(err)
	text := err.Error()
	if errors.As(err, &api) {
		text = fmt.Sprintf("%s: %s", api.ErrorCode(), api.ErrorMessage())
		if n != 0 {
			text = fmt.Sprintf("%d %s", n, text)
		}
	}
	switch {
	case code(err) == "RequestTimeTooSkewed":
		text = fmt.Sprintf("the storage refuses the time of this machine (%s); set its clock and resume: what arrived is kept", text)
	case n == http.StatusForbidden || n == http.StatusUnauthorized || slices.Contains(spentTokens, code(err)):
		text = fmt.Sprintf("the storage refuses the credentials (%s); renew access_key_id and secret_access_key (and session_token, if there is one) and resume: what arrived is kept", text)
	case code(err) == "NoSuchBucket":
		text = fmt.Sprintf("there is no bucket %s (%s); create it or correct the sink's bucket and account_id", b.name, text)
	case n == http.StatusServiceUnavailable || n == http.StatusTooManyRequests:
		text = fmt.Sprintf("the storage does not serve at the moment (%s); resume later: what arrived is kept", text)
	}
	for _, s := range b.secrets {
		if s != "" {
			text = strings.ReplaceAll(text, s, "***")
		}
	}
	return &storageError{text: text, err: err}
}

// status is the HTTP status of an answer that was no success, or 0.
func status(err error) int {
	var r interface{ HTTPStatusCode() int }
	if errors.As(err, &r) {
		return r.HTTPStatusCode()
	}
	return 0
}

func code(err error) string {
	var api smithy.APIError
	if errors.As(err, &api) {
		return api.ErrorCode()
	}
	return ""
}

// missing tells a key that is not there from a bucket that is not there.
func missing(err error) bool {
	return status(err) == http.StatusNotFound && code(err) != "NoSuchBucket" && code(err) != "NoSuchUpload"
}

func failedCondition(err error) bool { return status(err) == http.StatusPreconditionFailed }
