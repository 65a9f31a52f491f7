package engine

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"strconv"
	"strings"
	"time"

	"github.com/snapfw/snapfw/core"
	"github.com/snapfw/snapfw/core/internal/manifest"
)

// seal runs the plan's last steps on the copy, while the node serves again.
func (r *Run) seal(ctx context.Context, n *Node) error {
	if n.Sealed {
		return nil
	}
	if err := r.steps(ctx, n, phaseSeal, n.Plan.Seal); err != nil {
		return err
	}
	m, err := r.machine(ctx, n)
	if err != nil {
		return err
	}
	d := Sealed{Kept: n.Kept}
	if n.Plan.Data != "" {
		entries, err := r.entries(ctx, m, n)
		if err != nil {
			return err
		}
		d.Files = len(entries)
		for _, e := range entries {
			d.Bytes += e.Size
		}
		if n.inPlace() {
			n.proposal = &proposal{entries: entries}
		}
	}
	return r.fact(factSealed, n.Name, "", d)
}

// publishes tells whether this run publishes anything.
func (r *Run) publishes() bool { return r.Settings.Publish && r.Sink != nil }

// upload copies what the previous snapshot does not hold, and has the storage copy the rest.
func (r *Run) upload(ctx context.Context, n *Node) error {
	if !r.publishes() || n.Uploaded != nil {
		return nil
	}
	if n.inPlace() {
		return r.sendChanges(ctx, n)
	}
	m, err := r.machine(ctx, n)
	if err != nil {
		return err
	}
	entries, err := r.entries(ctx, m, n)
	if err != nil {
		return err
	}
	prefix, err := fill(n.Plan.Publish.Prefix, n.Kept)
	if err != nil {
		return err
	}
	previous, err := r.previous(ctx, n)
	if err != nil {
		return err
	}
	mark, err := manifest.EncodeMark(r.ID, r.Clock.Now())
	if err != nil {
		return err
	}
	if err := r.put(ctx, prefix+"/"+manifest.MarkFile, mark); err != nil {
		return err
	}
	began := r.Clock.Now()
	uploads := manifest.Same(previous, entries)
	s := shipment{what: "entries", dir: n.Plan.Data, prefix: prefix, previous: previous.Prefix, uploads: uploads}
	sent, err := r.send(ctx, m, n, s)
	if err != nil {
		return err
	}
	w := manifest.Sum(uploads)
	return r.fact(factUploaded, n.Name, "", Uploaded{
		Prefix: prefix, Pointer: n.Plan.Publish.Pointer,
		Files: len(entries), Bytes: w.NewBytes + w.CopiedBytes, NewFiles: w.NewFiles, NewBytes: w.NewBytes, Sent: sent,
		Took: r.Clock.Now().Sub(began),
	})
}

// shipment is what an upload brings where.
type shipment struct {
	what                         string // names the list on the host and the job
	dir, prefix, previous, stage string // as in core.UploadRequest
	uploads                      []core.Upload
}

// send writes the list of uploads on the host and runs the sink's command there, again
// after a failure: it carries on from where it was. It returns what the command says it sent, if it does.
func (r *Run) send(ctx context.Context, m Machine, n *Node, s shipment) (*core.Sent, error) {
	list := path.Join(path.Dir(n.Plan.Data), s.what+".upload.jsonl")
	var body bytes.Buffer
	if err := manifest.WriteUploads(&body, s.uploads); err != nil {
		return nil, err
	}
	if err := m.Write(ctx, n.Plan.Owner, list, &body); err != nil {
		return nil, fmt.Errorf("write the list of uploads: %w", err)
	}
	target := r.Sink.Target
	target.Secrets = nil // the command names them; the values go to the host alone
	cmd, err := r.Sink.Upload(ctx, target, core.UploadRequest{
		Dir: s.dir, List: list, Prefix: s.prefix, Previous: s.previous, Stage: s.stage,
		Rate: r.Settings.UploadRate, Transfers: r.Settings.Transfers,
	})
	if err != nil {
		return nil, fmt.Errorf("ask sink %s how to upload: %w", r.Sink.Name, err)
	}
	if err := checkCommand("sink "+r.Sink.Name+": upload", cmd, false); err != nil {
		return nil, err
	}
	job := r.job(n, cmd)
	if job.User == "" {
		job.User = n.Plan.Owner
	}
	secret := map[string]string{}
	for _, k := range job.Secrets {
		if secret[k], err = r.Sink.Secret(ctx, strings.TrimPrefix(cmd.Env[k], "secret:")); err != nil {
			return nil, fmt.Errorf("secret of sink %s: %w", r.Sink.Name, err)
		}
	}
	sm, err := r.Machine(ctx, n.Addr, r.Sink.Plugin)
	if err != nil {
		return nil, unreachable{err}
	}
	var sent *core.Sent
	tries := r.Settings.UploadTries
	if !n.Captured {
		tries = min(tries, probeTries)
	}
	err = r.retryTimes(ctx, n, "upload", tries, func() error {
		res, err := r.do(ctx, sm, n, phaseUpload+"."+s.what, job, secret)
		if err == nil {
			sent = sentIn(res.Stdout)
		}
		return err
	})
	return sent, err
}

