package plugin

import (
	"errors"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/snapfw/snapfw/core"
	"github.com/snapfw/snapfw/core/plugin/pluginpb"
)

// A pair of functions a type of the contract: toX and fromX. From takes nil, since the
// other side may leave out any message. TestRoundTrip fails for a field that is forgotten here.

func each[A, B any](in []A, convert func(A) B) []B {
	if len(in) == 0 {
		return nil
	}
	out := make([]B, len(in))
	for i, a := range in {
		out[i] = convert(a)
	}
	return out
}

func toTime(t time.Time) *timestamppb.Timestamp {
	if t.IsZero() {
		return nil
	}
	return timestamppb.New(t)
}

func fromTime(t *timestamppb.Timestamp) time.Time {
	if t == nil || t.CheckValid() != nil {
		return time.Time{}
	}
	return t.AsTime()
}

func toDuration(d time.Duration) *durationpb.Duration {
	if d == 0 {
		return nil
	}
	return durationpb.New(d)
}

func fromDuration(d *durationpb.Duration) time.Duration { return d.AsDuration() }

func toDescription(d core.Description) *pluginpb.Description {
	return &pluginpb.Description{
		Name: d.Name, Kind: d.Kind, Version: d.Version, Intents: each(d.Intents, toIntentInfo),
		Schema: d.Schema, Never: d.Never, Programs: d.Programs, Enforces: d.Enforces,
	}
}

func fromDescription(d *pluginpb.Description) core.Description {
	return core.Description{
		Name: d.GetName(), Kind: d.GetKind(), Version: d.GetVersion(), Intents: each(d.GetIntents(), fromIntentInfo),
		Schema: d.GetSchema(), Never: d.GetNever(), Programs: d.GetPrograms(), Enforces: d.GetEnforces(),
	}
}

func toIntentInfo(i core.IntentInfo) *pluginpb.IntentInfo {
	return &pluginpb.IntentInfo{Name: i.Name, Summary: i.Summary, Args: each(i.Args, toArgInfo), Down: i.Down}
}

func fromIntentInfo(i *pluginpb.IntentInfo) core.IntentInfo {
	return core.IntentInfo{Name: i.GetName(), Summary: i.GetSummary(), Args: each(i.GetArgs(), fromArgInfo), Down: i.GetDown()}
}

func toArgInfo(a core.ArgInfo) *pluginpb.ArgInfo {
	return &pluginpb.ArgInfo{Name: a.Name, Type: a.Type, Default: a.Default, Usage: a.Usage}
}

func fromArgInfo(a *pluginpb.ArgInfo) core.ArgInfo {
	return core.ArgInfo{Name: a.GetName(), Type: a.GetType(), Default: a.GetDefault(), Usage: a.GetUsage()}
}

func toNode(n core.Node) *pluginpb.Node {
	return &pluginpb.Node{
		Name: n.Name, Wave: int32(n.Wave), Spec: n.Spec,
		Addr: &pluginpb.Addr{User: n.Addr.User, Host: n.Addr.Host, Port: int32(n.Addr.Port)},
	}
}

func fromNode(n *pluginpb.Node) core.Node {
	a := n.GetAddr()
	return core.Node{
		Name: n.GetName(), Wave: int(n.GetWave()), Spec: n.GetSpec(),
		Addr: core.Addr{User: a.GetUser(), Host: a.GetHost(), Port: int(a.GetPort())},
	}
}

func toStatus(s core.Status) *pluginpb.Status {
	return &pluginpb.Status{
		Up: s.Up, Version: s.Version, Height: s.Height, Hash: s.Hash,
		HeadTime: toTime(s.HeadTime), Checks: each(s.Checks, toCheck),
	}
}

func fromStatus(s *pluginpb.Status) core.Status {
	return core.Status{
		Up: s.GetUp(), Version: s.GetVersion(), Height: s.GetHeight(), Hash: s.GetHash(),
		HeadTime: fromTime(s.GetHeadTime()), Checks: each(s.GetChecks(), fromCheck),
	}
}

func toCheck(c core.Check) *pluginpb.Check {
	return &pluginpb.Check{Name: c.Name, Ok: c.OK, Want: c.Want, Got: c.Got, Fix: c.Fix, Safety: c.Safety}
}

func fromCheck(c *pluginpb.Check) core.Check {
	return core.Check{Name: c.GetName(), OK: c.GetOk(), Want: c.GetWant(), Got: c.GetGot(), Fix: c.GetFix(), Safety: c.GetSafety()}
}

