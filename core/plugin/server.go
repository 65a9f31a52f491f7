package plugin

import (
	"context"
	"errors"
	"sync"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/snapfw/snapfw/core"
	"github.com/snapfw/snapfw/core/plugin/pluginpb"
)

type pluginServer struct {
	pluginpb.UnimplementedPluginServer
	plugin core.Plugin
}

func (s *pluginServer) Describe(ctx context.Context, _ *pluginpb.DescribeRequest) (*pluginpb.Description, error) {
	d, err := s.plugin.Describe(ctx)
	return toDescription(d), encodeError(err)
}

type chainServer struct {
	pluginpb.UnimplementedChainServer
	chain core.Chain
}

func (s *chainServer) Nodes(r *pluginpb.NodesRequest, stream pluginpb.Chain_NodesServer) error {
	nodes, err := s.chain.Nodes(stream.Context(), r.GetConfig())
	if err != nil {
		return encodeError(err)
	}
	for _, n := range nodes {
		if err := stream.Send(toNode(n)); err != nil {
			return err
		}
	}
	return nil
}

func (s *chainServer) Status(stream pluginpb.Chain_StatusServer) error {
	first, err := stream.Recv()
	if err != nil {
		return err
	}
	if first.GetOpen() == nil {
		return errNotOpened
	}
	host := &askingHost{exchange: func(ask *pluginpb.Ask) (*pluginpb.Output, error) {
		if err := stream.Send(&pluginpb.StatusReply{Say: &pluginpb.StatusReply_Ask{Ask: ask}}); err != nil {
			return nil, err
		}
		r, err := stream.Recv()
		return r.GetOutput(), err
	}}
	answer, err := s.chain.Status(stream.Context(), fromNode(first.GetOpen().GetNode()), host)
	if err != nil {
		return encodeError(err)
	}
	return stream.Send(&pluginpb.StatusReply{Say: &pluginpb.StatusReply_Answer{Answer: toStatus(answer)}})
}

func (s *chainServer) Plan(stream pluginpb.Chain_PlanServer) error {
	first, err := stream.Recv()
	if err != nil {
		return err
	}
	open := first.GetOpen()
	if open == nil {
		return errNotOpened
	}
	host := &askingHost{exchange: func(ask *pluginpb.Ask) (*pluginpb.Output, error) {
		if err := stream.Send(&pluginpb.PlanReply{Say: &pluginpb.PlanReply_Ask{Ask: ask}}); err != nil {
			return nil, err
		}
		r, err := stream.Recv()
		return r.GetOutput(), err
	}}
	answer, err := s.chain.Plan(stream.Context(), fromNode(open.GetNode()), host, fromIntent(open.GetIntent()))
	if err != nil {
		return encodeError(err)
	}
	return stream.Send(&pluginpb.PlanReply{Say: &pluginpb.PlanReply_Answer{Answer: toPlan(answer)}})
}

var errNotOpened = status.Error(codes.InvalidArgument, "a conversation begins with open")

// askingHost is the core.Host that a driver gets: it asks snapfw. Run may be called
// concurrently; the wire carries one question at a time.
type askingHost struct {
	mu       sync.Mutex
	exchange func(*pluginpb.Ask) (*pluginpb.Output, error)
}

func (h *askingHost) Run(ctx context.Context, argv ...string) (core.Output, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if err := ctx.Err(); err != nil {
		return core.Output{}, err
	}
	ask := &pluginpb.Ask{Argv: argv}
	if deadline, ok := ctx.Deadline(); ok {
		ask.Timeout = durationpb.New(time.Until(deadline))
	}
	out, err := h.exchange(ask)
	if err != nil {
		return core.Output{}, decodeError(err)
	}
	if out == nil {
		return core.Output{}, errors.New("snapfw answered an ask with something else than an output")
	}
	if out.GetError() != "" {
		if out.GetLate() {
			return core.Output{}, &remoteError{text: out.GetError(), is: context.DeadlineExceeded}
		}
		return core.Output{}, errors.New(out.GetError())
	}
	return fromOutput(out), nil
}

type catalogServer struct {
	pluginpb.UnimplementedCatalogServer
	catalog core.Catalog
}

func (s *catalogServer) Parse(ctx context.Context, r *pluginpb.ParseRequest) (*pluginpb.Entries, error) {
	entries, err := s.catalog.Parse(ctx, r.GetBody())
	return toEntries(entries), encodeError(err)
}

