package systemdtest

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// dockerText gives the machine a Docker without networks of its own, and a unit that makes the node's container once: NODE, on
// the machine's network, run by the node's user. Login users are in the group docker.
const dockerText = `
rm -rf /var/lib/docker /var/lib/containerd
mkdir -p /etc/docker /root/image/bin
cat >/etc/docker/daemon.json <<END
{"bridge": "none", "iptables": false, "ip6tables": false, "ip-forward": false, "storage-driver": "vfs"}
END
usermod --append --groups docker ops
chmod 755 /home/NODE
echo 'ops ALL=(NODE) NOPASSWD: ALL' >/etc/sudoers.d/snapfw
touch /var/lib/systemd/linger/ops
install -d -o ops /var/lib/snapfw
install -m 755 /oldin/PROGRAM /root/image/bin/node
cat >/usr/sbin/make-container <<END
set -eu
tar -C /root/image -c . | docker import - node
docker run --pull never --detach --name NODE --network host --volume /home/NODE:/data --user $(id -u NODE):$(id -g NODE) OPTIONS node /bin/node WORDS
touch /var/lib/docker/made
END
cat >/etc/systemd/system/NODE.service <<END
[Unit]
After=docker.service
Requires=docker.service
ConditionPathExists=!/var/lib/docker/made
[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=bash /usr/sbin/make-container
[Install]
WantedBy=test.target
END
systemctl add-wants test.target docker.service 2>/dev/null
systemctl enable NODE.service 2>/dev/null
`

// erigonPrograms are what a release runs beside the container, on few files.
const erigonPrograms = `
install -m 755 /oldin/snapfw-erigon-devnet /usr/sbin/snapfw-erigon-devnet
for program in erigon integration; do
	ln -sf snapfw-erigon-devnet /usr/sbin/$program
done
runuser -u erigon -- sh -c 'cd; snapfw-erigon-devnet fill --datadir /home/erigon/data --blocks 12000 --steps 8'
`

// newContainer boots a machine whose node is a container. options are docker run's, words the node's.
func newContainer(t *testing.T, node, setup, program, options, words string) *world {
	t.Helper()
	if _, err := exec.LookPath("dockerd"); err != nil && Missing() == nil {
		skip(t, errors.New("dockerd is not installed (Debian: apt-get install docker.io)"))
	}
	text := strings.NewReplacer("PROGRAM", "snapfw-"+program, "OPTIONS", options, "WORDS", words).Replace(dockerText)
	w := newWorldOf(t, &world{node: node, docked: true}, text+setup, map[string]string{"snapfw-" + program: filepath.Join(filepath.Dir(devnetPath), "snapfw-"+program)})
	t.Cleanup(func() {
		if t.Failed() {
			said, _ := w.machine.Run("sh", "-c", "docker ps -a; docker inspect -f '{{json .State}}' "+node+"; docker logs "+node+" 2>&1 | tail -20")
			t.Logf("the container:\n%s", said)
		}
	})
	return w
}

// told tells whether the node says that it was told to end, and down whether it has ended.
func (w *world) told() bool {
	said, err := w.machine.Run("sh", "-c", fmt.Sprintf("docker logs --since '%s' %s 2>&1", w.inspect("{{.State.StartedAt}}"), w.node))
	return err == nil && (strings.Contains(said, "Got interrupt") || strings.Contains(said, "got a signal"))
}

func (w *world) down() bool { return w.inspect("{{.State.Running}}") == "false" }

func (w *world) inspect(format string) string {
	w.Helper()
	return w.machine.Shell(w, fmt.Sprintf("docker inspect -f '%s' %s", format, w.node))
}

// killedWhen starts a run and kills snapfw as soon as something is so.
func (w *world) killedWhen(what string, so func() bool, config string, words ...string) {
	w.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 4*time.Minute)
	defer cancel()
	cmd, out := w.command(ctx, config, words...)
	if err := cmd.Start(); err != nil {
		w.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	w.until(what, func() bool {
		select {
		case err := <-ended:
			w.Fatalf("snapfw ended by itself: %v\n%s", err, out)
		default:
		}
		return so()
	})
	cmd.Process.Kill()
	<-ended
}

func newErigonContainer(t *testing.T, options, takes string) *world {
	return newContainer(t, "erigon", erigonPrograms, "erigon-devnet", "--stop-signal SIGINT "+options,
		"erigon --datadir /data/data --chain mainnet --http.port RPCPORT --no-downloader --prune.mode archive --persist.receipts "+
			"--devnet.block-time 100ms --devnet.blocks 20 --devnet.build-time 1h --behave stop-takes="+takes)
}

