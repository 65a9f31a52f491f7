package main

import (
	"fmt"
	"time"
)

// Whether a torrent's pieces are those of the data is told by hashing only, which is the work of
// the verb that makes them. These rules look at names, lengths and times.

// eachTorrent calls do for every torrent that has its data.
func (inv *inventory) eachTorrent(do func(torrent, data checkFile)) {
	for _, f := range inv.files {
		if torrent, ok := inv.byName[f.Name+torrentExt]; ok && torrent.Size > 0 {
			do(torrent, inv.byName[f.Name])
		}
	}
}

func findTruncated(inv *inventory, found found) {
	inv.eachTorrent(func(torrent, data checkFile) {
		if t := torrent.Torrent; t != nil && data.Size > 0 && data.Size < t.Length && !torrent.Time.Before(data.Time) {
			found(data.Name, fmt.Sprintf("it has %d bytes, and had %d when its torrent was made after its last change", data.Size, t.Length), "restore", data.Name)
		}
	})
}

func findTorrentMissing(inv *inventory, found found) {
	for _, f := range inv.files {
		if _, ok := inv.byName[f.Name+torrentExt]; !ok {
			found(f.Name, "it has no torrent, so nobody would get it")
		}
	}
}

func findTorrentStale(inv *inventory, found found) {
	inv.eachTorrent(func(torrent, data checkFile) {
		switch t := torrent.Torrent; {
		case torrent.Time.Before(data.Time):
			found(torrent.Name, fmt.Sprintf("its data changed after it was made, at %s: Erigon would publish the old hash", data.Time.UTC().Format(time.RFC3339)))
		case t != nil && data.Size > t.Length:
			found(torrent.Name, fmt.Sprintf("it is of %d bytes, its data has %d: Erigon's own verification does not notice what is appended", t.Length, data.Size))
		}
	})
}

func findTorrentDamaged(inv *inventory, found found) {
	inv.eachTorrent(func(torrent, data checkFile) {
		if torrent.Torrent == nil {
			found(torrent.Name, "it can't be read: "+torrent.Damage)
			return
		}
		if torrent.Torrent.Length != data.Size {
			return // stale, or the data is truncated
		}
		if err := torrent.Torrent.fits(data.Name, data.Size); err != nil {
			found(torrent.Name, err.Error())
		}
	})
}

func findTorrentOrphan(inv *inventory, found found) {
	for _, f := range inv.odd {
		data, partial, ok := torrentOf(f.Name)
		if !ok || partial {
			continue
		}
		switch _, there := inv.byName[data]; {
		case !there:
			found(f.Name, "its data is not there")
		case parseReason(data) != "":
			found(f.Name, "a torrent of what is no snapshot file: Erigon's own list would publish it")
		}
	}
}

func findTorrentUnfinished(inv *inventory, found found) {
	for _, f := range inv.odd {
		if _, partial, ok := torrentOf(f.Name); ok && partial {
			found(f.Name, "left of a torrent that was being written")
		}
	}
}

func parseReason(name string) nameReason {
	_, reason := parse(name)
	return reason
}
