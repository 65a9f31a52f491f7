package systemdtest

import (
	"context"
	"fmt"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"
)

// erigonText gives the machine an Erigon as a service, with TimeoutStopSec=STOP.
const erigonText = `
install -m 755 /oldin/snapfw-erigon-devnet /usr/sbin/snapfw-erigon-devnet
for program in erigon integration; do
	ln -sf snapfw-erigon-devnet /usr/sbin/$program
done
runuser -u erigon -- sh -c 'cd; snapfw-erigon-devnet fill --datadir /home/erigon/data --blocks 112000 --steps 70'
cat >/etc/systemd/system/erigon.service <<END
[Unit]
Description=Erigon
[Service]
Restart=on-failure
RestartSec=1
User=erigon
KillSignal=SIGINT
TimeoutStopSec=STOP
WorkingDirectory=~
ExecStart=/usr/sbin/erigon --datadir /home/erigon/data --chain mainnet --http.port RPCPORT --no-downloader --prune.mode archive --persist.receipts --devnet.block-time 100ms --devnet.blocks 20 --devnet.build-time 1h
[Install]
WantedBy=test.target
END
systemctl enable erigon.service 2>/dev/null
`

func newErigon(t *testing.T, stopTime string) *world {
	return newWorldOf(t, &world{node: "erigon"}, strings.ReplaceAll(erigonText, "STOP", stopTime), map[string]string{"snapfw-erigon-devnet": erigonPath})
}

// erigonConfig is config for a chain of Erigon, reviewed by hand. runs is what runs it.
func (w *world) erigonConfig(user, runs string) string {
	w.Helper()
	w.runs++
	name := fmt.Sprintf("snapfw%d.yaml", w.runs)
	w.write(name, fmt.Sprintf(`state_dir: %[1]s/state%[2]d
ssh: {key: %[1]s/id, known_hosts: [%[1]s/known_hosts]}
sinks:
  bucket: {plugin: rclone, to: "bucket:run%[2]d", config_path_on_host: %[1]s/rclone.conf}
chains:
  erigon:
    ip: 127.0.0.1
    port: %[3]d
    user: %[4]s
    owner: erigon
    datadir: /home/erigon/data
    chain: mainnet
    rpc_port: %[5]d
    %[6]s
    sink: bucket
    stop_timeout: 1m
    guard_lease: 3s
    guard_margin: 10s
    programs: {erigon: /usr/sbin/erigon, integration: /usr/sbin/integration}
`, w.dir, w.runs, w.ssh, user, w.rpc, runs))
	return w.path(name)
}

// approve lets a release through that is parked.
func (w *world) approve(config string, parked said) {
	w.Helper()
	run := regexp.MustCompile(`erigon-[0-9]{8}-[0-9]{6}-[a-z0-9]+`).FindString(parked.text)
	if got := w.snapfw(config, "approve", run, "--reason", "a test"); got.exit != 0 {
		w.Fatalf("approve: exit %d\n%s", got.exit, got.text)
	}
	if got := w.snapfw(config, "resume", run); got.exit != 0 {
		w.Fatalf("resume: exit %d\n%s", got.exit, got.text)
	}
}

// listed wants a published list.
func (w *world) listed() {
	w.Helper()
	list, err := os.ReadFile(w.path(fmt.Sprintf("bucket/run%d/mainnet.toml", w.runs)))
	if err != nil || strings.Count(string(list), "\n") < 100 {
		w.Errorf("what is published: %v: %.200s", err, list)
	}
}

// TestErigonAsAService is a release of an Erigon that is a unit: systemd stops it and starts it.
func TestErigonAsAService(t *testing.T) {
	w := newErigon(t, "15min")
	config := w.erigonConfig("root", "service: erigon")
	before := w.life()
	got := w.snapfw(config, "release")
	if got.exit != 5 {
		t.Fatalf("exit %d\n%s", got.exit, got.text)
	}
	between := w.life()
	if between == before || !w.answers() {
		t.Errorf("it was not stopped and started by systemd\n%s", got.text)
	}
	w.approve(config, got)
	if w.life() != between {
		t.Error("it was stopped for what was uploaded already")
	}
	w.listed()
	w.machine.Shell(t, "test -z \"$(find /home/erigon ! -user erigon)\"")

	before = w.life()
	if got = w.snapfw(config, "fix", "index"); got.exit != 0 || w.life() == before || !w.answers() {
		t.Errorf("fix index: exit %d\n%s", got.exit, got.text)
	}
}

// TestErigonUnitIsKilledTooSoon: a unit that systemd kills in the middle of a merge is not stopped.
func TestErigonUnitIsKilledTooSoon(t *testing.T) {
	w := newErigon(t, "5s")
	before := w.life()
	got := w.snapfw(w.erigonConfig("root", "service: erigon"), "release")
	w.untouched(before, got)
	if got.exit == 0 || got.exit == 5 || !strings.Contains(got.text, "TimeoutStopSec") {
		t.Errorf("exit %d\n%s", got.exit, got.text)
	}
}

// TestErigonIsStartedByTheGuard kills snapfw while Erigon's unit is down.
func TestErigonIsStartedByTheGuard(t *testing.T) {
	w := newErigon(t, "15min")
	config := w.erigonConfig("root", "service: erigon")
	before := w.life()
	ctx, cancel := context.WithTimeout(context.Background(), 4*time.Minute)
	defer cancel()
	cmd, out := w.command(ctx, config, "release")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	w.until("Erigon is down", func() bool {
		state, _ := w.machine.Run("systemctl", "show", "-P", "ActiveState", "erigon.service")
		return strings.TrimSpace(state) == "inactive"
	})
	cmd.Process.Kill()
	cmd.Wait()
	at := time.Now()
	w.until("the guard has started Erigon", func() bool { return w.life() != before && w.answers() })
	t.Logf("Erigon answered %v after snapfw was killed\n%s", time.Since(at).Round(10*time.Millisecond), out)
	if got := w.snapfw(config, "release"); got.exit != 5 || !strings.Contains(got.text, "the guard on the host started the node again") {
		t.Errorf("the next run: exit %d\n%s", got.exit, got.text)
	}
}
