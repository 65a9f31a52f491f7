package proclocks

import (
	"bytes"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"testing"

	"golang.org/x/sys/unix"
)

func TestParse(t *testing.T) {
	const table = `1: FLOCK  ADVISORY  WRITE 3412 fe:00:1835041 0 EOF
2: FLOCK  ADVISORY  READ 7 00:1c:1835041 0 EOF
2: -> FLOCK  ADVISORY  WRITE 8 fe:00:1835041 0 EOF
3: POSIX  ADVISORY  WRITE 9 fe:00:1835041 0 EOF
4: FLOCK  ADVISORY  WRITE x fe:00:1835041 0 EOF
5: FLOCK  ADVISORY  WRITE 10 fe:00:11835041 0 EOF
`
	want := []Lock{{3412, true, "fe:00"}, {7, false, "00:1c"}}
	if got := parse([]byte(table), 1835041); !slices.Equal(got, want) {
		t.Errorf("%+v, want %+v", got, want)
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte("1: FLOCK  ADVISORY  WRITE 3412 fe:00:1835041 0 EOF\n1: -> FLOCK  ADVISORY  WRITE 3413 fe:00:1835041 0 EOF\n"))
	f.Fuzz(func(t *testing.T, table []byte) {
		for _, l := range parse(table, 1835041) {
			if !bytes.Contains(table, []byte(l.Dev+":1835041")) {
				t.Errorf("%+v is not in the table", l)
			}
		}
	})
}

func lockNew(t *testing.T, name string) *os.File {
	t.Helper()
	f, err := os.Create(name)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		t.Fatal(err)
	}
	return f
}

// TestBesideOthers holds one lock while many others come and go, so that the table is long and loses lines.
func TestBesideOthers(t *testing.T) {
	dir := t.TempDir()
	f := lockNew(t, filepath.Join(dir, "LOCK"))
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		t.Fatal(err)
	}
	var all []*os.File
	for i := range 300 {
		all = append(all, lockNew(t, filepath.Join(dir, strconv.Itoa(i))))
	}
	stop := make(chan struct{})
	var others sync.WaitGroup
	others.Go(func() {
		for {
			for _, how := range []int{unix.LOCK_UN, unix.LOCK_EX} {
				for _, other := range all {
					select {
					case <-stop:
						return
					default:
						unix.Flock(int(other.Fd()), how)
					}
				}
			}
		}
	})
	lost := 0
	for range 200 {
		if table, err := os.ReadFile("/proc/locks"); err == nil && len(parse(table, st.Ino)) == 0 {
			lost++
		}
		held, err := Of(&st)
		if err != nil || len(held) == 0 || held[0].PID != os.Getpid() || !held[0].Write {
			t.Errorf("%+v, %v: want the lock of this process", held, err)
			break
		}
	}
	close(stop)
	others.Wait()
	t.Logf("a single look at the table lost the lock %d times of 200", lost)
	if held, _ := ofOpen(&st); len(held) != 1 || held[0].PID != os.Getpid() {
		t.Errorf("who has it open says %+v", held)
	}
	f.Close()
	if held, err := Of(&st); err != nil || len(held) > 0 {
		t.Errorf("it was given back: %+v, %v", held, err)
	}
}
