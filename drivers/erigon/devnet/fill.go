package main

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"strings"
)

// fill makes a first datadir, as a snapshotter has it after its sync and all merges.
func (p *program) fill(args []string) error {
	fl := flag.NewFlagSet("fill", flag.ContinueOnError)
	fl.SetOutput(p.stderr)
	dir := fl.String("datadir", "", "the data folder to make")
	chain := fl.String("chain", "mainnet", "name of the chain")
	blocks := fl.Uint64("blocks", 112_000, "blocks")
	steps := fl.Uint64("steps", 70, "steps of state in files")
	slots := fl.Uint64("slots", 120, "thousands of slots of the beacon chain")
	stepSize := fl.Uint64("step-size", 390_625, "transactions of a step")
	frozen := fl.Uint64("frozen", 256, "steps of a frozen file")
	unit := fl.Int64("unit-bytes", 512, "bytes of a data file for 1,000 blocks or a step")
	most := fl.Int64("max-bytes", 2<<20, "bytes that a data file has at most")
	receipts := fl.Bool("receipts", true, "--persist.receipts")
	behind := fl.Uint64("ahead", 0, "blocks of the chain that no file holds yet")
	count := fl.Int("files", 0, "make at least so many files, tiny ones, instead of --blocks and --steps")
	if err := fl.Parse(args); err != nil {
		return errSilent
	}
	if fl.NArg() > 0 || *stepSize == 0 || *frozen == 0 {
		return errors.New("fill takes flags only, and no sizes of 0")
	}
	if *count > 0 {
		*blocks, *steps, *slots = sizesFor(*count, *frozen, *receipts)
		*unit, *most = 1, 64
	}
	st := chainState{
		Chain: *chain, Head: *blocks, Executed: *blocks, StepSize: *stepSize, Frozen: *frozen, UnitBytes: *unit, MaxBytes: *most, Receipts: *receipts,
		From: map[string]uint64{},
	}
	if whole := st.blocksFrozen() * 1000; whole > 0 {
		st.TxPerBlock = (*steps**stepSize + whole - 1) / whole
	}
	return p.fillDir(*dir, st, *steps, *slots, *behind)
}

func (p *program) fillDir(dir string, st chainState, steps, slots, behind uint64) error {
	d, err := newDatadir(dir)
	if err != nil {
		return err
	}
	if err := d.flock(); err != nil {
		return err
	}
	defer d.unlock()
	if _, err := d.readChain(); !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%s holds a chain already", dir)
	}
	settings := fmt.Sprintf("step_size = %d\nsteps_in_frozen_file = %d\n", st.StepSize, st.Frozen)
	if err := d.writeFile("erigondb.toml", strings.NewReader(settings), false); err != nil {
		return err
	}
	for name, salt := range map[string]string{"salt-blocks.txt": "\x01\x02\x03\x04", "salt-state.txt": "\x05\x06\x07\x08"} {
		if err := d.writeFile(name, bytes.NewReader([]byte(salt)), false); err != nil {
			return err
		}
	}
	b := builder{d: d, st: st, log: &logger{}}
	all := st.blockTargets()
	for _, k := range domainKinds(st.Receipts) {
		all = append(all, target{k, domainSpans(steps)})
	}
	for _, k := range historyKinds(st.Receipts) {
		all = append(all, target{k, historySpans(steps, st.Frozen)})
	}
	if err := b.build(p.ctx, "fill", append(all, caplinTargets(slots)...)); err != nil {
		return err
	}
	b.st.Head += behind
	b.st.Executed += behind
	if err := b.pruned(); err != nil {
		return err
	}
	files, _, err := d.list()
	if err != nil {
		return err
	}
	fmt.Fprintf(p.stdout, "%d files\n", len(files)+3)
	return nil
}

// caplinTargets: beacon blocks in 10k slots, blobs one range behind and from a later beginning, tables in 50k slots.
func caplinTargets(slots uint64) (all []target) {
	beacon := caplinSpans(slots, 10)
	all = append(all, target{kind{"", "beaconblocks", "seg", "v1.1"}, beacon})
	if len(beacon) > 2 {
		all = append(all, target{kind{"", "blobsidecars", "seg", "v1.1"}, beacon[len(beacon)/2 : len(beacon)-1]})
	}
	for _, t := range caplinTypes {
		all = append(all, target{kind{"caplin", t, "seg", "v1.1"}, caplinSpans(slots, 50)})
	}
	return all
}

// sizesFor finds a chain of at least n files, in the proportions of a real one: mostly history.
func sizesFor(n int, frozen uint64, receipts bool) (blocks, steps, slots uint64) {
	perBlocks, perHistory := 0, 0
	for _, k := range blockKinds() {
		perBlocks += 1 + len(k.indexes())
	}
	for _, k := range historyKinds(receipts) {
		perHistory += 1 + len(k.indexes())
	}
	for i := uint64(1); ; i++ {
		blocks, steps, slots = i*50_000, i*frozen, i*100
		have := perBlocks*len(blockSpans(blocks/1000)) + perHistory*len(historySpans(steps, frozen))
		for _, t := range caplinTargets(slots) {
			have += len(t.spans) * 2
		}
		if have >= n {
			return blocks, steps, slots
		}
	}
}
