package core

import (
	"context"
	"encoding/json"
	"iter"
	"time"
)

// Sink knows one kind of storage and nothing about snapshots.
type Sink interface {
	Plugin

	// Upload returns the command that copies the files of a list to a prefix. snapfw runs it
	// on the machine that holds them, as the owner of the data, and again after a failure:
	// it carries on from where it was, and does not succeed before every file is durable.
	// It prints Progress lines, in bytes; its last line may be a Sent.
	Upload(ctx context.Context, t Target, r UploadRequest) (Command, error)

	// Put stores a small object in one go; a reader sees the old one or the new one.
	// A Condition that does not hold is ErrCondition, one that the sink can't enforce ErrUnsupported.
	Put(ctx context.Context, t Target, key string, body []byte, c Condition) (Object, error)

	// Get returns a small object (64 MiB at most), or an error that is fs.ErrNotExist.
	Get(ctx context.Context, t Target, key string) ([]byte, Object, error)

	// List yields every object whose key begins with the prefix, in no order. A prefix
	// under which there is nothing yields nothing. It ends after the first error.
	List(ctx context.Context, t Target, prefix string) iter.Seq2[Object, error]

	// Delete removes objects; one that is not there is no error.
	Delete(ctx context.Context, t Target, keys ...string) error
}

// Copier is implemented by a Sink that copies inside the storage, whatever the size.
// It yields every move that is done and carries on after a failure: moves that are done
// already are yielded again, not copied again. Metadata is kept. A move from a key to itself makes
// the object young again where the storage expires objects by age and its age is half of that; else it does nothing.
type Copier interface {
	Copy(ctx context.Context, t Target, moves []Move) iter.Seq2[Move, error]
}

// Purger is implemented by a Sink with a cache in front of it.
type Purger interface {
	Purge(ctx context.Context, t Target, keys ...string) error
}

// Fronted is implemented by a Sink whose consumers read from an address of its own: a CDN.
type Fronted interface {
	// Front returns ErrUnsupported where none is configured.
	Front(ctx context.Context, t Target) (Front, error)
}

// Front is where consumers read a key: at URL + "/" + key.
type Front struct {
	URL    string // "https://snapshots.example.org"; no slash at its end
	Header string // the name of a header without which it refuses; "" if there is none
	Secret string // the property of the sink's configuration that holds the header's value
}

// Target is one configured storage. Keys are relative to the place that Config names.
type Target struct {
	Name    string            // as in the configuration's sinks:
	Config  json.RawMessage   // what Description.Schema describes, secrets still references
	Secrets map[string]string // by property, the values of those with "x-secret" in the schema; empty for Upload
}

// UploadRequest says what to copy where. A property with "x-secret" that the command
// needs on the host is named in its Env as "secret:PROPERTY".
type UploadRequest struct {
	Dir       string // absolute, on the host: the files' names are relative to it
	List      string // absolute, on the host: one JSON Upload a line
	Prefix    string // keys are Prefix + "/" + name
	Previous  string // the prefix that Upload.Previous means; "" if there is none
	Stage     string // a prefix where replacements wait; "" if nothing is replaced
	Rate      int64  // bytes a second; 0 is no limit
	Transfers int    // files at once; 0 as the sink thinks best
}

// Upload is one line of an UploadRequest's list.
type Upload struct {
	Entry
	Previous bool `json:"previous,omitempty"` // UploadRequest.Previous holds a file of this name, size and sum: copy it inside the storage
	Replace  bool `json:"replace,omitempty"`  // the key is published: park it under Stage
}

// Sent is what an upload may print at its end: what really went from the host to the storage, beside what
// the storage copied inside itself or held already.
type Sent struct {
	Files int   `json:"sent"`
	Bytes int64 `json:"sent_bytes"`
}

// Object is one stored object.
type Object struct {
	Key      string
	Size     int64
	ETag     string            // opaque; "" where the storage has none
	Modified time.Time         // when it was stored
	Sums     map[string]string // what the storage itself says, by algorithm
	Meta     map[string]string
}

// Condition makes a Put fail with ErrCondition instead of overwriting.
type Condition struct {
	IfNoneMatch bool   // only if there is no such object
	IfMatch     string // only if the object's ETag is this
}

// Move is one server-side copy.
type Move struct {
	From string
	To   string
	Size int64
}