func toIntent(i core.Intent) *pluginpb.Intent {
	return &pluginpb.Intent{Name: i.Name, Args: i.Args, Force: i.Force, Reason: i.Reason, Again: int32(i.Again)}
}

func fromIntent(i *pluginpb.Intent) core.Intent {
	return core.Intent{Name: i.GetName(), Args: i.GetArgs(), Force: i.GetForce(), Reason: i.GetReason(), Again: int(i.GetAgain())}
}

func toOutput(o core.Output) *pluginpb.Output {
	return &pluginpb.Output{Stdout: capped(o.Stdout), Stderr: capped(o.Stderr), Exit: int32(o.Exit)}
}

func fromOutput(o *pluginpb.Output) core.Output {
	return core.Output{Stdout: capped(o.GetStdout()), Stderr: capped(o.GetStderr()), Exit: int(o.GetExit())}
}

func capped(b []byte) []byte { return b[:min(len(b), maxOutput)] }

func toPlan(p core.Plan) *pluginpb.PlanDocument {
	return &pluginpb.PlanDocument{
		Prepare: each(p.Prepare, toStep), Freeze: each(p.Freeze, toStep), Capture: each(p.Capture, toStep),
		Seal: each(p.Seal, toStep), Prove: each(p.Prove, toStep), Data: p.Data,
		Publish: &pluginpb.Layout{Prefix: p.Publish.Prefix, Pointer: p.Publish.Pointer, InPlace: p.Publish.InPlace},
		MaxDown: toDuration(p.MaxDown), Settle: toDuration(p.Settle), Owner: p.Owner, Returns: p.Returns,
	}
}

func fromPlan(p *pluginpb.PlanDocument) core.Plan {
	l := p.GetPublish()
	return core.Plan{
		Prepare: each(p.GetPrepare(), fromStep), Freeze: each(p.GetFreeze(), fromStep), Capture: each(p.GetCapture(), fromStep),
		Seal: each(p.GetSeal(), fromStep), Prove: each(p.GetProve(), fromStep), Data: p.GetData(),
		Publish: core.Layout{Prefix: l.GetPrefix(), Pointer: l.GetPointer(), InPlace: l.GetInPlace()},
		MaxDown: fromDuration(p.GetMaxDown()), Settle: fromDuration(p.GetSettle()), Owner: p.GetOwner(), Returns: p.GetReturns(),
	}
}

func toStep(s core.Step) *pluginpb.Step {
	step := &pluginpb.Step{Name: s.Name, Do: toCommand(s.Do), Keep: s.Keep}
	if s.Undo != nil {
		step.Undo = toCommand(*s.Undo)
	}
	return step
}

func fromStep(s *pluginpb.Step) core.Step {
	step := core.Step{Name: s.GetName(), Do: fromCommand(s.GetDo()), Keep: s.GetKeep()}
	if s.GetUndo() != nil {
		undo := fromCommand(s.GetUndo())
		step.Undo = &undo
	}
	return step
}

func toCommand(c core.Command) *pluginpb.Command {
	return &pluginpb.Command{
		Argv: c.Argv, Dir: c.Dir, Env: c.Env, User: c.User,
		Timeout: toDuration(c.Timeout), End: c.End, Grace: toDuration(c.Grace),
	}
}

func fromCommand(c *pluginpb.Command) core.Command {
	return core.Command{
		Argv: c.GetArgv(), Dir: c.GetDir(), Env: c.GetEnv(), User: c.GetUser(),
		Timeout: fromDuration(c.GetTimeout()), End: c.GetEnd(), Grace: fromDuration(c.GetGrace()),
	}
}

func toEntries(list []core.Entry) *pluginpb.Entries {
	out := &pluginpb.Entries{Names: make([]string, len(list)), Sizes: make([]int64, len(list)), Sums: map[string]*pluginpb.Column{}}
	for i, e := range list {
		out.Names[i], out.Sizes[i] = e.Name, e.Size
		for algorithm, sum := range e.Sums {
			c := out.Sums[algorithm]
			if c == nil {
				c = &pluginpb.Column{Values: make([]string, len(list))}
				out.Sums[algorithm] = c
			}
			c.Values[i] = sum
		}
	}
	return out
}

var errColumns = errors.New("the plugin protocol: columns of entries have different lengths")