// TestErigonAsAContainer is a release of an Erigon in a container, whose login user is neither root nor the node's. Its stop takes
// longer than the second after which "docker stop" would kill it.
func TestErigonAsAContainer(t *testing.T) {
	w := newErigonContainer(t, "--restart unless-stopped --stop-timeout 1", "3s")
	before := w.life()
	got := w.snapfw(w.erigonConfig("ops", ""), "release")
	w.untouched(before, got)
	if got.exit == 0 || got.exit == 5 || !strings.Contains(got.text, "runs in a container") {
		t.Errorf("nobody says that it is a container: exit %d\n%s", got.exit, got.text)
	}

	config := w.erigonConfig("ops", "container: erigon")
	if got = w.snapfw(config, "release"); got.exit != 5 {
		t.Fatalf("exit %d\n%s", got.exit, got.text)
	}
	between := w.life()
	if between == before || !w.answers() {
		t.Errorf("it was not stopped and started\n%s", got.text)
	}
	w.approve(config, got)
	if w.life() != between {
		t.Error("it was stopped for what was uploaded already")
	}
	w.listed()
	w.machine.Shell(t, "test -z \"$(find /home/erigon ! -user erigon)\"")
	if got = w.snapfw(config, "fix", "index"); got.exit != 0 || w.life() == between || !w.answers() {
		t.Errorf("fix index: exit %d\n%s", got.exit, got.text)
	}

	// Erigon reads what to do wrong when it starts.
	w.machine.Shell(t, "echo killed-midmerge >/home/erigon/data/behave; docker restart erigon")
	before = w.life()
	got = w.snapfw(config, "release")
	if got.exit != 1 || !strings.Contains(got.text, "exit code 137") || w.life() == before || !w.answers() {
		t.Errorf("a stop that was not clean: exit %d\n%s", got.exit, got.text)
	}
}

// TestErigonContainerIsStartedByTheGuard kills snapfw while the container is being stopped, when "docker start" does nothing, and when
// it is down; and cuts the machine's power then, after which Docker itself starts what is to run always.
func TestErigonContainerIsStartedByTheGuard(t *testing.T) {
	w := newErigonContainer(t, "--restart always", "6s")
	w.machine.Shell(t, "echo slow=50ms >/home/erigon/data/behave") // it is down for as long as it takes to see it
	config := w.erigonConfig("ops", "container: erigon")
	for _, c := range []struct {
		what string
		so   func() bool
		cut  bool
	}{{"Erigon was told to end", w.told, false}, {"Erigon is down", w.down, false}, {"Erigon is down", w.down, true}} {
		before := w.life()
		w.killedWhen(c.what, c.so, config, "fix", "index")
		at := time.Now()
		if c.cut {
			w.cutPower()
		}
		w.until("Erigon was started again", func() bool { return w.life() != before && w.answers() })
		t.Logf("%s, snapfw was killed (power cut: %t), and Erigon answered %v later", c.what, c.cut, time.Since(at).Round(10*time.Millisecond))
		before = w.life()
		got := w.snapfw(config, "resume")
		w.untouched(before, got)
		if got.exit != 1 || !strings.Contains(got.text, "ended before the node was captured") {
			t.Errorf("the run that was killed: exit %d\n%s", got.exit, got.text)
		}
	}
	if got := w.snapfw(config, "fix", "index"); got.exit != 0 {
		t.Errorf("the next run: exit %d\n%s", got.exit, got.text)
	}
}

// cutPower cuts the machine's power and waits until it has booted, Docker with it.
func (w *world) cutPower() {
	w.Helper()
	if err := w.machine.PowerCut(func(m *Machine) error {
		_, err := m.Run("systemctl", "is-active", "test-sshd.service", "cron.service", "docker.service")
		return err
	}); err != nil {
		w.Fatalf("the machine does not come up again: %v", err)
	}
}

// TestHarmonyAsAContainer is snapshots of a Harmony node in a container that Docker does not start again once it was stopped.
func TestHarmonyAsAContainer(t *testing.T) {
	w := newContainer(t, "harmony", "", "devnet", "--restart unless-stopped --stop-timeout 1",
		"node --shard 0 --datadir /data --rpc 127.0.0.1:RPCPORT --block-time 200ms --table-size 65536 --write-buffer 65536")
	ops := setting{user: "ops", owner: "harmony", lease: "3s"}
	w.behave(map[string]string{"panic-on-term": "once"})
	got := w.wellNow(ops)
	if !strings.Contains(got.text, "exit code 2") {
		t.Errorf("does not say that the first stop was not clean\n%s", got.text)
	}

	before := w.life()
	w.behave(map[string]string{"ignore-term": "once:6s"})
	hasty := ops
	hasty.stop = "2s"
	if got = w.snapfw(w.config(hasty), "snapshot", "--publish"); got.exit != 1 || w.life() == before || !w.answers() {
		t.Errorf("a stop that takes longer than it may: exit %d, %s, answers: %t\n%s", got.exit, w.inspect("{{json .State}}"), w.answers(), got.text)
	}

	config := w.config(ops)
	for _, cut := range []bool{false, true} {
		w.behave(map[string]string{"ignore-term": "once:6s"})
		before = w.life()
		w.killedWhen("the node was told to end", w.told, config, "snapshot", "--publish")
		at := time.Now()
		if cut {
			if line := w.machine.Shell(w, "crontab -u ops -l"); !strings.Contains(line, "@reboot /var/lib/snapfw/bin/snapfw-host-") {
				t.Errorf("the crontab of a machine whose node Docker does not start: %q", line)
			}
			w.cutPower()
		}
		w.until("the guard has started the node", func() bool { return w.life() != before && w.answers() })
		t.Logf("the node answered %v after snapfw was killed (power cut: %t)", time.Since(at).Round(10*time.Millisecond), cut)
	}
	if got = w.snapfw(config, "snapshot", "--publish"); got.exit != 0 {
		t.Errorf("the next run: exit %d\n%s", got.exit, got.text)
	}
	w.published()
}
