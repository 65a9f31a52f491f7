package config

import (
	"fmt"
	"math"
	"regexp"
	"strconv"
	"strings"
	"time"
)

// Rate is bytes a second; 0 is no limit. It is written "50MiB" or "50MiB/s".
type Rate int64

// Verify says which sums of unchanged files are read again when a copy is sealed. It is
// written "", "full" or "sample 5%". The zero Verify trusts what is remembered.
type Verify struct {
	Full   bool
	Sample float64 // percent, above 0 and up to 100
}

// String gives "", "full" or "sample:5", as "capture seal --verify" reads it.
func (v Verify) String() string {
	switch {
	case v.Full:
		return "full"
	case v.Sample > 0:
		return "sample:" + strconv.FormatFloat(v.Sample, 'g', -1, 64)
	}
	return ""
}

var sample = regexp.MustCompile(`^sample[ :]+([0-9.]+)%?$`)

func (v *Verify) parse(text string) error {
	switch {
	case text == "":
		*v = Verify{}
		return nil
	case text == "full":
		*v = Verify{Full: true}
		return nil
	}
	if m := sample.FindStringSubmatch(text); m != nil {
		if p, err := strconv.ParseFloat(m[1], 64); err == nil && p > 0 && p <= 100 {
			*v = Verify{Sample: p}
			return nil
		}
	}
	return fmt.Errorf(`%s: write "full" or "sample 5%%"`, shorten(text))
}

var sizeForm = regexp.MustCompile(`^([0-9]+(?:\.[0-9]+)?) ?([kKMGTP]i?)?B$`)

// ParseSize reads "512B", "50MiB" (2^20 each) or "50MB" (10^6 each).
func ParseSize(text string) (int64, error) {
	if text == "0" {
		return 0, nil
	}
	m := sizeForm.FindStringSubmatch(text)
	if m == nil {
		if regexp.MustCompile(`^[0-9]+$`).MatchString(text) {
			return 0, fmt.Errorf("%s has no unit: write %sB, or a number with KiB, MiB or GiB", text, text)
		}
		return 0, fmt.Errorf("%s is no size: write a number with B, KiB, MiB, GiB or TiB", shorten(text))
	}
	n, err := strconv.ParseFloat(m[1], 64)
	if err != nil {
		return 0, fmt.Errorf("%s is no size", shorten(text))
	}
	unit, binary := strings.CutSuffix(m[2], "i")
	step := 1000.0
	if binary {
		step = 1024
	}
	if unit != "" {
		n *= math.Pow(step, float64(1+strings.Index("KMGTP", strings.ToUpper(unit))))
	}
	if n >= math.MaxInt64 {
		return 0, fmt.Errorf("%s is too large", shorten(text))
	}
	return int64(n), nil
}

func (r *Rate) parse(text string) error {
	n, err := ParseSize(strings.TrimSuffix(text, "/s"))
	if err != nil {
		return err
	}
	*r = Rate(n)
	return nil
}

var dayForm = regexp.MustCompile(`^([0-9]{1,5})([dw])$`)

// ParseDuration reads what time.ParseDuration does, and whole days and weeks: "90s", "5m", "36h", "30d", "8w".
// It refuses what is below zero.
func ParseDuration(text string) (time.Duration, error) {
	if m := dayForm.FindStringSubmatch(text); m != nil {
		n, err := strconv.Atoi(m[1])
		if err != nil {
			return 0, err
		}
		days := time.Duration(n)
		if m[2] == "w" {
			days *= 7
		}
		if days > 100*366 {
			return 0, fmt.Errorf("%s is longer than a hundred years", text)
		}
		return days * 24 * time.Hour, nil
	}
	d, err := time.ParseDuration(text)
	switch {
	case err != nil && regexp.MustCompile(`^[0-9]+$`).MatchString(text):
		return 0, fmt.Errorf("%s has no unit: write %ss, or a number with m, h, d or w", text, text)
	case err != nil:
		return 0, fmt.Errorf("%s is no duration: write a number with s, m, h, d or w", shorten(text))
	case d < 0:
		return 0, fmt.Errorf("%s is below zero", text)
	}
	return d, nil
}
