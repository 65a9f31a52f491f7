package plugin

import (
	"bytes"
	"context"
	"errors"
	"io"
	"iter"

	"google.golang.org/grpc"

	"github.com/snapfw/snapfw/core"
	"github.com/snapfw/snapfw/core/plugin/pluginpb"
)

type sinkClient struct{ c *Client }

var (
	_ core.Sink   = (*sinkClient)(nil)
	_ core.Copier = (*sinkClient)(nil)
	_ core.Purger = (*sinkClient)(nil)

	_ core.Fronted = (*sinkClient)(nil)
)

func (k *sinkClient) Describe(context.Context) (core.Description, error) {
	return k.c.Description(), nil
}

func (k *sinkClient) Upload(ctx context.Context, t core.Target, r core.UploadRequest) (core.Command, error) {
	return ask(ctx, k.c, "plan an upload", func(conn *grpc.ClientConn) (core.Command, error) {
		c, err := pluginpb.NewSinkClient(conn).Upload(ctx, &pluginpb.UploadCall{Target: toTarget(t), Request: toUpload(r)})
		return fromCommand(c), err
	})
}

func (k *sinkClient) Put(ctx context.Context, t core.Target, key string, body []byte, c core.Condition) (core.Object, error) {
	tries := 0
	o, err := ask(ctx, k.c, "put "+key, func(conn *grpc.ClientConn) (core.Object, error) {
		tries++
		o, err := pluginpb.NewSinkClient(conn).Put(ctx, &pluginpb.PutRequest{
			Target: toTarget(t), Key: key, Body: body, Condition: toCondition(c)})
		return fromObject(o), err
	})
	// A plugin that died may have put it and not said so; then the condition fails over
	// our own object.
	if tries > 1 && errors.Is(err, core.ErrCondition) {
		if there, o, getErr := k.Get(ctx, t, key); getErr == nil && bytes.Equal(there, body) {
			return o, nil
		}
	}
	return o, err
}

func (k *sinkClient) Get(ctx context.Context, t core.Target, key string) ([]byte, core.Object, error) {
	r, err := ask(ctx, k.c, "get "+key, func(conn *grpc.ClientConn) (*pluginpb.GetReply, error) {
		return pluginpb.NewSinkClient(conn).Get(ctx, &pluginpb.GetRequest{Target: toTarget(t), Key: key})
	})
	if err != nil {
		return nil, core.Object{}, err
	}
	return r.GetBody(), fromObject(r.GetObject()), nil
}

func (k *sinkClient) List(ctx context.Context, t core.Target, prefix string) iter.Seq2[core.Object, error] {
	return listing(ctx, k.c, "list "+prefix, func(ctx context.Context, conn *grpc.ClientConn) (func() (core.Object, error), error) {
		stream, err := pluginpb.NewSinkClient(conn).List(ctx, &pluginpb.ListRequest{Target: toTarget(t), Prefix: prefix})
		var some []*pluginpb.Object
		return func() (core.Object, error) {
			for len(some) == 0 {
				said, err := stream.Recv()
				if err != nil {
					return core.Object{}, err
				}
				some = said.GetObjects()
			}
			o := some[0]
			some = some[1:]
			return fromObject(o), nil
		}, err
	}, func(o core.Object) string { return o.Key })
}

func (k *sinkClient) Delete(ctx context.Context, t core.Target, keys ...string) error {
	_, err := ask(ctx, k.c, "delete objects", func(conn *grpc.ClientConn) (*pluginpb.DeleteReply, error) {
		return pluginpb.NewSinkClient(conn).Delete(ctx, &pluginpb.DeleteRequest{Target: toTarget(t), Keys: keys})
	})
	return err
}

func (k *sinkClient) Copy(ctx context.Context, t core.Target, moves []core.Move) iter.Seq2[core.Move, error] {
	return listing(ctx, k.c, "copy inside the storage", func(ctx context.Context, conn *grpc.ClientConn) (func() (core.Move, error), error) {
		stream, err := pluginpb.NewCopierClient(conn).Copy(ctx, &pluginpb.CopyRequest{Target: toTarget(t), Moves: each(moves, toMove)})
		return func() (core.Move, error) {
			m, err := stream.Recv()
			return fromMove(m), err
		}, err
	}, func(m core.Move) string { return m.From + "\x00" + m.To })
}

func (k *sinkClient) Purge(ctx context.Context, t core.Target, keys ...string) error {
	_, err := ask(ctx, k.c, "purge a cache", func(conn *grpc.ClientConn) (*pluginpb.PurgeReply, error) {
		return pluginpb.NewPurgerClient(conn).Purge(ctx, &pluginpb.PurgeRequest{Target: toTarget(t), Keys: keys})
	})
	return err
}

func (k *sinkClient) Front(ctx context.Context, t core.Target) (core.Front, error) {
	r, err := ask(ctx, k.c, "say where consumers read", func(conn *grpc.ClientConn) (*pluginpb.FrontReply, error) {
		return pluginpb.NewFrontedClient(conn).Front(ctx, &pluginpb.FrontRequest{Target: toTarget(t)})
	})
	return fromFront(r), err
}

// listing is a call whose answers come one by one. When the plugin dies over it, it is asked
// again from the start and what was yielded already is left out.
func listing[T any](ctx context.Context, c *Client, question string,
	open func(context.Context, *grpc.ClientConn) (recv func() (T, error), err error), id func(T) string) iter.Seq2[T, error] {
	return func(yield func(T, error) bool) {
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		seen := map[string]bool{}
		stopped := false
		_, err := ask(ctx, c, question, func(conn *grpc.ClientConn) (struct{}, error) {
			recv, err := open(ctx, conn)
			for err == nil {
				var one T
				if one, err = recv(); err != nil {
					break
				}
				if key := id(one); !seen[key] {
					seen[key] = true
					if stopped = !yield(one, nil); stopped {
						break
					}
				}
			}
			if err == io.EOF {
				err = nil
			}
			return struct{}{}, err
		})
		if err != nil && !stopped {
			var none T
			yield(none, err)
		}
	}
}
