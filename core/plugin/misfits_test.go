package plugin_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/snapfw/snapfw/core"
	"github.com/snapfw/snapfw/core/plugin"
)

func TestMisfits(t *testing.T) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	script := filepath.Join(t.TempDir(), "snapfw-script")
	if err := os.WriteFile(script, []byte("no program\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	soon := 700 * time.Millisecond
	for name, c := range map[string]struct {
		play   string
		change func(*plugin.Command)
		want   string
	}{
		"rubbish":    {"rubbish", nil, `printed "[2Jhello, I am a plugin" instead of the handshake: it is not a plugin of snapfw`},
		"hang":       {"hang", func(c *plugin.Command) { c.StartTimeout = soon }, `said nothing for 700ms after it was started: it hangs, or it is not a plugin of snapfw; its last words: "waiting for the moon"`},
		"crash":      {"crash", nil, `ended before it said anything (exit status 2): it crashed, or it is not a plugin of snapfw; its last words: "panic: no configuration, no plugin`},
		"quit":       {"quit", nil, `ended before it said anything (exit status 0)`},
		"child":      {"child", nil, `ended before it said anything (exit status 4)`},
		"future":     {"future", nil, `speaks version "7" of the protocol and this snapfw speaks 1`},
		"tcp":        {"tcp", nil, `it listens on tcp, and must listen on a unix socket`},
		"elsewhere":  {"elsewhere", nil, `its socket is not in the folder that PLUGIN_UNIX_SOCKET_DIR names`},
		"silent":     {"silent", func(c *plugin.Command) { c.StartTimeout = soon }, `shook hands and did not answer within 700ms`},
		"sum":        {"chain", func(c *plugin.Command) { c.Sum = strings.Repeat("0", 64) }, `is not the file that was added: its sha256 is `},
		"gone":       {"chain", func(c *plugin.Command) { c.Path = "/nowhere/snapfw-toy" }, `no such file or directory`},
		"no program": {"chain", func(c *plugin.Command) { c.Path = script }, `can't be started: `},
		"relative":   {"chain", func(c *plugin.Command) { c.Path = "snapfw-toy" }, `is not absolute`},
		"kind":       {"chain", func(c *plugin.Command) { c.Kind = core.KindSink }, `plugin toy is a chain, and a sink is wanted here`},
		"name":       {"chain", func(c *plugin.Command) { c.Name = "other" }, `plugin other says that its name is "toy"`},
	} {
		t.Run(name, func(t *testing.T) {
			cmd := command(t, c.play)
			cmd.Path = self
			if c.change != nil {
				c.change(&cmd)
			}
			client, err := plugin.Load(t.Context(), cmd)
			if err == nil {
				client.Close()
				t.Fatal("it was loaded")
			}
			wantText(t, err, c.want)
		})
	}
}