// sentIn reads the core.Sent that may be an upload's last line.
func sentIn(stdout string) *core.Sent {
	var s struct {
		Files *int   `json:"sent"`
		Bytes *int64 `json:"sent_bytes"`
	}
	if json.Unmarshal([]byte(lastLine(stdout, "")), &s) != nil || s.Files == nil || s.Bytes == nil {
		return nil
	}
	return &core.Sent{Files: *s.Files, Bytes: *s.Bytes}
}

// retry tries something that may be tried again, with back-off. What was refused is not tried again.
func (r *Run) retry(ctx context.Context, n *Node, what string, f func() error) error {
	return r.retryTimes(ctx, n, what, r.Settings.UploadTries, f)
}

func (r *Run) retryTimes(ctx context.Context, n *Node, what string, tries int, f func() error) error {
	wait := 2 * time.Second
	for try := 1; ; try++ {
		err := f()
		var refused *RefusedError
		if err == nil || errors.As(err, &refused) || errors.Is(err, core.ErrUnsupported) || try >= max(tries, 1) {
			return err
		}
		if cause := context.Cause(ctx); cause != nil {
			return cause
		}
		name := ""
		if n != nil {
			name = n.Name
		}
		why := strings.TrimPrefix(err.Error(), what+": ")
		if nerr := r.note(name, "%s, try %d: %s; tried again in %s", what, try, why, wait); nerr != nil {
			return nerr
		}
		if err := r.Clock.Sleep(ctx, wait); err != nil {
			return err
		}
		wait = min(2*wait, time.Minute)
	}
}

// about says what was tried, unless the sink has.
func about(what string, err error) error {
	if strings.HasPrefix(err.Error(), what+": ") {
		return err
	}
	return fmt.Errorf("%s: %w", what, err)
}

func (r *Run) put(ctx context.Context, key string, body []byte) error {
	return r.retry(ctx, nil, "put "+key, func() error {
		if _, err := r.Sink.Put(ctx, r.Sink.Target, key, body, core.Condition{}); err != nil {
			return about("put "+key, err)
		}
		return nil
	})
}

// get returns nil where there is no such object.
func (r *Run) get(ctx context.Context, key string) ([]byte, error) {
	body, _, err := r.getFrom(ctx, r.Sink, key)
	return body, err
}

func (r *Run) getFrom(ctx context.Context, s *Sink, key string) (body []byte, o core.Object, err error) {
	err = r.retry(ctx, nil, "get "+key, func() error {
		body, o, err = s.Get(ctx, s.Target, key)
		if errors.Is(err, fs.ErrNotExist) {
			body, o, err = nil, core.Object{}, nil
			return nil
		}
		if body == nil {
			body = []byte{} // it is there, and empty
		}
		if err != nil {
			return about("get "+key, err)
		}
		return nil
	})
	return body, o, err
}

func (r *Run) entries(ctx context.Context, m Machine, n *Node) ([]core.Entry, error) {
	name := path.Join(path.Dir(n.Plan.Data), "entries.jsonl")
	f, err := m.Open(ctx, n.Plan.Owner, name)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", name, err)
	}
	defer f.Close()
	entries, err := manifest.ReadEntries(io.LimitReader(f, manifest.MaxManifest+1))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return entries, nil
}

func (r *Run) pointer(ctx context.Context, key string) (manifest.Pointer, error) {
	body, err := r.get(ctx, key)
	if err != nil || body == nil {
		return manifest.Pointer{}, err
	}
	return manifest.ParsePointer(body)
}

// previous returns the manifest that the pointer names; the zero Manifest if there is none. One that can't be trusted
// is none: everything is uploaded then.
func (r *Run) previous(ctx context.Context, n *Node) (manifest.Manifest, error) {
	p, err := r.pointer(ctx, n.Plan.Publish.Pointer)
	if err != nil {
		return manifest.Manifest{}, r.note(n.Name, "the published pointer %s can't be used, everything is uploaded: %v", n.Plan.Publish.Pointer, err)
	}
	if p.Prefix == "" {
		return manifest.Manifest{}, nil
	}
	body, err := r.get(ctx, p.Manifest)
	if err != nil {
		return manifest.Manifest{}, err
	}
	m, perr := manifest.Parse(body)
	if perr != nil || manifest.SHA256(body) != p.SHA256 {
		return manifest.Manifest{}, r.note(n.Name, "the published manifest %s is not what the pointer says, everything is uploaded", p.Manifest)
	}
	return m, nil
}