func fromEntries(in *pluginpb.Entries) ([]core.Entry, error) {
	names, sizes := in.GetNames(), in.GetSizes()
	if len(sizes) != len(names) {
		return nil, errColumns
	}
	if len(names) == 0 {
		return nil, nil
	}
	out := make([]core.Entry, len(names))
	for i, name := range names {
		out[i] = core.Entry{Name: name, Size: sizes[i]}
	}
	for algorithm, c := range in.GetSums() {
		values := c.GetValues()
		if len(values) != len(names) {
			return nil, errColumns
		}
		for i, sum := range values {
			if sum == "" {
				continue
			}
			if out[i].Sums == nil {
				out[i].Sums = map[string]string{}
			}
			out[i].Sums[algorithm] = sum
		}
	}
	return out, nil
}

func toChange(c core.Change) *pluginpb.Change {
	return &pluginpb.Change{Config: c.Config, Published: c.Published, Proposed: c.Proposed}
}

func fromChange(c *pluginpb.Change) core.Change {
	return core.Change{Config: c.GetConfig(), Published: c.GetPublished(), Proposed: c.GetProposed()}
}

func toVerdict(v core.Verdict) *pluginpb.Verdict {
	return &pluginpb.Verdict{Safe: v.Safe, Findings: each(v.Findings, toFinding), Report: v.Report, Classes: v.Classes}
}

func fromVerdict(v *pluginpb.Verdict) core.Verdict {
	return core.Verdict{Safe: v.GetSafe(), Findings: each(v.GetFindings(), fromFinding), Report: v.GetReport(), Classes: v.GetClasses()}
}

func toFinding(f core.Finding) *pluginpb.Finding {
	return &pluginpb.Finding{Class: f.Class, Name: f.Name, Detail: f.Detail, Refuse: f.Refuse}
}

func fromFinding(f *pluginpb.Finding) core.Finding {
	return core.Finding{Class: f.GetClass(), Name: f.GetName(), Detail: f.GetDetail(), Refuse: f.GetRefuse()}
}

func toTarget(t core.Target) *pluginpb.Target {
	return &pluginpb.Target{Name: t.Name, Config: t.Config, Secrets: t.Secrets}
}

func fromTarget(t *pluginpb.Target) core.Target {
	return core.Target{Name: t.GetName(), Config: t.GetConfig(), Secrets: t.GetSecrets()}
}

func toUpload(r core.UploadRequest) *pluginpb.UploadRequest {
	return &pluginpb.UploadRequest{
		Dir: r.Dir, List: r.List, Prefix: r.Prefix, Previous: r.Previous, Stage: r.Stage,
		Rate: r.Rate, Transfers: int32(r.Transfers),
	}
}

func fromUpload(r *pluginpb.UploadRequest) core.UploadRequest {
	return core.UploadRequest{
		Dir: r.GetDir(), List: r.GetList(), Prefix: r.GetPrefix(), Previous: r.GetPrevious(), Stage: r.GetStage(),
		Rate: r.GetRate(), Transfers: int(r.GetTransfers()),
	}
}

func toObject(o core.Object) *pluginpb.Object {
	return &pluginpb.Object{Key: o.Key, Size: o.Size, Etag: o.ETag, Modified: toTime(o.Modified), Sums: o.Sums, Meta: o.Meta}
}

func fromObject(o *pluginpb.Object) core.Object {
	return core.Object{
		Key: o.GetKey(), Size: o.GetSize(), ETag: o.GetEtag(), Modified: fromTime(o.GetModified()),
		Sums: o.GetSums(), Meta: o.GetMeta(),
	}
}

func toCondition(c core.Condition) *pluginpb.Condition {
	return &pluginpb.Condition{IfNoneMatch: c.IfNoneMatch, IfMatch: c.IfMatch}
}

func fromCondition(c *pluginpb.Condition) core.Condition {
	return core.Condition{IfNoneMatch: c.GetIfNoneMatch(), IfMatch: c.GetIfMatch()}
}

func toFront(f core.Front) *pluginpb.FrontReply {
	return &pluginpb.FrontReply{Url: f.URL, Header: f.Header, Secret: f.Secret}
}

func fromFront(f *pluginpb.FrontReply) core.Front {
	return core.Front{URL: f.GetUrl(), Header: f.GetHeader(), Secret: f.GetSecret()}
}

func toMove(m core.Move) *pluginpb.Move {
	return &pluginpb.Move{From: m.From, To: m.To, Size: m.Size}
}

func fromMove(m *pluginpb.Move) core.Move {
	return core.Move{From: m.GetFrom(), To: m.GetTo(), Size: m.GetSize()}
}
