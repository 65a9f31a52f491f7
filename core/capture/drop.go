package capture

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// Drop removes a copy, what Seal wrote about it, and what died in the making. Remembered sums
// stay, and so does what others put beside it. With linkedOnly a real copy and a warm one stay too: they spare
// the next capture the copying, while a linked or cloned one pins tables that the node
// removes. With a run the copy of another run stays: an undo must not take away what was good before
// it. It is no error when there is nothing.
func Drop(to string, linkedOnly bool, run string) error {
	dir, err := checkTo(to)
	if err != nil {
		return err
	}
	p, err := lockPlace(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer p.close()
	c, err := p.captured()
	if err != nil && !errors.Is(err, ErrNoCopy) {
		c = Captured{} // torn: what it describes is of no use to anybody
	}
	if run != "" && c.Data != 0 && c.Run != run {
		return p.clean()
	}
	if err := p.drop(linkedOnly, c.Method == Copy); err != nil {
		return fmt.Errorf("remove the copy: %w", err)
	}
	// Both only where nothing else lies in them.
	os.Remove(p.dir)
	os.Remove(filepath.Dir(p.dir))
	return nil
}

func (p *place) drop(linkedOnly, real bool) error {
	if linkedOnly && real {
		return p.clean()
	}
	// The description goes first, so that nobody takes half a copy for one.
	for _, name := range []string{CapturedName, newJSON, EntriesName} {
		if err := os.Remove(p.path(name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	gone := []string{DataName}
	if !linkedOnly {
		gone = append(gone, warmRecords, warmName)
	}
	for _, name := range gone {
		if err := p.discard(name); err != nil {
			return err
		}
	}
	return p.clean()
}

// Read returns what is known of the whole copy in a directory, or an ErrNoCopy. It changes
// nothing and waits for nobody.
func Read(to string) (Captured, error) {
	dir, err := checkTo(to)
	if err != nil {
		return Captured{}, err
	}
	p := place{dir: dir}
	c, err := p.captured()
	if !errors.Is(err, ErrNoCopy) {
		return c, err
	}
	// A take that died between its last two renames.
	if next, nerr := readCaptured(p.path(newJSON)); nerr == nil && next.Data != 0 && next.Data == p.inode(DataName) {
		return next, nil
	}
	return Captured{}, err
}

// Records reads how each file of the whole copy in a directory came to be there, as Read reads the rest.
func Records(to string) ([]Record, error) {
	c, err := Read(to)
	if err != nil {
		return nil, err
	}
	return c.records(filepath.Clean(to))
}
