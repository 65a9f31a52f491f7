package main

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"github.com/snapfw/snapfw/core"
	"github.com/snapfw/snapfw/sinks/r2/r2test"
)

// BenchmarkUpload sends $SNAPFW_BENCH_MIB (256; the figure is for 4096) in 40 files, and rclone sends the same to
// the same server through the same proxy, with as many files, parts and sums, in turns: the metric "ratio" is
// rclone's time by ours, to be at least 0.9. "cpu-ratio" is the same of the processor time of the two programs,
// which others on the machine disturb less; the server's is in neither.
//
//	SNAPFW_BENCH_MIB=4096 go test -run - -bench Upload -benchtime 1x ./sinks/r2
func BenchmarkUpload(b *testing.B) {
	rclone, err := exec.LookPath("rclone")
	if err != nil {
		b.Skip("NO RCLONE, NOT COMPARED")
	}
	total := int64(256)
	if v, err := strconv.ParseInt(os.Getenv("SNAPFW_BENCH_MIB"), 10, 64); err == nil {
		total = v
	}
	c := newCopy(b)
	for i := range 40 {
		c.add(b, fmt.Sprintf("f%02d.kv", i), total*mib/40, 1)
	}
	c.write(b)
	self, err := os.Executable()
	if err != nil {
		b.Fatal(err)
	}
	var ours, theirs took
	for b.Loop() {
		s := newSite(b, "bench")
		target := s.Target(map[string]any{"part_size_mib": 64})
		cmd, err := newSink().Upload(b.Context(), target, core.UploadRequest{Dir: c.dir, List: c.list, Prefix: "ours"})
		if err != nil {
			b.Fatal(err)
		}
		ours.timed(b, credentials(), append([]string{self}, cmd.Argv[1:]...)...)
		conf := rcloneConf(b, target)
		s.Lax = true
		theirs.timed(b, []string{"HOME=" + b.TempDir()}, rclone, "--config", conf, "copy", c.dir, "s:bench/theirs",
			"--transfers", "8", "--s3-upload-concurrency", "2", "--s3-chunk-size", "64Mi", "--s3-upload-cutoff", "64Mi", "--retries", "1")
		os.RemoveAll(s.Dir)
	}
	b.ReportMetric(float64(total)*float64(b.N)/ours.wall.Seconds(), "MiB/s")
	b.ReportMetric(float64(total)*float64(b.N)/theirs.wall.Seconds(), "rclone-MiB/s")
	b.ReportMetric(theirs.wall.Seconds()/ours.wall.Seconds(), "ratio")
	b.ReportMetric(theirs.cpu.Seconds()/ours.cpu.Seconds(), "cpu-ratio")
	b.ReportMetric(0, "ns/op")
}

// rcloneConf is a configuration in which "s:" is the target's storage.
func rcloneConf(t testing.TB, target core.Target) string {
	t.Helper()
	conf := filepath.Join(t.TempDir(), "rclone.conf")
	c, err := readConfig(target)
	if err != nil {
		t.Fatal(err)
	}
	text := fmt.Sprintf("[s]\ntype = s3\nprovider = Cloudflare\naccess_key_id = %s\nsecret_access_key = %s\nregion = auto\nendpoint = %s\nno_check_bucket = true\n", r2test.AccessKey, r2test.SecretKey, c.Endpoint)
	if err := os.WriteFile(conf, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return conf
}

// took adds up what runs of a program took.
type took struct{ wall, cpu time.Duration }

func (t *took) timed(b *testing.B, env []string, argv ...string) {
	b.Helper()
	cmd := exec.Command(argv[0], argv[1:]...)
	var said bytes.Buffer
	cmd.Env, cmd.Stderr = env, &said
	begin := time.Now()
	if err := cmd.Run(); err != nil {
		b.Fatalf("%s: %v: %s", argv[0], err, said.String())
	}
	t.wall += time.Since(begin)
	t.cpu += cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()
}
