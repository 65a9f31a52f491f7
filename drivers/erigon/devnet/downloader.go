package main

import (
	"crypto/sha1"
	"encoding/hex"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// downloader knows torrent_create, torrent_hashes, torrent_clean and --verify. It does not take the lock.
func (p *program) downloader(args []string) error {
	command := ""
	if len(args) > 0 && !strings.HasPrefix(args[0], "-") {
		command, args = args[0], args[1:]
	}
	fl := flag.NewFlagSet("downloader", flag.ContinueOnError)
	fl.SetOutput(io.Discard)
	dir := fl.String("datadir", "", "")
	fl.String("chain", "", "")
	fl.Bool("all", true, "")
	fl.String("file", "", "parsed and ignored, as with Erigon")
	verify := fl.Bool("verify", false, "")
	failfast := fl.Bool("verify.failfast", false, "")
	if err := fl.Parse(args); err != nil {
		return fmt.Errorf("Error: %v", err)
	}
	d, err := newDatadir(*dir)
	if err != nil {
		return err
	}
	behave, err := d.behave()
	if err != nil {
		return err
	}
	log := openLog(p.stderr, d.dir, "downloader")
	switch {
	case command == "torrent_create":
		return d.createTorrents(log)
	case command == "torrent_hashes":
		return d.printHashes(p.stdout)
	case command == "torrent_clean":
		return d.cleanTorrents()
	case command == "" && (*verify || *failfast):
		err := d.verifyTorrents(behave.is("verify-root-only"))
		if err != nil && behave.is("verify-lies") { // up to 3.2 the failure is in the log only
			log.error("[verify]", "err", err)
			return nil
		}
		return err
	}
	return fmt.Errorf("Error: unknown command %q for \"downloader\"", command) //nolint:staticcheck // cobra's words
}

const pieceLength = 2 << 20

// infoOf is the info dictionary of a file's first bytes, of all of them if most is negative.
func (d *datadir) infoOf(name string, most int64) ([]byte, error) {
	file, err := os.Open(d.snap(name))
	if err != nil {
		return nil, err
	}
	defer file.Close()
	f := io.Reader(file)
	if most >= 0 {
		f = io.LimitReader(f, most)
	}
	var pieces []byte
	var size int64
	for buf := make([]byte, pieceLength); ; {
		n, err := io.ReadFull(f, buf)
		if n > 0 {
			sum := sha1.Sum(buf[:n])
			pieces, size = append(pieces, sum[:]...), size+int64(n)
		}
		if err == io.EOF || errors.Is(err, io.ErrUnexpectedEOF) {
			break
		}
		if err != nil {
			return nil, err
		}
	}
	return fmt.Appendf(nil, "d6:lengthi%de4:name%d:%s12:piece lengthi%de6:pieces%d:%se", size, len(name), name, pieceLength, len(pieces), pieces), nil
}

// seedable are the files that get a torrent: all data and indexes, salts and every other .txt, and erigondb.toml.
func (d *datadir) seedable() (all []string, err error) {
	files, odd, err := d.list()
	for _, f := range files {
		all = append(all, f.name)
	}
	for _, name := range odd {
		if filepath.Dir(name) == "." && (strings.HasSuffix(name, ".txt") || name == "erigondb.toml") {
			all = append(all, name)
		}
	}
	slices.Sort(all)
	return all, err
}

// createTorrents makes those that are missing. One that is there stays, whatever became of its data.
func (d *datadir) createTorrents(log *logger) error {
	names, err := d.seedable()
	if err != nil {
		return err
	}
	for i, name := range names {
		if _, err := os.Stat(d.snap(name) + ".torrent"); err == nil {
			continue
		}
		info, err := d.infoOf(name, -1)
		if err != nil {
			return err
		}
		body := fmt.Sprintf("d13:announce-listll42:udp://tracker.opentrackr.org:1337/announceee10:created by6:erigon13:creation datei%de4:info%se", time.Now().Unix(), info)
		if err := d.writeFile(name+".torrent", strings.NewReader(body), true); err != nil {
			return err
		}
		log.info("[snapshots] Creating .torrent files", "progress", fmt.Sprintf("%d/%d", i+1, len(names)))
	}
	return nil
}

// torrents reads all that there are, those without data too.
func (d *datadir) torrents() (map[string][]byte, error) {
	all := map[string][]byte{}
	err := filepath.WalkDir(d.path("snapshots"), func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() || !strings.HasSuffix(path, ".torrent") {
			return err
		}
		body, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		_, info, ok := strings.Cut(string(body), "4:info")
		if !ok {
			return fmt.Errorf("%s: no info", path)
		}
		_, named, _ := strings.Cut(info, "4:name")
		var n int
		if _, err := fmt.Sscanf(named, "%d:", &n); err != nil {
			return fmt.Errorf("%s: no name", path)
		}
		_, named, _ = strings.Cut(named, ":")
		if n > len(named) {
			return fmt.Errorf("%s: no name", path)
		}
		all[named[:n]] = []byte(strings.TrimSuffix(info, "e"))
		return nil
	})
	return all, err
}

func (d *datadir) printHashes(out io.Writer) error {
	all, err := d.torrents()
	if err != nil {
		return err
	}
	var b strings.Builder
	for _, name := range slices.Sorted(maps.Keys(all)) {
		sum := sha1.Sum(all[name])
		fmt.Fprintf(&b, "'%s' = '%s'\n", name, hex.EncodeToString(sum[:]))
	}
	fmt.Fprintf(out, "%s\n", b.String())
	return nil
}

func (d *datadir) cleanTorrents() error {
	return filepath.WalkDir(d.path("snapshots"), func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() || !strings.HasSuffix(path, ".torrent") {
			return err
		}
		return os.Remove(path)
	})
}

// verifyTorrents looks at files that have a torrent, and at no others, and at no bytes after a torrent's length. Up to 3.4 it finds no torrent
// but those that lie in snapshots/ itself.
func (d *datadir) verifyTorrents(rootOnly bool) error {
	all, err := d.torrents()
	if err != nil {
		return err
	}
	for _, name := range slices.Sorted(maps.Keys(all)) {
		if rootOnly && strings.Contains(name, "/") {
			continue
		}
		var length int64
		if _, err := fmt.Sscanf(string(all[name]), "d6:lengthi%de", &length); err != nil {
			return fmt.Errorf("torrent of %s: no length", name)
		}
		info, err := d.infoOf(name, length)
		if err != nil {
			return err
		}
		if string(info) != string(all[name]) {
			return fmt.Errorf("[verify.failfast] hash mismatch at piece 0, file: %s", name)
		}
	}
	return nil
}
