package main

import (
	"bytes"
	"context"
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"path"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/snapfw/snapfw/core"
)

const (
	version   = "0.1.0"
	secret    = "config_path_on_host"  // the property whose content is rclone's configuration
	secretEnv = "SNAPFW_SECRET_CONFIG" // where the verb on the host finds it
)

//go:embed schema.json
var schema []byte

// sink is storage that the program rclone reaches, or a directory.
//
// Put on a directory, and on a remote that is one, leaves the old or the new object whatever
// happens; so do buckets. Storage that writes in place (sftp, webdav) does so for the moment of a small write.
type sink struct {
	rclone string    // the program on this machine; "" looks in PATH
	env    []string  // its environment
	seen   *sync.Map // what rclone said a storage can do; nil asks each time
}

func (s sink) Describe(context.Context) (core.Description, error) {
	return core.Description{
		Name: "rclone", Kind: core.KindSink, Version: version, Schema: schema,
		Programs: []string{"rclone"}, Enforces: []string{"copy-unchanged"},
	}, nil
}

// config is what schema.json describes.
type config struct {
	To          string `json:"to"`
	OnHost      string `json:"config_path_on_host"`
	OnClient    string `json:"config_path_on_client"`
	PublicURL   string `json:"public_url"`
	HeaderName  string `json:"header_name"`
	HeaderValue string `json:"header_value"` // a reference
	Transfers   int    `json:"transfers"`
}

var (
	addressForm = regexp.MustCompile(`^https?://[^/?#@]+(/[^?#]*)?$`)
	headerForm  = regexp.MustCompile(`^[A-Za-z0-9-]+$`)
)

func readConfig(t core.Target) (config, error) {
	var c config
	dec := json.NewDecoder(bytes.NewReader(t.Config))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&c); err != nil {
		return config{}, fmt.Errorf("read the configuration of sink %s: %w", t.Name, err)
	}
	var bad core.FieldErrors
	if err := checkTo(c.To); err != nil {
		bad = append(bad, core.FieldError{Field: "to", Msg: err.Error()})
	}
	if c.OnClient != "" && !path.IsAbs(c.OnClient) {
		bad = append(bad, core.FieldError{Field: "config_path_on_client", Msg: "not an absolute path"})
	}
	if c.Transfers < 0 || c.Transfers > 256 {
		bad = append(bad, core.FieldError{Field: "transfers", Msg: "not between 1 and 256"})
	}
	if c.PublicURL != "" && !addressForm.MatchString(c.PublicURL) {
		bad = append(bad, core.FieldError{Field: "public_url", Msg: "not an address that begins with https://"})
	}
	switch {
	case (c.HeaderName == "") != (c.HeaderValue == ""):
		bad = append(bad, core.FieldError{Field: "header_name", Msg: "header_name and header_value belong together"})
	case c.HeaderName != "" && (c.PublicURL == "" || !headerForm.MatchString(c.HeaderName)):
		bad = append(bad, core.FieldError{Field: "header_name", Msg: "the name of a header of public_url"})
	}
	return c, bad.Err()
}

// checkTo takes an absolute directory or the name of a remote. What rclone calls a connection
// string is refused: it would put credentials into argv.
func checkTo(to string) error {
	if strings.ContainsFunc(to, unicode.IsControl) || !utf8.ValidString(to) {
		return errors.New("holds control characters")
	}
	if isDir(to) {
		if path.Clean(to) == "/" {
			return errors.New("the root directory is no place for snapshots")
		}
		return nil
	}
	remote, rest, ok := strings.Cut(to, ":")
	switch {
	case !ok || strings.Contains(remote, "/"):
		return fmt.Errorf("%q is neither remote:path nor an absolute directory", to)
	case remote == "" || strings.Contains(remote, ","):
		return errors.New("a connection string is not taken; give the remote a name in rclone's configuration file")
	case strings.HasPrefix(remote, "-"):
		return fmt.Errorf("%q looks like an option", to)
	}
	for _, part := range strings.Split(rest, "/") {
		if part == ".." {
			return errors.New(`holds ".."`)
		}
	}
	return nil
}

// isDir tells an absolute directory from a remote.
func isDir(to string) bool { return strings.HasPrefix(to, "/") }

// join appends a checked key to a place.
func join(to, key string) string {
	if key == "" || key == "." {
		return to
	}
	if strings.HasSuffix(to, "/") || strings.HasSuffix(to, ":") {
		return to + key
	}
	return to + "/" + key
}

// checkPrefix takes a key's beginning up to a slash; "" is the root.
func checkPrefix(prefix string) error {
	if prefix == "" {
		return nil
	}
	return checkKey(prefix)
}

// checkKey takes what may be a key in any storage that rclone knows.
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

// Upload plans the verb "upload". A file whose key is published already, Upload.Replace, is parked under
// r.Stage + "/" + r.Prefix + "/" + its name; the Copier moves it from there to r.Prefix + "/" + name. A storage that
// can't copy inside itself refuses such a list, on the host.
func (s sink) Upload(_ context.Context, t core.Target, r core.UploadRequest) (core.Command, error) {
	c, err := readConfig(t)
	if err != nil {
		return core.Command{}, err
	}
	if err := checkPrefix(r.Prefix); err != nil {
		return core.Command{}, fmt.Errorf("upload: %w", err)
	}
	if !path.IsAbs(r.Dir) || !path.IsAbs(r.List) {
		return core.Command{}, fmt.Errorf("upload: %q and %q are not both absolute", r.Dir, r.List)
	}
	cmd := core.Command{
		Argv: []string{"@self", "upload", "--rclone", "@program:rclone", "--list", r.List, "--dir", r.Dir, "--to", c.To},
		End:  "TERM", Grace: time.Minute,
	}
	if r.Prefix != "" {
		cmd.Argv = append(cmd.Argv, "--prefix", r.Prefix)
	}
	if r.Stage != "" {
		if err := checkKey(r.Stage); err != nil {
			return core.Command{}, fmt.Errorf("upload: stage: %w", err)
		}
		cmd.Argv = append(cmd.Argv, "--stage", r.Stage)
	}
	if r.Previous != "" {
		if err := checkKey(r.Previous); err != nil {
			return core.Command{}, fmt.Errorf("upload: previous: %w", err)
		}
		cmd.Argv = append(cmd.Argv, "--previous", r.Previous)
	}
	transfers := 8
	if c.Transfers > 0 {
		transfers = c.Transfers
	}
	if r.Transfers > 0 {
		transfers = r.Transfers
	}
	cmd.Argv = append(cmd.Argv, "--transfers", strconv.Itoa(transfers))
	if r.Rate > 0 {
		cmd.Argv = append(cmd.Argv, "--rate", strconv.FormatInt(r.Rate, 10))
	}
	if c.OnClient != "" {
		cmd.Argv = append(cmd.Argv, "--config-beside", c.OnClient)
	}
	if c.OnHost != "" {
		cmd.Env = map[string]string{secretEnv: "secret:" + secret}
	}
	return cmd, nil
}