// fill puts the kept values into a prefix: {height} and the like.
func fill(prefix string, kept map[string]string) (string, error) {
	for name, value := range kept {
		prefix = strings.ReplaceAll(prefix, "{"+name+"}", value)
	}
	if strings.ContainsAny(prefix, "{}") {
		return "", fmt.Errorf("prefix %q names a value that no step kept", prefix)
	}
	return prefix, manifest.CheckName(prefix)
}

// verify compares what the storage lists with what was sealed, and then completes the snapshot with
// its sums and its manifest. Nothing names it yet.
func (r *Run) verify(ctx context.Context, n *Node) error {
	if !r.publishes() || n.Verified {
		return nil
	}
	if n.inPlace() {
		return r.verifyChanges(ctx, n)
	}
	m, err := r.machine(ctx, n)
	if err != nil {
		return err
	}
	entries, err := r.entries(ctx, m, n)
	if err != nil {
		return err
	}
	prefix := n.Uploaded.Prefix
	err = r.retry(ctx, n, "list "+prefix, func() error {
		return manifest.Arrived(prefix, entries, r.Sink.List(ctx, r.Sink.Target, prefix+"/"))
	})
	if err != nil {
		return err
	}
	mf, err := r.manifest(ctx, m, n, entries)
	if err != nil {
		return err
	}
	body, err := mf.Encode()
	if err != nil {
		return err
	}
	sums, err := manifest.Sums(entries)
	if err != nil {
		return err
	}
	if err := r.put(ctx, prefix+"/"+manifest.SumsFile, sums); err != nil {
		return err
	}
	if err := r.put(ctx, prefix+"/"+manifest.File, body); err != nil {
		return err
	}
	return r.fact(factVerified, n.Name, "", manifest.SHA256(body))
}

func (r *Run) manifest(ctx context.Context, m Machine, n *Node, entries []core.Entry) (manifest.Manifest, error) {
	mf := manifest.Manifest{
		Chain: r.state.Begun.Chain, Node: n.Name, Run: r.ID, Intent: r.state.Begun.Intent.Name,
		Prefix: n.Uploaded.Prefix, Hash: n.Kept["hash"], Taken: n.CapturedAt.UTC().Truncate(time.Second),
		Facts: n.Kept, Method: r.method(ctx, m, n),
	}
	if h, ok := n.Kept["height"]; ok {
		height, err := strconv.ParseUint(h, 10, 64)
		if err != nil {
			return mf, fmt.Errorf("the kept height: %w", err)
		}
		mf.Height = height
	}
	if n.Before != nil {
		mf.NodeVersion = n.Before.Version
	}
	if n.cameBack(); n.Up != nil {
		mf.DownSeconds = n.Up.Down.Seconds()
	}
	if r.state.Begun.Intent.Force {
		mf.Forced = r.state.Begun.Intent.Reason
	}
	mf.Fill(entries)
	return mf, nil
}

// method reads how the copy was made from what capture left beside it; "" where a plan uses
// something else.
func (r *Run) method(ctx context.Context, m Machine, n *Node) string {
	f, err := m.Open(ctx, n.Plan.Owner, path.Join(path.Dir(n.Plan.Data), "captured.json"))
	if err != nil {
		return ""
	}
	defer f.Close()
	var made struct {
		Method string `json:"method"`
	}
	if json.NewDecoder(io.LimitReader(f, 1<<20)).Decode(&made) != nil {
		return ""
	}
	return made.Method
}

// prove runs the plan's own proof on the host and reads the manifest back.
func (r *Run) prove(ctx context.Context, n *Node) error {
	if n.inPlace() {
		return r.proveChanges(ctx, n)
	}
	if !n.Verified || n.Proved {
		return nil
	}
	if err := r.steps(ctx, n, phaseProve, n.Plan.Prove); err != nil {
		return err
	}
	body, err := r.get(ctx, n.Uploaded.Prefix+"/"+manifest.File)
	if err != nil {
		return err
	}
	if manifest.SHA256(body) != n.Uploaded.Manifest {
		return fmt.Errorf("the manifest of %s came back other than it was put", n.Uploaded.Prefix)
	}
	return r.fact(factProved, n.Name, "", nil)
}
