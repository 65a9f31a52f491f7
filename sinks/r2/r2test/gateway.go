// Package r2test is the storage and the CDN that a test publishes to: a real S3 server (versitygw) behind a proxy
// that has R2's limits and, on demand, its troubles; a CDN that really caches (nginx) in front of it; and
// Cloudflare's purge endpoint with its documented rules. Everything is on loopback and ends with the test.
package r2test

import (
	"bytes"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"
)

const (
	gateway        = "github.com/versity/versitygw/cmd/versitygw@" + gatewayVersion
	gatewayVersion = "v1.8.0"
)

// findGateway finds the S3 server: $SNAPFW_VERSITYGW, or one that is built once, outside of this module, and
// kept in the user's cache.
var findGateway = sync.OnceValues(func() (string, error) {
	if p := os.Getenv("SNAPFW_VERSITYGW"); p != "" {
		return p, nil
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		return "", err
	}
	dir := filepath.Join(cache, "snapfw-test", "versitygw-"+gatewayVersion)
	file := filepath.Join(dir, "versitygw")
	if _, err := os.Stat(file); err == nil {
		return file, nil
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", err
	}
	tmp, err := os.MkdirTemp(dir, "build")
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(tmp)
	cmd := exec.Command("go", "install", gateway)
	cmd.Dir, cmd.Env = tmp, append(os.Environ(), "GOBIN="+tmp, "GOFLAGS=")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("go install %s: %w: %s", gateway, err, bytes.TrimSpace(out))
	}
	return file, os.Rename(filepath.Join(tmp, "versitygw"), file)
})

// startGateway serves the folders in dir/data as buckets on the socket dir/s.
func startGateway(t testing.TB, dir string) (socket string) {
	t.Helper()
	program, err := findGateway()
	if err != nil {
		t.Skipf("NO S3 SERVER, NOT TESTED: %v", err)
	}
	socket = filepath.Join(dir, "s")
	cmd := exec.Command(program, "--access", AccessKey, "--secret", SecretKey, "--region", "auto", "--port", socket, "--quiet", "posix", filepath.Join(dir, "data"))
	cmd.Env = []string{"HOME=" + dir, "PATH=" + os.Getenv("PATH")}
	said := startUntilEnd(t, cmd)
	for end := time.Now().Add(30 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		if c, err := net.Dial("unix", socket); err == nil {
			c.Close()
			return socket
		}
		if time.Now().After(end) {
			t.Fatalf("the S3 server does not listen: %s", said())
		}
	}
}

// startUntilEnd starts a server that is killed at the test's end. The returned function stops it and says what it said.
func startUntilEnd(t testing.TB, cmd *exec.Cmd) func() string {
	t.Helper()
	var said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &said, &said
	// In a group of its own: Ctrl-C is for the test, whose cleanup ends it.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	stop := sync.OnceFunc(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	t.Cleanup(stop)
	return func() string {
		stop()
		return said.String()
	}
}

// shortDir is a temporary folder with a short name: a socket's has 108 bytes at most, and that of t.TempDir may be longer.
func shortDir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "r2")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}
