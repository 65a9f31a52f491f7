package plugin

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/snapfw/snapfw/core"
)

func TestErrorsCrossTheWire(t *testing.T) {
	for _, known := range []error{fs.ErrNotExist, core.ErrCondition, core.ErrUnsupported, core.ErrForeign, context.Canceled, context.DeadlineExceeded} {
		sent := fmt.Errorf("get a/b: %w", known)
		got := decodeError(encodeError(sent))
		if !errors.Is(got, known) || got.Error() != sent.Error() {
			t.Errorf("%v became %v", sent, got)
		}
	}
	if reason, ok := core.IsSkip(decodeError(encodeError(fmt.Errorf("plan: %w", core.Skipf("busy until %d", 7))))); !ok || reason != "busy until 7" {
		t.Errorf("a SkipError became %q, %v", reason, ok)
	}
	plain := decodeError(encodeError(errors.New("disk \xff full")))
	if plain.Error() != "disk \uFFFD full" || errors.Is(plain, fs.ErrNotExist) {
		t.Errorf("a plain error became %q", plain)
	}
	if got := decodeError(encodeError(errors.New("red \x1b[31malert\r\nnext"))); got.Error() != "red [31malert\nnext" {
		t.Errorf("an error with escapes became %q", got)
	}
	if decodeError(encodeError(nil)) != nil {
		t.Error("no error became one")
	}
	if got := decodeError(encodeError(errors.New(strings.Repeat("x", 1<<20)))); len(got.Error()) > maxErrorText {
		t.Errorf("an error of %d bytes crossed the wire", len(got.Error()))
	}
}

func TestFieldErrorsCrossTheWire(t *testing.T) {
	want := core.FieldErrors{{Field: "machines[2].shard", Msg: "0 is already used by machines[0]:\nsee there"}, {Field: "", Msg: `a "quote"`}}
	var got core.FieldErrors
	if err := decodeError(encodeError(fmt.Errorf("config: %w", want))); !errors.As(err, &got) {
		t.Fatalf("became %T: %v", err, err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	one := core.FieldError{Field: "a", Msg: "b"}
	if err := decodeError(encodeError(one)); !errors.As(err, &got) || len(got) != 1 || got[0] != one {
		t.Errorf("a single FieldError became %v", err)
	}
	// Of a plugin that uses the code for something else, the text is left.
	if err := decodeError(status.Error(codes.InvalidArgument, "no json")); err.Error() != "no json" || errors.As(err, &got) {
		t.Errorf("became %T: %v", err, err)
	}
}

func FuzzDecodeError(f *testing.F) {
	f.Add(uint32(codes.InvalidArgument), `[{"field":"a","msg":"b"}]`)
	f.Add(uint32(codes.InvalidArgument), `[null]`)
	f.Add(uint32(codes.Aborted), "")
	f.Add(uint32(99), "\xff")
	f.Fuzz(func(t *testing.T, code uint32, text string) {
		err := decodeError(status.Error(codes.Code(code), text))
		if (err == nil) != (codes.Code(code) == codes.OK) {
			t.Fatalf("code %d became %v", code, err)
		}
		if err != nil {
			_ = err.Error()
			// What came across once comes across again as it is.
			again := decodeError(encodeError(err))
			if _, skip := core.IsSkip(err); skip {
				if _, ok := core.IsSkip(again); !ok {
					t.Fatalf("%v became %v", err, again)
				}
			}
		}
	})
}

func FuzzTail(f *testing.F) {
	f.Add([]byte("panic: boom\n\ngoroutine 1\n"), 3)
	f.Add([]byte("\x1b[2J\x00no newline"), 1)
	f.Fuzz(func(t *testing.T, said []byte, chunk int) {
		tl := newTail(discardLog(nil))
		w := &lines{to: tl}
		chunk = max(1, chunk%100)
		for i := 0; i < len(said); i += chunk {
			if n, err := w.Write(said[i:min(len(said), i+chunk)]); err != nil || n == 0 {
				t.Fatal(n, err)
			}
		}
		if words := tl.words(); strings.ContainsAny(words, "\x1b\n\r\x00") || len(words) > 4*lineBytes {
			t.Fatalf("last words: %q", words)
		}
		if len(w.part) > 4096 {
			t.Fatal("a line is kept that never ends")
		}
	})
}
