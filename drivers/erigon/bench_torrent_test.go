package main

import (
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// benchBytes is SNAPFW_BENCH_MIB, or 1 GiB.
func benchBytes(b *testing.B) int64 {
	mib, err := strconv.ParseInt(os.Getenv("SNAPFW_BENCH_MIB"), 10, 64)
	if err != nil {
		mib = 1024
	}
	return mib << 20
}

// took runs something and tells its wall time and what processors it used, children included.
func took(b *testing.B, do func()) (wall, cpu float64) {
	b.Helper()
	used := func() (d time.Duration) {
		for _, who := range []int{syscall.RUSAGE_SELF, syscall.RUSAGE_CHILDREN} {
			var r syscall.Rusage
			if err := syscall.Getrusage(who, &r); err != nil {
				b.Fatal(err)
			}
			d += time.Duration(r.Utime.Nano() + r.Stime.Nano())
		}
		return d
	}
	at, was := time.Now(), used()
	do()
	return time.Since(at).Seconds(), (used() - was).Seconds()
}

// BenchmarkTorrentHashing compares us with mktorrent on the same file, in turns, and with openssl, all
// on two processors and with a warm cache. It reports GB/s by the wall clock, which others on the
// machine disturb, and GB per second of processor time, which they disturb less.
//
//	ours/openssl  at least 0.9, or what the page cache can be read with
//	ours/mktorrent at least 1
func BenchmarkTorrentHashing(b *testing.B) {
	size := benchBytes(b)
	datadir := b.TempDir()
	file := filepath.Join(datadir, "snapshots", "v1.1-000000-000500-transactions.seg")
	putFile(b, file, nil, 0)
	f, err := os.OpenFile(file, os.O_WRONLY, 0)
	if err != nil {
		b.Fatal(err)
	}
	if _, err := io.CopyN(f, rand.NewChaCha8([32]byte{2}), size); err != nil {
		b.Fatal(err)
	}
	if err := f.Sync(); err != nil {
		b.Fatal(err)
	}
	f.Close()
	setAge(b, file, time.Hour)

	var ours, theirs, ssl struct{ wall, cpu float64 }
	rounds := 0
	for b.Loop() {
		rounds++
		os.RemoveAll(filepath.Join(datadir, ".snapfw"))
		os.Remove(file + torrentExt)
		warm(b, file)
		w, c := took(b, func() {
			cmd := torrentsCommand(b, "--datadir", datadir, "--workers", "2")
			if out, err := cmd.CombinedOutput(); err != nil {
				b.Fatalf("%v: %s", err, out)
			} else if m := peakMemory.FindSubmatch(out); m != nil {
				kb, _ := strconv.Atoi(string(m[1]))
				b.ReportMetric(float64(kb)/1024, "peak-MiB")
			}
		})
		ours.wall, ours.cpu = ours.wall+w, ours.cpu+c
		if _, err := exec.LookPath("mktorrent"); err == nil {
			to := filepath.Join(datadir, "their.torrent")
			os.Remove(to)
			warm(b, file)
			w, c := took(b, func() {
				if out, err := exec.Command("mktorrent", "-l", "21", "-t", "2", "-a", "udp://x", "-o", to, file).CombinedOutput(); err != nil {
					b.Fatalf("%v: %s", err, out)
				}
			})
			theirs.wall, theirs.cpu = theirs.wall+w, theirs.cpu+c
		}
		w, c = opensslSpeed(b)
		ssl.wall, ssl.cpu = ssl.wall+w, ssl.cpu+c
	}
	gb := float64(size) * float64(rounds) / 1e9
	b.ReportMetric(gb/ours.wall, "GB/s")
	b.ReportMetric(gb/ours.cpu, "GB/cpu-s")
	if theirs.wall > 0 {
		b.ReportMetric(theirs.wall/ours.wall, "ours/mktorrent")
		b.ReportMetric(theirs.cpu/ours.cpu, "ours/mktorrent-cpu")
	}
	if ssl.wall > 0 {
		b.ReportMetric(gb/ours.wall/(ssl.wall/float64(rounds)), "ours/openssl")
		b.ReportMetric(gb/ours.cpu/(ssl.cpu/float64(rounds)), "ours/openssl-cpu")
	}
}

// warm has a file in memory as the kernel puts it there when somebody reads it. Written by us it would lie there
// in smaller parts, and pages are evicted meanwhile.
func warm(b *testing.B, file string) {
	b.Helper()
	f, err := os.Open(file)
	if err != nil {
		b.Fatal(err)
	}
	defer f.Close()
	if err := unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED); err != nil {
		b.Fatal(err)
	}
	if _, err := io.Copy(io.Discard, f); err != nil {
		b.Fatal(err)
	}
}