func (s *catalogServer) Render(ctx context.Context, r *pluginpb.Entries) (*pluginpb.Document, error) {
	entries, err := fromEntries(r)
	if err != nil {
		return nil, err
	}
	body, err := s.catalog.Render(ctx, entries)
	return &pluginpb.Document{Body: body}, encodeError(err)
}

type judgeServer struct {
	pluginpb.UnimplementedJudgeServer
	judge core.Judge
}

func (s *judgeServer) Judge(ctx context.Context, c *pluginpb.Change) (*pluginpb.Verdict, error) {
	v, err := s.judge.Judge(ctx, fromChange(c))
	return toVerdict(v), encodeError(err)
}

type importerServer struct {
	pluginpb.UnimplementedImporterServer
	importer core.Importer
}

func (s *importerServer) Import(ctx context.Context, r *pluginpb.ImportRequest) (*pluginpb.Document, error) {
	body, err := s.importer.Import(ctx, r.GetForeign())
	return &pluginpb.Document{Body: body}, encodeError(err)
}

type sinkServer struct {
	pluginpb.UnimplementedSinkServer
	sink core.Sink
}

func (s *sinkServer) Upload(ctx context.Context, r *pluginpb.UploadCall) (*pluginpb.Command, error) {
	c, err := s.sink.Upload(ctx, fromTarget(r.GetTarget()), fromUpload(r.GetRequest()))
	return toCommand(c), encodeError(err)
}

func (s *sinkServer) Put(ctx context.Context, r *pluginpb.PutRequest) (*pluginpb.Object, error) {
	o, err := s.sink.Put(ctx, fromTarget(r.GetTarget()), r.GetKey(), r.GetBody(), fromCondition(r.GetCondition()))
	return toObject(o), encodeError(err)
}

func (s *sinkServer) Get(ctx context.Context, r *pluginpb.GetRequest) (*pluginpb.GetReply, error) {
	body, o, err := s.sink.Get(ctx, fromTarget(r.GetTarget()), r.GetKey())
	return &pluginpb.GetReply{Body: body, Object: toObject(o)}, encodeError(err)
}

// objectsAtOnce are sent in one message: a message each takes longer than the storage's own list.
const objectsAtOnce = 500

func (s *sinkServer) List(r *pluginpb.ListRequest, stream pluginpb.Sink_ListServer) error {
	some := &pluginpb.Objects{}
	for o, err := range s.sink.List(stream.Context(), fromTarget(r.GetTarget()), r.GetPrefix()) {
		if err != nil {
			return encodeError(err)
		}
		if some.Objects = append(some.Objects, toObject(o)); len(some.Objects) < objectsAtOnce {
			continue
		}
		if err := stream.Send(some); err != nil {
			return err
		}
		some = &pluginpb.Objects{}
	}
	return stream.Send(some)
}

func (s *sinkServer) Delete(ctx context.Context, r *pluginpb.DeleteRequest) (*pluginpb.DeleteReply, error) {
	return &pluginpb.DeleteReply{}, encodeError(s.sink.Delete(ctx, fromTarget(r.GetTarget()), r.GetKeys()...))
}

type copierServer struct {
	pluginpb.UnimplementedCopierServer
	copier core.Copier
}

func (s *copierServer) Copy(r *pluginpb.CopyRequest, stream pluginpb.Copier_CopyServer) error {
	for m, err := range s.copier.Copy(stream.Context(), fromTarget(r.GetTarget()), each(r.GetMoves(), fromMove)) {
		if err != nil {
			return encodeError(err)
		}
		if err := stream.Send(toMove(m)); err != nil {
			return err
		}
	}
	return nil
}

type purgerServer struct {
	pluginpb.UnimplementedPurgerServer
	purger core.Purger
}

func (s *purgerServer) Purge(ctx context.Context, r *pluginpb.PurgeRequest) (*pluginpb.PurgeReply, error) {
	return &pluginpb.PurgeReply{}, encodeError(s.purger.Purge(ctx, fromTarget(r.GetTarget()), r.GetKeys()...))
}

type frontedServer struct {
	pluginpb.UnimplementedFrontedServer
	fronted core.Fronted
}

func (s *frontedServer) Front(ctx context.Context, r *pluginpb.FrontRequest) (*pluginpb.FrontReply, error) {
	f, err := s.fronted.Front(ctx, fromTarget(r.GetTarget()))
	return toFront(f), encodeError(err)
}
