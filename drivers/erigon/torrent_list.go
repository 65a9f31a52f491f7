package main

import (
	"fmt"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// torrentFolders are the folders of snapshots/ that Erigon publishes from, and what it
// publishes there (downloader's SeedableFiles with --all). It takes any .txt and any name that starts with salt;
// here a foreign file gets no torrent. Nothing is taken from other folders (forkable/).
var torrentFolders = []struct {
	dir   string
	exts  []string
	names []string
}{
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
	unfit     []torrentNews // what should get a torrent and can't: empty, not a regular file
	orphans   []string      // .torrent of which the data is gone, or is nothing to publish
	waiting   []string      // .torrent whose data is NAME.part: moved aside by the downloader, or never finished
	leftovers []string      // NAME.torrent123456789, of a writer that died
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
		entries, err := os.ReadDir(filepath.Join(root, folder.dir))
		if os.IsNotExist(err) && folder.dir != "" {
			continue
		}
		if err != nil {
			return l, fmt.Errorf("list snapshots: %w", err)
		}
		here := map[string]bool{}
		for _, e := range entries {
			here[e.Name()] = true
		}
		seedable := func(file string) bool {
			return slices.Contains(folder.names, file) || slices.Contains(folder.exts, path.Ext(file))
		}
		for _, e := range entries {
			name := path.Join(folder.dir, e.Name())
			stem, isTorrent := strings.CutSuffix(e.Name(), torrentExt)
			switch {
			case isTorrent && here[stem] && seedable(stem):
			case isTorrent && here[stem+".part"]:
				l.waiting = append(l.waiting, name)
			case isTorrent:
				l.orphans = append(l.orphans, name)
			case tornTorrent(e.Name()):
				l.leftovers = append(l.leftovers, name)
			case seedable(e.Name()):
				if err := l.add(root, name); err != nil {
					return l, err
				}
			}
		}
	}
	slices.SortFunc(l.data, func(a, b dataFile) int { return strings.Compare(a.name, b.name) })
	return l, nil
}

func (l *snapshotList) add(root, name string) error {
	var st unix.Stat_t
	if err := unix.Lstat(filepath.Join(root, filepath.FromSlash(name)), &st); err != nil {
		if err == unix.ENOENT {
			return fmt.Errorf("%s: %w", name, errChanging)
		}
		return fmt.Errorf("look at %s: %w", name, err)
	}
	switch {
	case st.Mode&unix.S_IFMT != unix.S_IFREG:
		l.unfit = append(l.unfit, torrentNews{Name: name, Did: "refused", Why: "it is not a regular file"})
	case st.Size == 0:
		// A torrent of nothing has no pieces and no length: no client can use it.
		l.unfit = append(l.unfit, torrentNews{Name: name, Did: "refused", Why: "it is empty: remove it and make it again"})
	default:
		l.data = append(l.data, dataFile{name: name, ident: identOfStat(&st)})
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
	is := map[string]fileIdent{}
	for _, f := range l.data {
		is[f.name] = f.ident
	}
	for _, f := range other.data {
		if is[f.name] != f.ident {
			return f.name
		}
		delete(is, f.name)
	}
	for name := range is {
		return name
	}
	return ""
}