var opensslLine = regexp.MustCompile(`(?m)^sha1\s+([0-9.]+)k\s*$`)

// opensslSpeed returns GB/s of two processes by the wall clock, and GB per second of processor time.
func opensslSpeed(b *testing.B) (wall, cpu float64) {
	if _, err := exec.LookPath("openssl"); err != nil {
		return 0, 0
	}
	out, err := exec.Command("openssl", "speed", "-elapsed", "-multi", "2", "-seconds", "1", "-bytes", "16384", "sha1").Output()
	m := opensslLine.FindSubmatch(out)
	if err != nil || m == nil {
		b.Fatalf("openssl speed: %v: %s", err, out)
	}
	kb, err := strconv.ParseFloat(string(m[1]), 64)
	if err != nil {
		b.Fatal(err)
	}
	// Without -elapsed and -multi it divides by its own processor time.
	out, err = exec.Command("openssl", "speed", "-seconds", "1", "-bytes", "16384", "sha1").Output()
	if m = opensslLine.FindSubmatch(out); err != nil || m == nil {
		b.Fatalf("openssl speed: %v: %s", err, out)
	}
	one, err := strconv.ParseFloat(string(m[1]), 64)
	if err != nil {
		b.Fatal(err)
	}
	return kb / 1e6, one / 1e6
}

// BenchmarkTorrentsNothingNew is a release of a real chain's size with nothing new: 17,500 files, and no data
// byte read. The issue allows 3 s for all of the release.
func BenchmarkTorrentsNothingNew(b *testing.B) {
	const files = 17_500
	datadir := memoryFolder(b)
	for i := range files {
		name := filepath.Join(datadir, "snapshots", "domain", fmt.Sprintf("v2.0-accounts.%d-%d.kv", i, i+1))
		putFile(b, name, []byte(strings.Repeat(name, 20)), time.Hour)
	}
	o := torrentOptions{snapshots: filepath.Join(datadir, "snapshots"), sumsFile: filepath.Join(datadir, "sums"), workers: 2,
		entryFile: filepath.Join(datadir, "entries")}
	if sum, err := makeTorrents(context.Background(), o); err != nil || sum.Made != files {
		b.Fatalf("%+v, %v", sum, err)
	}
	for b.Loop() {
		if sum, err := makeTorrents(b.Context(), o); err != nil || sum.Read != 0 || sum.Made+sum.Remade != 0 || sum.Files != files {
			b.Fatalf("%+v, %v", sum, err)
		}
	}
}

// BenchmarkTorrentColdDisk hashes what is not in memory, against dd reading the same past the page cache, in turns.
//
//	ours/disk  at least 0.9, where the disk is slower than the processors
func BenchmarkTorrentColdDisk(b *testing.B) {
	size := benchBytes(b)
	datadir := b.TempDir()
	file := filepath.Join(datadir, "snapshots", "v1.1-000000-000500-transactions.seg")
	putFile(b, file, nil, 0)
	f, err := os.OpenFile(file, os.O_RDWR, 0)
	if err != nil {
		b.Fatal(err)
	}
	defer f.Close()
	if _, err := io.CopyN(f, rand.NewChaCha8([32]byte{2}), size); err != nil {
		b.Fatal(err)
	}
	if err := f.Sync(); err != nil {
		b.Fatal(err)
	}
	setAge(b, file, time.Hour)
	var ours, disk float64
	rounds := 0
	for b.Loop() {
		rounds++
		os.RemoveAll(filepath.Join(datadir, ".snapfw"))
		os.Remove(file + torrentExt)
		unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED)
		w, _ := took(b, func() {
			if out, err := torrentsCommand(b, "--datadir", datadir, "--workers", "2").CombinedOutput(); err != nil {
				b.Fatalf("%v: %s", err, out)
			}
		})
		ours += w
		w, _ = took(b, func() {
			if out, err := exec.Command("dd", "if="+file, "of=/dev/null", "bs=8M", "iflag=direct").CombinedOutput(); err != nil {
				b.Skipf("SKIPPED: no reading past the page cache here: %s", out)
			}
		})
		disk += w
	}
	b.ReportMetric(float64(size)*float64(rounds)/1e9/ours, "GB/s")
	b.ReportMetric(disk/ours, "ours/disk")
}
