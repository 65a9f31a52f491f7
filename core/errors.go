package core

import (
	"errors"
	"fmt"
	"strings"
)

// ErrUnsupported is returned for an optional ability that a plugin does not have.
var ErrUnsupported = errors.New("not supported by this plugin")

// ErrForeign is returned by an Importer for a file that it does not know.
var ErrForeign = errors.New("not a configuration of the tool that this driver replaces")

// ErrCondition is returned by Sink.Put when its Condition does not hold.
var ErrCondition = errors.New("the object is not as the condition says")

// SkipError means "not now": a value, not a failure at three in the morning.
type SkipError struct{ Reason string }

func (e *SkipError) Error() string { return "not now: " + e.Reason }

// Skipf makes a SkipError.
func Skipf(format string, args ...any) error {
	return &SkipError{Reason: fmt.Sprintf(format, args...)}
}

// IsSkip tells whether an error says "not now", and why.
func IsSkip(err error) (reason string, ok bool) {
	var s *SkipError
	if errors.As(err, &s) {
		return s.Reason, true
	}
	return "", false
}

// FieldError says what is wrong with one field of a configuration. Field is the path from the
// part that the plugin was given: "machines[2].shard". snapfw adds file and line.
type FieldError struct {
	Field string
	Msg   string // "0 is already used by machines[0]"
}

func (e FieldError) Error() string { return e.Field + ": " + e.Msg }

// FieldErrors is everything that is wrong with a configuration.
type FieldErrors []FieldError

func (e FieldErrors) Error() string {
	lines := make([]string, len(e))
	for i, f := range e {
		lines[i] = f.Error()
	}
	return strings.Join(lines, "\n")
}

// Err returns nil if there are none.
func (e FieldErrors) Err() error {
	if len(e) == 0 {
		return nil
	}
	return e
}
