package host

import (
	"bytes"
	"context"
	"io"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// TestAProgramThatIsStillOpenForWritingIsStartedLater: a child forked at the wrong moment may hold
// a binary that was just placed open, and the kernel refuses to run it (ETXTBSY) until that child has exec'ed.
func TestAProgramThatIsStillOpenForWritingIsStartedLater(t *testing.T) {
	body, err := os.ReadFile("/bin/true")
	if err != nil {
		t.Fatal(err)
	}
	name := filepath.Join(t.TempDir(), "true")
	if err := os.WriteFile(name, body, 0o755); err != nil {
		t.Fatal(err)
	}
	busy, err := os.OpenFile(name, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	time.AfterFunc(100*time.Millisecond, func() { busy.Close() })
	var said bytes.Buffer
	exit, err := local{}.exec(context.Background(), command{argv: []string{name}, stdout: io.Discard, stderr: &said})
	if err != nil || exit != 0 {
		t.Fatalf("exit %d, %v, %s", exit, err, said.String())
	}
}
