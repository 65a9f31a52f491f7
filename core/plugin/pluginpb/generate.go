// Package pluginpb holds plugin.proto, the words that snapfw and its plugins exchange, and
// the code generated from it. Package core/plugin wraps it; a plugin in Go
// needs that one only, a plugin in another language needs plugin.proto only.
package pluginpb

//go:generate protoc --go_out=. --go_opt=paths=source_relative --go-grpc_out=. --go-grpc_opt=paths=source_relative plugin.proto
