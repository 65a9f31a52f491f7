// Package plugin is the SDK of snapfw's plugins, and how snapfw loads them.
//
// A plugin's main is one line:
//
//	func main() { plugin.ServeChain(driver{}, plugin.Verb{Name: "live", Run: live}) }
//
// Its executable is called snapfw-NAME. Started by snapfw it serves gRPC on a unix socket
// (pluginpb/plugin.proto says how, for other languages); started with
// arguments it is a verb on a node's machine, what a plan writes as "@self live …".
//
// snapfw's side is [Load]. A plugin that dies is started again and asked again; the errors of
// package core cross the wire, so that core.IsSkip, errors.As and errors.Is
// work on what a plugin answered.
package plugin

// Protocol is the version of pluginpb/plugin.proto that this package speaks; a
// manifest's protocol: is this number.
const Protocol = 1

// What go-plugin calls the magic cookie: it tells a plugin that it was started by snapfw.
const (
	cookieKey   = "SNAPFW_PLUGIN"
	cookieValue = "chains-and-sinks"
)

// Messages are limited on both sides. Sink.Get's objects have 64 MiB at most; the rest is
// for what goes with them.
const maxMessage = 65 << 20

// The two ends are on one machine: a list of some MB should not have to be asked for piece by piece.
const (
	window     = 8 << 20
	bufferSize = 256 << 10
)

// Output of a program is cut here, each of stdout and stderr: see core.Output.
const maxOutput = 1 << 20
