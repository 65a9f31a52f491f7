// Package manifest knows what a snapshot consists of once it lies in a sink: its
// manifest and sums, the pointer that names the newest one of a series, the index made
// from all pointers, and which snapshots are too old.
//
// What it writes, relative to the place that a sink's configuration names:
//
//	PREFIX/…                 the files of a snapshot, immutable
//	PREFIX/incomplete.json   a Mark: written before the first file, removed once the pointer names PREFIX
//	PREFIX/SHA256SUMS        for "sha256sum -c"
//	PREFIX/manifest.json     a Manifest
//	FOLDER/latest.json       a Pointer, written last; FOLDER is the series
//	index.json, index.html   an Index, rebuilt from the pointers
//
// Everything that is read here comes from a bucket or from a node and is taken as hostile:
// every reader has a limit, and no name leaves its folder.
//
// Within one version of a format fields are only added, so readers ignore those that they
// don't know; a higher version is refused.
package manifest
