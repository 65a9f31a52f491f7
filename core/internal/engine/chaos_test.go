package engine

import (
	"math/rand/v2"
	"os"
	"testing"
)

// chaos tells whether everything is tried (make chaos) or a bounded share (make test).
func chaos() bool { return os.Getenv("SNAPFW_CHAOS") != "" }

// TestOneDeath kills snapfw once, before and after every write to the journal, every command
// and every request to the storage, on three nodes in two waves.
func TestOneDeath(t *testing.T) {
	points := 0
	for _, guards := range []bool{false, true} {
		for k := 1; ; k++ {
			if lives(t, 3, guards, k) == 0 {
				break
			}
			points++
		}
	}
	t.Logf("one death, three nodes: %d points", points)
	if points < 200 {
		t.Errorf("only %d points: does a process still die?", points)
	}
}

// TestTwoDeaths kills the successor too: every pair of points on one node, a seeded sample on three.
func TestTwoDeaths(t *testing.T) {
	step, samples := 7, 150
	if chaos() {
		step, samples = 1, 5000
	}
	pairs := 0
	for first := 1; ; first += step {
		if lives(t, 1, false, first) == 0 {
			break
		}
		for second := 1; ; second += step {
			if lives(t, 1, second%2 == 0, first, second) < 2 {
				break
			}
			pairs++
		}
	}
	t.Logf("two deaths, one node: %d pairs", pairs)

	const seed = 20261121
	random := rand.New(rand.NewPCG(seed, 0))
	most := 1
	for lives(t, 3, false, most) > 0 {
		most += 50
	}
	twice := 0
	for range samples {
		if lives(t, 3, random.IntN(2) == 0, 1+random.IntN(most), 1+random.IntN(most)) == 2 {
			twice++
		}
	}
	t.Logf("two deaths, three nodes: %d of %d samples died twice (seed %d)", twice, samples, seed)
	if pairs < 100 || twice < samples/10 {
		t.Errorf("%d pairs, %d samples: does a successor still die?", pairs, twice)
	}
}
