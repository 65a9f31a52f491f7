package plugin

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"

	"google.golang.org/grpc"

	"github.com/snapfw/snapfw/core"
	"github.com/snapfw/snapfw/core/plugin/pluginpb"
)

// maxNodes of one chain: what a plugin streams must end somewhere.
const maxNodes = 100_000

type chainClient struct{ c *Client }

var (
	_ core.Chain    = (*chainClient)(nil)
	_ core.Catalog  = (*chainClient)(nil)
	_ core.Judge    = (*chainClient)(nil)
	_ core.Importer = (*chainClient)(nil)
)

func (k *chainClient) Describe(context.Context) (core.Description, error) {
	return k.c.Description(), nil
}

func (k *chainClient) Nodes(ctx context.Context, config json.RawMessage) ([]core.Node, error) {
	return ask(ctx, k.c, "name the nodes", func(conn *grpc.ClientConn) ([]core.Node, error) {
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		stream, err := pluginpb.NewChainClient(conn).Nodes(ctx, &pluginpb.NodesRequest{Config: config})
		if err != nil {
			return nil, err
		}
		var nodes []core.Node
		for {
			n, err := stream.Recv()
			if err == io.EOF {
				return nodes, nil
			}
			if err != nil {
				return nil, err
			}
			if len(nodes) == maxNodes {
				return nil, fmt.Errorf("plugin %s names more than %d nodes", k.c.command.Name, maxNodes)
			}
			nodes = append(nodes, fromNode(n))
		}
	})
}

func (k *chainClient) Status(ctx context.Context, n core.Node, h core.Host) (core.Status, error) {
	return ask(ctx, k.c, "look at "+n.Name, func(conn *grpc.ClientConn) (core.Status, error) {
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		stream, err := pluginpb.NewChainClient(conn).Status(ctx)
		if err != nil {
			return core.Status{}, err
		}
		open := &pluginpb.StatusRequest_Open{Open: &pluginpb.StatusOpen{Node: toNode(n)}}
		answer, err := talk(ctx, h, &pluginpb.StatusRequest{Say: open}, stream.Send, stream.Recv,
			func(o *pluginpb.Output) *pluginpb.StatusRequest {
				return &pluginpb.StatusRequest{Say: &pluginpb.StatusRequest_Output{Output: o}}
			})
		if err == nil && answer.GetAnswer() == nil {
			err = errUnsaid
		}
		return fromStatus(answer.GetAnswer()), err
	})
}

func (k *chainClient) Plan(ctx context.Context, n core.Node, h core.Host, in core.Intent) (core.Plan, error) {
	return ask(ctx, k.c, "plan a "+in.Name+" of "+n.Name, func(conn *grpc.ClientConn) (core.Plan, error) {
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		stream, err := pluginpb.NewChainClient(conn).Plan(ctx)
		if err != nil {
			return core.Plan{}, err
		}
		open := &pluginpb.PlanRequest_Open{Open: &pluginpb.PlanOpen{Node: toNode(n), Intent: toIntent(in)}}
		answer, err := talk(ctx, h, &pluginpb.PlanRequest{Say: open}, stream.Send, stream.Recv,
			func(o *pluginpb.Output) *pluginpb.PlanRequest {
				return &pluginpb.PlanRequest{Say: &pluginpb.PlanRequest_Output{Output: o}}
			})
		if err == nil && answer.GetAnswer() == nil {
			err = errUnsaid
		}
		return fromPlan(answer.GetAnswer()), err
	})
}

// talk is snapfw's side of a conversation: it runs what the plugin asks for until the
// plugin says something else, which is the answer.
func talk[Q any, A interface{ GetAsk() *pluginpb.Ask }](ctx context.Context, h core.Host, open Q,
	send func(Q) error, recv func() (A, error), output func(*pluginpb.Output) Q) (A, error) {
	var none A
	var hostErr error
	for say := open; ; {
		// A failed Send says EOF; Recv says why.
		if err := send(say); err != nil && err != io.EOF {
			return none, err
		}
		said, err := recv()
		if err == io.EOF {
			return none, errCutOff
		}
		if err != nil {
			return none, withCause(err, hostErr)
		}
		want := said.GetAsk()
		if want == nil {
			return said, nil
		}
		var out *pluginpb.Output
		out, hostErr = look(ctx, h, want)
		say = output(out)
	}
}

func look(ctx context.Context, h core.Host, want *pluginpb.Ask) (*pluginpb.Output, error) {
	if len(want.GetArgv()) == 0 {
		return &pluginpb.Output{Error: "asked to run nothing"}, nil
	}
	within, cancel := ctx, context.CancelFunc(func() {})
	if d := want.GetTimeout(); d != nil {
		within, cancel = context.WithTimeout(ctx, d.AsDuration())
	}
	defer cancel()
	out, err := h.Run(within, want.GetArgv()...)
	if err != nil {
		late := within.Err() != nil && ctx.Err() == nil
		return &pluginpb.Output{Error: wireText(err.Error()), Late: late}, err
	}
	return toOutput(out), nil
}

// withCause keeps what a Host's error is when the plugin passes it on: its text has
// crossed the wire twice, its type never.
func withCause(err, hostErr error) error {
	if hostErr == nil {
		return err
	}
	var remote *remoteError
	if errors.As(decodeError(err), &remote) && remote.is == nil && strings.Contains(remote.text, wireText(hostErr.Error())) {
		return &remoteError{text: remote.text, is: hostErr}
	}
	return err
}

func (k *chainClient) Parse(ctx context.Context, body []byte) ([]core.Entry, error) {
	return ask(ctx, k.c, "parse a list", func(conn *grpc.ClientConn) ([]core.Entry, error) {
		r, err := pluginpb.NewCatalogClient(conn).Parse(ctx, &pluginpb.ParseRequest{Body: body})
		if err != nil {
			return nil, err
		}
		return fromEntries(r)
	})
}

func (k *chainClient) Render(ctx context.Context, entries []core.Entry) ([]byte, error) {
	return ask(ctx, k.c, "render a list", func(conn *grpc.ClientConn) ([]byte, error) {
		r, err := pluginpb.NewCatalogClient(conn).Render(ctx, toEntries(entries))
		return r.GetBody(), err
	})
}

func (k *chainClient) Judge(ctx context.Context, change core.Change) (core.Verdict, error) {
	return ask(ctx, k.c, "judge a change", func(conn *grpc.ClientConn) (core.Verdict, error) {
		r, err := pluginpb.NewJudgeClient(conn).Judge(ctx, toChange(change))
		return fromVerdict(r), err
	})
}

func (k *chainClient) Import(ctx context.Context, foreign []byte) ([]byte, error) {
	return ask(ctx, k.c, "import a configuration", func(conn *grpc.ClientConn) ([]byte, error) {
		r, err := pluginpb.NewImporterClient(conn).Import(ctx, &pluginpb.ImportRequest{Foreign: foreign})
		return r.GetBody(), err
	})
}

// errUnsaid is a last word that says nothing: an empty plan must not pass for a plan.
var errUnsaid = errors.New("the plugin ended the conversation with neither an ask nor an answer")
