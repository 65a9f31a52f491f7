package main

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"sort"
	"strconv"
	"strings"

	"github.com/syndtr/goleveldb/leveldb/journal"
	"golang.org/x/sys/unix"
)

// liveFile is one line of the live list that "@core capture" reads: a file of the
// database, and whether it never changes (link) or still does (copy).
type liveFile struct {
	Name string `json:"name"`
	Mode string `json:"mode"`
}

const (
	modeLink = "link"
	modeCopy = "copy"
)

// errDamaged is a store that the node itself has to repair: put it back and look again.
var errDamaged = errors.New("start the node once, so that it repairs its database")

// errRefused is a store that must not be copied.
var errRefused = errors.New("the database can't be copied")

// liveSet reads which files of a LevelDB are alive: CURRENT, the manifest that it names,
// the tables that this manifest names, and the logs that it has not yet absorbed. It
// changes nothing. The store must not be open.
//
// Nothing else in the folder counts. A store that ended in the middle of a compaction
// leaves tables that its manifest does not name, and uses their numbers again.
func liveSet(dir string) ([]liveFile, error) {
	release, err := lockShared(dir)
	if err != nil {
		return nil, err
	}
	defer release()
	name, err := readCurrent(filepath.Join(dir, "CURRENT"))
	if err != nil {
		return nil, err
	}
	f, err := os.Open(filepath.Join(dir, name))
	if err != nil {
		return nil, fmt.Errorf("open the manifest that CURRENT names: %w: %w", err, errRefused)
	}
	defer f.Close()
	v, err := readManifest(f)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", name, err)
	}
	present, err := sizes(dir)
	if err != nil {
		return nil, err
	}
	list := []liveFile{{"CURRENT", modeCopy}, {name, modeCopy}}
	logs, err := v.logs(present)
	if err != nil {
		return nil, err
	}
	tables, err := v.tableFiles(present)
	if err != nil {
		return nil, err
	}
	return append(append(list, logs...), tables...), nil
}

// lockShared takes the lock that the node holds while its database is open, as a reader. A
// lock that is held is errRefused. A store without a LOCK file is not open.
func lockShared(dir string) (release func(), err error) {
	f, err := os.Open(filepath.Join(dir, "LOCK"))
	if errors.Is(err, os.ErrNotExist) {
		return func() {}, nil
	}
	if err != nil {
		return nil, fmt.Errorf("open the database's lock: %w", err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_SH|unix.LOCK_NB); err != nil {
		f.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			return nil, fmt.Errorf("%s is open in another process, so the node runs: %w", dir, errRefused)
		}
		return nil, fmt.Errorf("lock the database: %w", err)
	}
	return func() { f.Close() }, nil
}

var manifestName = regexp.MustCompile(`^MANIFEST-[0-9]{1,18}$`)

// readCurrent returns the name of the manifest in use.
func readCurrent(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", fmt.Errorf("open CURRENT: %w: %w", err, errRefused)
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, 64))
	if err != nil {
		return "", fmt.Errorf("read CURRENT: %w", err)
	}
	name, ok := strings.CutSuffix(string(b), "\n")
	if !ok || !manifestName.MatchString(name) {
		return "", fmt.Errorf("CURRENT holds %q, which names no manifest: %w", b, errDamaged)
	}
	return name, nil
}

// sizes returns the sizes of the regular files in a directory.
func sizes(dir string) (map[string]int64, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("list the database: %w", err)
	}
	out := make(map[string]int64, len(entries))
	for _, e := range entries {
		if !e.Type().IsRegular() {
			continue
		}
		info, err := e.Info()
		if err != nil {
			return nil, fmt.Errorf("list the database: %w", err)
		}
		out[e.Name()] = info.Size()
	}
	return out, nil
}

// tableKey is a table at a level: one that moves a level down keeps its number.
type tableKey struct {
	level uint64
	num   int64
}

// version is what a manifest's records add up to.
type version struct {
	tables   map[tableKey]int64 // size
	journal  int64              // the oldest log that still counts
	previous int64              // and the one before it, in stores made by old versions
	comparer string
	has      map[uint64]bool
}

// logs returns the logs that a store reads when it opens.
func (v *version) logs(present map[string]int64) ([]liveFile, error) {
	var out []liveFile
	found := false
	for name := range present {
		digits, ok := strings.CutSuffix(name, ".log")
		if !ok {
			continue
		}
		n, err := strconv.ParseInt(digits, 10, 64)
		if err != nil || n < 0 {
			continue
		}
		found = found || n == v.journal
		if n >= v.journal || v.has[recPrevJournal] && n == v.previous {
			out = append(out, liveFile{name, modeCopy})
		}
	}
	if v.journal > 0 && !found {
		return nil, fmt.Errorf("%06d.log, which the manifest names, is not there: %w", v.journal, errRefused)
	}
	sort.Slice(out, func(i, j int) bool { return out[i].Name < out[j].Name })
	return out, nil
}

