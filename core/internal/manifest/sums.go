package manifest

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"

	"github.com/snapfw/snapfw/core"
)

// WriteSums writes SHA256SUMS as "sha256sum -c" reads it: names relative to the prefix.
func WriteSums(w io.Writer, entries []core.Entry) error {
	if err := checkSHA256(entries); err != nil {
		return fmt.Errorf("write %s: %w", SumsFile, err)
	}
	b := bufio.NewWriter(w)
	for _, e := range entries {
		// CheckName leaves no name that sha256sum would have to escape.
		fmt.Fprintf(b, "%s  %s\n", e.Sums["sha256"], e.Name)
	}
	if err := b.Flush(); err != nil {
		return fmt.Errorf("write %s: %w", SumsFile, err)
	}
	return nil
}

// Sums is WriteSums into memory.
func Sums(entries []core.Entry) ([]byte, error) {
	var b bytes.Buffer
	err := WriteSums(&b, entries)
	return b.Bytes(), err
}

// ReadSums reads SHA256SUMS: sums by name. Both of sha256sum's modes are taken ("  " and " *"); an
// escaped name is refused, like every name that CheckName refuses.
func ReadSums(r io.Reader) (map[string]string, error) {
	limited := &io.LimitedReader{R: r, N: MaxManifest + 1}
	lines := bufio.NewScanner(limited)
	lines.Buffer(nil, 8<<10)
	sums := map[string]string{}
	for n := 1; lines.Scan(); n++ {
		if err := addSum(sums, lines.Text()); err != nil {
			return nil, fmt.Errorf("read %s: line %d: %w", SumsFile, n, err)
		}
	}
	if err := lines.Err(); err != nil {
		return nil, fmt.Errorf("read %s: %w", SumsFile, err)
	}
	if limited.N <= 0 || len(sums) > maxEntries {
		return nil, fmt.Errorf("read %s: too long", SumsFile)
	}
	return sums, nil
}

func addSum(sums map[string]string, line string) error {
	if len(line) < 67 || line[64] != ' ' || line[65] != ' ' && line[65] != '*' {
		return fmt.Errorf("%q: not \"SUM  NAME\"", clip(line))
	}
	sum, name := line[:64], line[66:]
	if err := checkSum("sha256", sum); err != nil {
		return err
	}
	if err := CheckName(name); err != nil {
		return err
	}
	if _, twice := sums[name]; twice {
		return errors.New(name + ": twice")
	}
	sums[name] = sum
	return nil
}
