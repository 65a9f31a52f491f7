package main

import (
	"path/filepath"
	"testing"
)

// BenchmarkToolNothingNew is what retire, index and integrity add to Erigon's own commands, over as many files as a real chain has. The program
// that they call here does nothing.
func BenchmarkToolNothingNew(b *testing.B) {
	bin, err := devnet()
	if err != nil {
		b.Fatal(err)
	}
	d := &standIn{t: b, bin: bin, dir: filepath.Join(memoryFolder(b), "D")}
	d.call("snapfw-erigon-devnet", "fill", "--datadir", d.dir, "--files", "17500")
	nothing := filepath.Join(b.TempDir(), "erigon")
	putProgram(b, nothing, "exit 0")
	for b.Loop() {
		for name, verb := range map[string]toolVerb{"retire": retire, "index": index} {
			if exit := runTool(b.Context(), []string{"--datadir", d.dir, "--erigon", nothing}, b.Output(), b.Output(), verb); exit != 0 {
				b.Fatalf("%s: exit %d", name, exit)
			}
		}
	}
}
