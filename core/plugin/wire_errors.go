package plugin

import (
	"context"
	"encoding/json"
	"errors"
	"io/fs"
	"strings"
	"unicode"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/snapfw/snapfw/core"
)

// The longest text of an error that crosses the wire; the rest is cut.
const maxErrorText = 64 << 10

// remoteError is what a plugin said went wrong, and which of the known errors it is.
type remoteError struct {
	text string
	is   error
}

func (e *remoteError) Error() string { return e.text }
func (e *remoteError) Unwrap() error { return e.is }

// wireField is one element of the JSON that an INVALID_ARGUMENT carries.
type wireField struct {
	Field string `json:"field"`
	Msg   string `json:"msg"`
}

// kinds are the errors that cross the wire with nothing but their text. The codes are
// those that gRPC never makes itself, as far as they last.
var kinds = []struct {
	code codes.Code
	err  error
}{
	{codes.NotFound, fs.ErrNotExist},
	{codes.FailedPrecondition, core.ErrCondition},
	{codes.Unimplemented, core.ErrUnsupported},
	{codes.OutOfRange, core.ErrForeign},
	{codes.Canceled, context.Canceled},
	{codes.DeadlineExceeded, context.DeadlineExceeded},
}

// encodeError makes a plugin's error one that gRPC carries.
func encodeError(err error) error {
	if err == nil {
		return nil
	}
	if reason, ok := core.IsSkip(err); ok {
		return status.Error(codes.Aborted, wireText(reason))
	}
	var fields core.FieldErrors
	var field core.FieldError
	if !errors.As(err, &fields) && errors.As(err, &field) {
		fields = core.FieldErrors{field}
	}
	if len(fields) > 0 {
		return status.Error(codes.InvalidArgument, encodeFields(fields))
	}
	for _, k := range kinds {
		if errors.Is(err, k.err) {
			return status.Error(k.code, wireText(err.Error()))
		}
	}
	return status.Error(codes.Unknown, wireText(err.Error()))
}

func encodeFields(fields core.FieldErrors) string {
	var list []wireField
	for size := 0; len(fields) > 0 && size < maxErrorText; fields = fields[1:] {
		f := wireField{wireText(fields[0].Field), wireText(fields[0].Msg)}
		list = append(list, f)
		size += len(f.Field) + len(f.Msg)
	}
	text, err := json.Marshal(list)
	if err != nil {
		return err.Error()
	}
	return string(text)
}

// decodeError makes an error of gRPC one of package core again.
func decodeError(err error) error {
	if err == nil {
		return nil
	}
	s, ok := status.FromError(err)
	if !ok {
		return err
	}
	text := clean(s.Message())
	switch s.Code() {
	case codes.Aborted:
		return &core.SkipError{Reason: text}
	case codes.InvalidArgument:
		var list []wireField
		if json.Unmarshal([]byte(text), &list) == nil && len(list) > 0 {
			return core.FieldErrors(each(list, func(f wireField) core.FieldError {
				return core.FieldError{Field: clean(f.Field), Msg: clean(f.Msg)}
			}))
		}
	}
	for _, k := range kinds {
		if s.Code() == k.code {
			return &remoteError{text: text, is: k.err}
		}
	}
	return &remoteError{text: text}
}

func wireText(s string) string {
	return strings.ToValidUTF8(s[:min(len(s), maxErrorText)], "\uFFFD")
}

// clean drops what could move the cursor of the terminal that an error ends on.
func clean(s string) string {
	return strings.Map(func(r rune) rune {
		if r != '\n' && r != '\t' && !unicode.IsPrint(r) {
			return -1
		}
		return r
	}, s)
}
