package capture

import (
	"context"
	"crypto/rand"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// BenchmarkTake is what a node is down for, by the number of its tables: links or clones of them and the
// copy of 4 MiB of log, with everything that "take" does beside.
//
//	go test -run - -bench 'Take$' -benchtime 5x ./core/capture
//
// Clones and links are also compared on one file system that has both, an xfs on a loop device.
func BenchmarkTake(b *testing.B) {
	here := func(b *testing.B) string { return b.TempDir() }
	xfs := func(b *testing.B) string { return reflinkFS(b, 2048) }
	b.Run("link", func(b *testing.B) { benchTake(b, here, Link) })
	b.Run("xfs-link", func(b *testing.B) { benchTake(b, xfs, Link) })
	b.Run("xfs-clone", func(b *testing.B) { benchTake(b, xfs, Clone) })
}

func benchTake(b *testing.B, parent func(*testing.B) string, m Method) {
	for _, n := range []int{512, 4096, 100000} {
		b.Run(strconv.Itoa(n), func(b *testing.B) {
			d := newDB(b, parent(b))
			items := []Item{{"CURRENT", ModeCopy}, {"MANIFEST-000001", ModeCopy}, {"000002.log", ModeCopy}}
			d.put("CURRENT", "MANIFEST-000001\n")
			d.put("MANIFEST-000001", string(make([]byte, n*100)))
			d.put("000002.log", string(make([]byte, 4<<20)))
			for i := range n {
				items = append(items, Item{fmt.Sprintf("%06d.ldb", i+3), ModeLink})
				must(b, os.WriteFile(filepath.Join(d.dir, items[i+3].Name), []byte("one block"), 0o644))
			}
			must(b, WriteList(d.list, items))
			unix.Sync()
			var cpu time.Duration
			for b.Loop() {
				cpu -= cpuTime(b)
				d.mustTake(m)
				b.StopTimer()
				cpu += cpuTime(b)
				must(b, Drop(d.to, false, ""))
				b.StartTimer()
			}
			b.ReportMetric(float64(b.Elapsed().Microseconds())/float64(b.N)/float64(n), "µs/file")
			if m == Link {
				b.ReportMetric(bareLinks(b, d, items).Seconds()*1e6/float64(len(items)), "bare-link-µs/file")
			}
			// What it costs on a machine that has nothing else to do.
			b.ReportMetric(float64(cpu.Microseconds())/float64(b.N)/float64(n), "cpu-µs/file")
			b.ReportMetric(0, "ns/op")
		})
	}
}

// bareLinks is what the system calls alone take here and now: nobody can be quicker.
func bareLinks(b *testing.B, d *db, items []Item) time.Duration {
	src, err := openTree(d.dir, false)
	must(b, err)
	defer src.close()
	bare := filepath.Join(filepath.Dir(d.dir), "bare")
	must(b, os.Mkdir(bare, 0o755))
	defer os.RemoveAll(bare)
	dst, err := openTree(bare, false)
	must(b, err)
	defer dst.close()
	begun := time.Now()
	for _, item := range items {
		must(b, unix.Linkat(src.dirs[""], item.Name, dst.dirs[""], item.Name, 0))
	}
	return time.Since(begun)
}

// cpuTime is what this process has used of all processors.
func cpuTime(b *testing.B) time.Duration {
	var u unix.Rusage
	must(b, unix.Getrusage(unix.RUSAGE_SELF, &u))
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// BenchmarkTake4GiB takes 4 GiB in tables of 2 MiB beside what a copy with rclone costs while the
// node is down, on the same disk in the same run, twice each: the second time 5% of the
// tables are new. CAPTURE_BENCH_DIR puts it on another disk.
//
//	CAPTURE_BENCH_MIB=4096 go test -run - -bench Take4GiB -benchtime 1x ./core/capture
func BenchmarkTake4GiB(b *testing.B) {
	rclone, err := exec.LookPath("rclone")
	if err != nil {
		b.Skip("SKIPPED: rclone is not installed: there is nothing to compare with")
	}
	size := os.Getenv("CAPTURE_BENCH_MIB")
	if size == "" {
		b.Skip("SKIPPED: it takes minutes and three times the room; set CAPTURE_BENCH_MIB=4096 to run it")
	}
	mib, err := strconv.Atoi(size)
	if err != nil || mib < 2 {
		b.Fatalf("CAPTURE_BENCH_MIB: %q", size)
	}
	parent := b.TempDir()
	if dir := os.Getenv("CAPTURE_BENCH_DIR"); dir != "" {
		parent, err = os.MkdirTemp(dir, "capture")
		must(b, err)
		defer os.RemoveAll(parent)
	}
	d := newDB(b, parent)
	tables := mib / 2
	random := make([]byte, 2<<20)
	fill := func(i int) Item {
		item := Item{fmt.Sprintf("%06d.ldb", i), ModeLink}
		rand.Read(random)
		os.Remove(filepath.Join(d.dir, item.Name)) // a new inode: the copy has the old one
		must(b, os.WriteFile(filepath.Join(d.dir, item.Name), random, 0o644))
		return item
	}
	items := []Item{{"CURRENT", ModeCopy}, {"000001.log", ModeCopy}}
	d.put("CURRENT", "MANIFEST-000001\n")
	d.put("000001.log", string(random))
	for i := range tables {
		items = append(items, fill(i))
	}
	must(b, WriteList(d.list, items))

	for b.Loop() {
		for _, when := range []string{"first", "second"} {
			if when == "second" {
				for i := range max(1, tables/20) {
					fill(i)
				}
			}
			ours := cold(b, func() error { _, err := d.take(Auto); return err })
			theirs := cold(b, func() error {
				cmd := exec.Command(rclone, "sync", d.dir, filepath.Join(parent, "copy"), "--transfers", "64")
				cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + parent}
				return cmd.Run()
			})
			begun := time.Now()
			s, err := Seal(context.Background(), SealOptions{To: d.to})
			must(b, err)
			b.Logf("%s: take %v, rclone sync %v; seal, with the node back: %v for %d MiB read",
				when, ours, theirs, time.Since(begun).Round(time.Millisecond), s.Read>>20)
			b.ReportMetric(ours.Seconds(), "take-"+when+"-s")
			b.ReportMetric(theirs.Seconds(), "rclone-"+when+"-s")
			b.ReportMetric(theirs.Seconds()/ours.Seconds(), "ratio-"+when)
		}
	}
	b.ReportMetric(0, "ns/op")
}

// cold times something with nothing left to write and as little in memory as we may ask for.
func cold(b *testing.B, do func() error) time.Duration {
	unix.Sync()
	_ = os.WriteFile("/proc/sys/vm/drop_caches", []byte("1"), 0) // root only
	begun := time.Now()
	must(b, do())
	return time.Since(begun)
}
