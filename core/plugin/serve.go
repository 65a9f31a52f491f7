package plugin

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"runtime/debug"
	"strings"
	"syscall"
	"time"

	"github.com/hashicorp/go-hclog"
	goplugin "github.com/hashicorp/go-plugin"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/snapfw/snapfw/core"
	"github.com/snapfw/snapfw/core/plugin/pluginpb"
)

// Verb is something that a plugin's executable does on a node's machine: "@self NAME …" in a plan.
type Verb struct {
	Name  string
	Usage string // one line: "DIR --to FILE  print the live set of a stopped database"

	// Run gets the words after the verb and returns its exit code: core.ExitDone, ExitRefused,
	// ExitAgain, or 1. ctx ends at SIGINT and SIGTERM. It may be run twice.
	Run func(ctx context.Context, args []string) int
}

// ServeChain is the main of a chain's plugin. It does not return: it serves until snapfw is done
// with it, or runs the verb that the arguments name. c may implement
// core.Catalog, core.Judge and core.Importer too. Its methods are called concurrently.
func ServeChain(c core.Chain, verbs ...Verb) {
	serve(c, verbs, func(s *grpc.Server) {
		pluginpb.RegisterChainServer(s, &chainServer{chain: c})
		if catalog, ok := c.(core.Catalog); ok {
			pluginpb.RegisterCatalogServer(s, &catalogServer{catalog: catalog})
		}
		if judge, ok := c.(core.Judge); ok {
			pluginpb.RegisterJudgeServer(s, &judgeServer{judge: judge})
		}
		if importer, ok := c.(core.Importer); ok {
			pluginpb.RegisterImporterServer(s, &importerServer{importer: importer})
		}
	})
}

// ServeSink is the main of a sink's plugin, as ServeChain is of a chain's. s may implement
// core.Copier, core.Purger and core.Fronted too.
func ServeSink(k core.Sink, verbs ...Verb) {
	serve(k, verbs, func(s *grpc.Server) {
		pluginpb.RegisterSinkServer(s, &sinkServer{sink: k})
		if copier, ok := k.(core.Copier); ok {
			pluginpb.RegisterCopierServer(s, &copierServer{copier: copier})
		}
		if purger, ok := k.(core.Purger); ok {
			pluginpb.RegisterPurgerServer(s, &purgerServer{purger: purger})
		}
		if fronted, ok := k.(core.Fronted); ok {
			pluginpb.RegisterFrontedServer(s, &frontedServer{fronted: fronted})
		}
	})
}

func serve(p core.Plugin, verbs []Verb, register func(*grpc.Server)) {
	if len(os.Args) > 1 {
		os.Exit(runVerb(p, verbs, os.Args[1:]))
	}
	if os.Getenv(cookieKey) != cookieValue {
		fmt.Fprintf(os.Stderr, "%s is a plugin of snapfw and is not started by hand: add it with `snapfw plugin add %s`\n\n%s",
			filepath.Base(os.Args[0]), os.Args[0], usage(verbs))
		os.Exit(2)
	}
	go leaveWithSnapfw()
	goplugin.Serve(&goplugin.ServeConfig{
		HandshakeConfig: handshake,
		Plugins:         goplugin.PluginSet{"snapfw": &wire{plugin: p, register: register}},
		GRPCServer: func(opts []grpc.ServerOption) *grpc.Server {
			return grpc.NewServer(append(opts,
				grpc.MaxRecvMsgSize(maxMessage), grpc.MaxSendMsgSize(maxMessage),
				grpc.InitialWindowSize(window), grpc.InitialConnWindowSize(window),
				grpc.ReadBufferSize(bufferSize), grpc.WriteBufferSize(bufferSize),
				grpc.UnaryInterceptor(catchUnary), grpc.StreamInterceptor(catchStream))...)
		},
		Logger: hclog.New(&hclog.LoggerOptions{Level: hclog.Warn, Output: os.Stderr}),
	})
	os.Exit(0)
}

// leaveWithSnapfw ends this process when snapfw is gone, which closes our standard input. A
// SIGKILL of snapfw would leave it behind otherwise.
func leaveWithSnapfw() {
	info, err := os.Stdin.Stat()
	if err != nil || info.Mode()&os.ModeNamedPipe == 0 {
		return // started by something else
	}
	_, _ = io.Copy(io.Discard, os.Stdin)
	if dir := os.Getenv(goplugin.EnvUnixSocketDir); dir != "" {
		_ = os.RemoveAll(dir)
		_ = os.Remove(filepath.Dir(dir)) // ours, if nothing else is in it
	}
	os.Exit(0)
}

func runVerb(p core.Plugin, verbs []Verb, args []string) int {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	for _, v := range verbs {
		if v.Name == args[0] {
			return v.Run(ctx, args[1:])
		}
	}
	switch args[0] {
	case "help", "-h", "--help":
		fmt.Print(usage(verbs))
		return core.ExitDone
	case "version", "--version":
		ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
		defer cancel()
		d, err := p.Describe(ctx)
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		fmt.Println(d.Name, d.Version)
		return core.ExitDone
	}
	fmt.Fprintf(os.Stderr, "%s: there is no verb %q\n\n%s", filepath.Base(os.Args[0]), args[0], usage(verbs))
	return 2
}

func usage(verbs []Verb) string {
	var b strings.Builder
	b.WriteString("Verbs, for snapfw to run on a node's machine:\n")
	for _, v := range verbs {
		fmt.Fprintf(&b, "  %s %s\n", v.Name, v.Usage)
	}
	b.WriteString("  help\n  version\n")
	return b.String()
}

var handshake = goplugin.HandshakeConfig{
	ProtocolVersion: Protocol, MagicCookieKey: cookieKey, MagicCookieValue: cookieValue,
}

// wire is what go-plugin calls a plugin: on the plugin's side it registers the services, on
// snapfw's side it hands out the connection.
type wire struct {
	goplugin.NetRPCUnsupportedPlugin
	plugin   core.Plugin
	register func(*grpc.Server)
}

func (w *wire) GRPCServer(_ *goplugin.GRPCBroker, s *grpc.Server) error {
	pluginpb.RegisterPluginServer(s, &pluginServer{plugin: w.plugin})
	w.register(s)
	return nil
}

func (w *wire) GRPCClient(_ context.Context, _ *goplugin.GRPCBroker, conn *grpc.ClientConn) (any, error) {
	return conn, nil
}

// A panic in a method ends that call, not the plugin: other calls may be under way.
func catchUnary(ctx context.Context, req any, info *grpc.UnaryServerInfo, next grpc.UnaryHandler) (reply any, err error) {
	defer caught(info.FullMethod, &err)
	return next(ctx, req)
}

func catchStream(srv any, stream grpc.ServerStream, info *grpc.StreamServerInfo, next grpc.StreamHandler) (err error) {
	defer caught(info.FullMethod, &err)
	return next(srv, stream)
}

func caught(method string, err *error) {
	p := recover()
	if p == nil {
		return
	}
	method = method[strings.LastIndexByte(method, '/')+1:]
	line, _, _ := strings.Cut(fmt.Sprint(p), "\n")
	fmt.Fprintf(os.Stderr, "panic in %s: %v\n%s\n", method, p, debug.Stack())
	*err = status.Error(codes.Internal, wireText(fmt.Sprintf("the plugin panicked in %s: %s", method, line)))
}
