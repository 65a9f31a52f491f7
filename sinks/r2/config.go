package main

import (
	"bytes"
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"path"
	"regexp"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/snapfw/snapfw/core"
)

//go:embed schema.json
var schema []byte

// config is what schema.json describes. The properties with x-secret hold references here;
// their values are in Target.Secrets.
type config struct {
	Bucket      string `json:"bucket"`
	AccountID   string `json:"account_id"`
	Endpoint    string `json:"endpoint"`
	Prefix      string `json:"prefix"`
	AccessKey   string `json:"access_key_id"`
	SecretKey   string `json:"secret_access_key"`
	Session     string `json:"session_token"`
	PublicURL   string `json:"public_url"`
	HeaderName  string `json:"header_name"`
	HeaderValue string `json:"header_value"`
	ZoneID      string `json:"zone_id"`
	APIToken    string `json:"api_token"`
	APIEndpoint string `json:"api_endpoint"`
	ExpiryDays  int    `json:"expiry_days"`
	PartSizeMiB int64  `json:"part_size_mib"`
	Transfers   int    `json:"transfers"`
	Patience    int    `json:"patience_seconds"`
}

var (
	bucketForm = regexp.MustCompile(`^[a-z0-9][a-z0-9-]{1,61}[a-z0-9]$`)
	idForm     = regexp.MustCompile(`^[0-9a-f]{32}$`)
	headerForm = regexp.MustCompile(`^[A-Za-z0-9-]+$`)
)

func readConfig(t core.Target) (config, error) {
	c := config{PartSizeMiB: 64, Transfers: 8, Patience: 180}
	dec := json.NewDecoder(bytes.NewReader(t.Config))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&c); err != nil {
		return config{}, fmt.Errorf("read the configuration of sink %s: %w", t.Name, err)
	}
	var bad core.FieldErrors
	no := func(field, msg string) { bad = append(bad, core.FieldError{Field: field, Msg: msg}) }
	if !bucketForm.MatchString(c.Bucket) {
		no("bucket", "not the name of a bucket: 3 to 63 of a-z, 0-9 and -")
	}
	switch {
	case (c.AccountID == "") == (c.Endpoint == ""):
		no("account_id", "give either account_id or endpoint")
	case c.AccountID != "" && !idForm.MatchString(c.AccountID):
		no("account_id", "not 32 hexadecimal digits")
	case c.Endpoint != "" && !isOrigin(c.Endpoint):
		no("endpoint", "not https://HOST")
	}
	if c.Prefix != "" && checkKey(c.Prefix) != nil {
		no("prefix", "not a clean relative path")
	}
	if c.AccessKey == "" {
		no("access_key_id", "is missing")
	}
	if c.SecretKey == "" {
		no("secret_access_key", "is missing")
	}
	if c.PublicURL != "" && !isAddress(c.PublicURL) {
		no("public_url", "not an address that begins with https://")
	}
	if (c.HeaderName == "") != (c.HeaderValue == "") || c.HeaderName != "" && !headerForm.MatchString(c.HeaderName) {
		no("header_name", "header_name and header_value belong together")
	}
	if (c.ZoneID == "") != (c.APIToken == "") || c.ZoneID != "" && (c.PublicURL == "" || !idForm.MatchString(c.ZoneID)) {
		no("zone_id", "zone_id (32 hexadecimal digits), api_token and public_url belong together")
	}
	if c.APIEndpoint != "" && !isAddress(c.APIEndpoint) {
		no("api_endpoint", "not an address that begins with https://")
	}
	within := func(field string, n, least, most int64) {
		if n < least || n > most {
			no(field, fmt.Sprintf("not between %d and %d", least, most))
		}
	}
	if c.ExpiryDays != 0 {
		within("expiry_days", int64(c.ExpiryDays), 2, 3650)
	}
	within("part_size_mib", c.PartSizeMiB, 5, 4096)
	within("transfers", int64(c.Transfers), 1, 64)
	within("patience_seconds", int64(c.Patience), 1, 86400)
	return c, bad.Err()
}

// endpoint is where the bucket's S3 API is:
// https://developers.cloudflare.com/r2/api/s3/api/
func (c config) endpoint() string {
	if c.Endpoint != "" {
		return strings.TrimSuffix(c.Endpoint, "/")
	}
	return "https://" + c.AccountID + ".r2.cloudflarestorage.com"
}

func (c config) expiry() time.Duration { return time.Duration(c.ExpiryDays) * 24 * time.Hour }

// isAddress takes http too: a test's server, or one on the same machine.
func isAddress(s string) bool {
	u, err := url.Parse(s)
	return err == nil && (u.Scheme == "https" || u.Scheme == "http") && u.Host != "" && u.User == nil && u.RawQuery == "" && u.Fragment == ""
}

func isOrigin(s string) bool {
	u, err := url.Parse(s)
	return err == nil && isAddress(s) && strings.Trim(u.Path, "/") == ""
}

// checkKey takes what may be a key. R2's limit is 1,024 bytes:
// https://developers.cloudflare.com/r2/platform/limits/
func checkKey(key string) error {
	switch {
	case key == "" || len(key) > 1024 || !utf8.ValidString(key):
		return fmt.Errorf("key %.80q: empty, too long or not UTF-8", key)
	case strings.ContainsFunc(key, func(r rune) bool { return unicode.IsControl(r) || r == '\\' }):
		return fmt.Errorf("key %q: control characters and backslashes are not allowed", key)
	case path.IsAbs(key) || path.Clean(key) != key || key == "." || key == ".." || strings.HasPrefix(key, "../"):
		return fmt.Errorf("key %q: not a clean relative path", key)
	}
	return nil
}

// checkPrefix takes a key's beginning up to a slash; "" is the root.
func checkPrefix(prefixes ...string) error {
	var errs []error
	for _, p := range prefixes {
		if p != "" {
			errs = append(errs, checkKey(p))
		}
	}
	return errors.Join(errs...)
}

// join puts a slash between the parts that are not empty.
func join(parts ...string) string {
	var b strings.Builder
	for _, p := range parts {
		if p != "" && b.Len() > 0 {
			b.WriteByte('/')
		}
		b.WriteString(p)
	}
	return b.String()
}
