package main

import (
	"bytes"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// serveFolder starts a web seed on loopback that knows ranges, and returns its address. Older rclones do
// not say which port they took, so one is chosen for it.
func serveFolder(t *testing.T, dir string) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := l.Addr().String()
	l.Close()
	cmd := exec.Command("rclone", "serve", "http", "--addr", addr, "--config", "", dir)
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + t.TempDir()}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		c, err := net.Dial("tcp", addr)
		if err == nil {
			c.Close()
			return "http://" + addr + "/"
		}
		if time.Now().After(deadline) {
			t.Fatalf("rclone serve http does not start: %v", err)
		}
	}
}

// aria downloads what a .torrent names from a web seed. aria2 names a file after the last part of the
// torrent's name, and asks the seed for exactly the address it is told.
func aria(t *testing.T, torrent, url, to string) ([]byte, error) {
	t.Helper()
	return exec.Command("aria2c", "--no-conf", "--dir", to, "--seed-time=0", "--enable-dht=false", "--bt-enable-lpd=false",
		"--enable-peer-exchange=false", "--bt-exclude-tracker=*", "--interface=127.0.0.1", "--listen-port=30000-60000", "--check-integrity=true", "--file-allocation=none",
		"--bt-stop-timeout=3", "--max-tries=1", "--summary-interval=0", "--torrent-file="+torrent, url).CombinedOutput()
}

// TestRealClient: a real BitTorrent client downloads from a web seed with our torrent, and takes no
// other bytes.
func TestRealClient(t *testing.T) {
	for _, program := range []string{"aria2c", "rclone"} {
		if _, err := exec.LookPath(program); err != nil {
			t.Skipf("SKIPPED: no real client was tried, since %s is missing: apt-get install aria2 rclone", program)
		}
	}
	datadir := writeSnapshots(t)
	if r := torrents(t, datadir); r.code != 0 {
		t.Fatalf("%+v", r)
	}
	root := filepath.Join(datadir, "snapshots")
	url := serveFolder(t, root)
	for _, name := range []string{"v1.1-000000-000500-transactions.seg", "domain/v2.0-accounts.0-256.kv", "erigondb.toml"} {
		to := t.TempDir()
		out, err := aria(t, filepath.Join(root, name)+torrentExt, url+name, to)
		if err != nil {
			t.Fatalf("%s: %v: %s", name, err, out)
		}
		got, err := downloaded(to)
		if want, _ := os.ReadFile(filepath.Join(root, name)); err != nil || !bytes.Equal(got, want) {
			t.Errorf("%s: got %d bytes of %d: %v", name, len(got), len(want), err)
		}
	}
	// The same with a byte changed: the client must notice, or it has compared nothing.
	const name = "domain/v1.1-accounts.0-256.kvei"
	putFile(t, filepath.Join(root, name), bytes.Repeat([]byte("n"), testSnapshots[name]), 0)
	if out, err := aria(t, filepath.Join(root, name)+torrentExt, url+name, t.TempDir()); err == nil {
		t.Errorf("the client took other bytes: %s", out)
	}
}

// downloaded reads the one file in a folder.
func downloaded(dir string) ([]byte, error) {
	var found []string
	err := filepath.Walk(dir, func(p string, info os.FileInfo, err error) error {
		if err == nil && info.Mode().IsRegular() && !strings.HasSuffix(p, ".aria2") && !strings.HasSuffix(p, torrentExt) {
			found = append(found, p)
		}
		return err
	})
	if err != nil || len(found) != 1 {
		return nil, fmt.Errorf("found %q, %v", found, err)
	}
	return os.ReadFile(found[0])
}