// tableFiles returns the tables, and refuses one that is not there or not as long as the
// manifest says.
func (v *version) tableFiles(present map[string]int64) ([]liveFile, error) {
	size := map[int64]int64{}
	for k, n := range v.tables {
		size[k.num] = n
	}
	nums := make([]int64, 0, len(size))
	for n := range size {
		nums = append(nums, n)
	}
	sort.Slice(nums, func(i, j int) bool { return nums[i] < nums[j] })
	out := make([]liveFile, 0, len(nums))
	for _, n := range nums {
		name := fmt.Sprintf("%06d.ldb", n)
		got, ok := present[name]
		if !ok { // as LevelDB called them once
			name = fmt.Sprintf("%06d.sst", n)
			got, ok = present[name]
		}
		if !ok {
			return nil, fmt.Errorf("%06d.ldb, which the manifest names, is not there: %w", n, errRefused)
		}
		if got != size[n] {
			return nil, fmt.Errorf("%s has %d bytes and the manifest says %d: %w", name, got, size[n], errRefused)
		}
		out = append(out, liveFile{name, modeLink})
	}
	return out, nil
}

// The fields of a record of a LevelDB manifest (LevelDB's doc/impl.md and
// version_edit.cc; goleveldb writes the same). Numbers are unsigned varints, strings have
// their length in front.
const (
	recComparer    = 1
	recJournal     = 2
	recNextFile    = 3
	recSequence    = 4
	recCompactAt   = 5 // level, key
	recDeleted     = 6 // level, number
	recAdded       = 7 // level, number, size, smallest key, largest key
	recPrevJournal = 9
)

const (
	maxLevel  = 64       // LevelDB has 7 levels; goleveldb allows more
	maxString = 16 << 20 // a key
	comparer  = "leveldb.BytewiseComparator"
)

// readManifest adds up a manifest. It is strict where LevelDB is lenient: a record that does
// not check would make LevelDB forget tables, so it is errDamaged here.
func readManifest(r io.Reader) (*version, error) {
	v := &version{tables: map[tableKey]int64{}, has: map[uint64]bool{}}
	var drop dropped
	records := journal.NewReader(r, &drop, true, true)
	for {
		rec, err := records.Next()
		if drop.err != nil {
			return nil, fmt.Errorf("%w: %w", drop.err, errDamaged)
		}
		if err == io.EOF {
			break
		}
		if err != nil {
			return nil, err
		}
		if err := v.apply(bufio.NewReader(rec)); err != nil {
			return nil, fmt.Errorf("%w: %w", err, errDamaged)
		}
	}
	for _, need := range []struct {
		rec  uint64
		name string
	}{{recComparer, "comparer"}, {recJournal, "log number"}, {recNextFile, "next file number"}, {recSequence, "sequence"}} {
		if !v.has[need.rec] {
			return nil, fmt.Errorf("it has no %s: %w", need.name, errDamaged)
		}
	}
	if v.comparer != comparer {
		return nil, fmt.Errorf("its keys are ordered by %.80q, not by %s: %w", v.comparer, comparer, errRefused)
	}
	return v, nil
}

// dropped notes the first part of a manifest that does not check.
type dropped struct{ err error }

func (d *dropped) Drop(err error) {
	if d.err == nil {
		d.err = err
	}
}

// apply adds one record: first what it deletes, then what it adds, whatever their order.
func (v *version) apply(r *bufio.Reader) error {
	d := &decoder{r: r}
	var deleted []tableKey
	added := map[tableKey]int64{}
	for {
		rec, err := binary.ReadUvarint(r)
		if err == io.EOF {
			break
		}
		if err != nil {
			return fmt.Errorf("read the kind of a field: %w", err)
		}
		switch rec {
		case recComparer:
			v.comparer = d.text(256)
		case recJournal:
			v.journal = d.number()
		case recPrevJournal:
			v.previous = d.number()
		case recNextFile:
			d.number()
		case recSequence:
			d.uvarint()
		case recCompactAt:
			d.level()
			d.skip()
		case recDeleted:
			deleted = append(deleted, tableKey{d.level(), d.number()})
		case recAdded:
			k := tableKey{d.level(), d.number()}
			added[k] = d.number()
			d.skip()
			d.skip()
		default:
			return fmt.Errorf("a record holds a field of the unknown kind %d", rec)
		}
		if d.err != nil {
			return fmt.Errorf("read a field of kind %d: %w", rec, d.err)
		}
		v.has[rec] = true
	}
	for _, k := range deleted {
		delete(v.tables, k)
	}
	for k, size := range added {
		v.tables[k] = size
	}
	return nil
}

// decoder reads the fields of a record; after an error it yields zeros.
type decoder struct {
	r   *bufio.Reader
	err error
}

func (d *decoder) uvarint() uint64 {
	if d.err != nil {
		return 0
	}
	n, err := binary.ReadUvarint(d.r)
	if err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	d.err = err
	return n
}

func (d *decoder) number() int64 {
	n := int64(d.uvarint())
	if n < 0 && d.err == nil {
		d.err = errors.New("a number is too large")
	}
	return n
}

func (d *decoder) level() uint64 {
	n := d.uvarint()
	if n > maxLevel && d.err == nil {
		d.err = fmt.Errorf("there is no level %d", n)
	}
	return n
}

func (d *decoder) length(most uint64) int {
	n := d.uvarint()
	if n > most && d.err == nil {
		d.err = fmt.Errorf("a string of %d bytes is too long", n)
	}
	if d.err != nil {
		return 0
	}
	return int(n)
}

func (d *decoder) text(most uint64) string {
	b := make([]byte, d.length(most))
	if d.err == nil {
		_, d.err = io.ReadFull(d.r, b)
	}
	return string(b)
}

func (d *decoder) skip() {
	if n := d.length(maxString); d.err == nil {
		_, d.err = d.r.Discard(n)
	}
}
