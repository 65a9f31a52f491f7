package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/snapfw/snapfw/core/capture"
)

// torrentFolder is a folder of snapshots/, and what is published of it.
type torrentFolder struct {
	dir   string
	exts  []string
	names []string
}

// torrentFolders are the folders of snapshots/ that Erigon publishes from, and what it
// publishes there (downloader's SeedableFiles with --all). It takes any .txt and any name that starts with salt;
// here a foreign file gets no torrent. Nothing is taken from other folders (forkable/).
var torrentFolders = []torrentFolder{
	{dir: "", exts: []string{".seg", ".idx"}, names: []string{"erigondb.toml", "salt-blocks.txt", "salt-state.txt"}},
	{dir: "caplin", exts: []string{".seg", ".idx"}},
	{dir: "idx", exts: stateExts},
	{dir: "history", exts: stateExts},
	{dir: "domain", exts: stateExts},
	{dir: "accessor", exts: stateExts},
}

var stateExts = []string{".kv", ".v", ".ef", ".kvi", ".kvei", ".bt", ".vi", ".efi"}

// dataFile is a file that consumers download.
type dataFile struct {
	name  string // relative to snapshots/, with forward slashes: the torrent's name and the key in the bucket
	ident fileIdent
}

// snapshotList is what lies in snapshots/, each list sorted by name.
type snapshotList struct {
	data      []dataFile
	torrents  []string      // .torrent that have their data
	unfit     []torrentNews // what should get a torrent and can't: empty, not a regular file
	orphans   []string      // .torrent of which the data is gone, or is nothing to publish
	waiting   []string      // .torrent whose data is NAME.part: moved aside by the downloader, or never finished
	leftovers []string      // NAME.torrent123456789, of a writer that died
	halves    []string      // what somebody was still writing
}

// torrentNews says something of one file.
type torrentNews struct {
	Name     string `json:"name"`
	Did      string `json:"did"` // made, remade, removed, found, refused, failed; in a dry run "to be made", "to be compared" …
	Why      string `json:"why,omitempty"`
	Infohash string `json:"infohash,omitempty"`
	Was      string `json:"was,omitempty"` // the infohash that its .torrent had
}

// listSnapshots looks at a snapshots folder. The folders in it may be symbolic links, as large ones often
// are; files may not.
func listSnapshots(root string) (snapshotList, error) {
	var l snapshotList
	for _, folder := range torrentFolders {
		fd, err := openFolder(filepath.Join(root, folder.dir))
		if errors.Is(err, fs.ErrNotExist) && folder.dir != "" {
			continue
		}
		if err == nil {
			err = l.addFolder(folder, fd)
			fd.Close()
		}
		if err != nil {
			return l, fmt.Errorf("list snapshots: %w", err)
		}
	}
	slices.SortFunc(l.data, func(a, b dataFile) int { return strings.Compare(a.name, b.name) })
	return l, nil
}

func (l *snapshotList) addFolder(folder torrentFolder, fd *os.File) error {
	files, err := fd.Readdirnames(-1)
	if err != nil {
		return err
	}
	slices.Sort(files)
	here := make(map[string]bool, len(files))
	for _, file := range files {
		here[file] = true
	}
	seedable := func(file string) bool {
		return slices.Contains(folder.names, file) || slices.Contains(folder.exts, path.Ext(file))
	}
	var wanted, names []string
	for _, file := range files {
		name := file
		if folder.dir != "" {
			name = folder.dir + "/" + file
		}
		if unfinished(name) && !localNames[name] {
			l.halves = append(l.halves, name)
		}
		stem, isTorrent := strings.CutSuffix(file, torrentExt)
		switch {
		case isTorrent && here[stem] && seedable(stem):
			l.torrents = append(l.torrents, name)
		case isTorrent && here[stem+".part"]:
			l.waiting = append(l.waiting, name)
		case isTorrent:
			l.orphans = append(l.orphans, name)
		case tornTorrent(file):
			l.leftovers = append(l.leftovers, name)
		case seedable(file):
			wanted, names = append(wanted, file), append(names, name)
		}
	}
	for i, look := range capture.Lstats(fd, wanted) {
		if err := l.add(names[i], look); err != nil {
			return err
		}
	}
	return nil
}

func (l *snapshotList) add(name string, st capture.Lstat) error {
	switch {
	case errors.Is(st.Err, fs.ErrNotExist):
		return fmt.Errorf("%s: %w", name, errChanging)
	case st.Err != nil:
		return fmt.Errorf("look at %s: %w", name, st.Err)
	case st.Mode&unix.S_IFMT != unix.S_IFREG:
		l.unfit = append(l.unfit, torrentNews{Name: name, Did: "refused", Why: "it is not a regular file"})
	case st.Size == 0:
		// A torrent of nothing has no pieces and no length: no client can use it.
		l.unfit = append(l.unfit, torrentNews{Name: name, Did: "refused", Why: "it is empty: remove it and make it again"})
	default:
		l.data = append(l.data, dataFile{name: name, ident: identOfStat(&st.Stat_t)})
	}
	return nil
}

// tornTorrent tells whether a name is that of a .torrent on its way.
func tornTorrent(file string) bool {
	i := strings.LastIndex(file, torrentExt)
	digits := file[max(i, 0):]
	return i >= 0 && len(digits) > len(torrentExt) && strings.Trim(digits[len(torrentExt):], "0123456789") == ""
}

// differs names a file that is in one list and not in the other, or not the same in both; "" if there is none.
func (l snapshotList) differs(other snapshotList) string {
	for i, f := range l.data {
		switch {
		case i == len(other.data):
			return f.name
		case other.data[i] != f:
			return min(f.name, other.data[i].name) // both are sorted: the first one is in one of them only, or changed
		}
	}
	if len(other.data) > len(l.data) {
		return other.data[len(l.data)].name
	}
	return ""
}
