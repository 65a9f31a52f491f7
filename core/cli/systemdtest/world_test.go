package systemdtest

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/snapfw/snapfw/core/cli/clitest"
)

// sudoers are the lines that an operator adds, for a login user who owns the data (harmony) and for one
// who does not (ops). The documentation names the same.
const (
	sudoersOwner = "harmony ALL=(root) NOPASSWD: /usr/bin/systemctl stop harmony.service, /usr/bin/systemctl start harmony.service\n"
	sudoersOps   = "ops ALL=(root) NOPASSWD: /usr/bin/systemctl stop harmony.service, /usr/bin/systemctl start harmony.service\n" +
		"ops ALL=(harmony) NOPASSWD: ALL\n"
)

// machineText makes a machine as operators have them: a user for the node, whose home nobody else can enter, and one for
// ops; logind ends what a session leaves.
const machineText = `
rm -f /root/.bash* /root/.profile # what this machine's root has his shell do
cp -a /etc/skel/. /root/
for user in NODE ops; do
	useradd --create-home --shell /bin/bash $user
	chmod 700 /home/$user
done
mkdir -p /root/.ssh /etc/test /etc/systemd/logind.conf.d
for home in /root /home/NODE /home/ops; do
	mkdir -p -m 700 $home/.ssh
	install -m 600 /oldin/id.pub $home/.ssh/authorized_keys
	chown -R --reference=$home $home/.ssh
done
install -m 600 /oldin/host_key /etc/test/host_key
mkdir -p /var/lib/systemd/linger
touch /var/lib/systemd/linger/NODE
rm -f /etc/sudoers.d/*
rm -rf /var/lib/snapfw /var/log/journal /var/spool/cron/crontabs/*
printf '[Login]\nKillUserProcesses=yes\n' >/etc/systemd/logind.conf.d/test.conf
cat >/etc/test/sshd_config <<END
Port SSHPORT
ListenAddress 127.0.0.1
HostKey /etc/test/host_key
PidFile none
UsePAM yes
PermitRootLogin yes
PasswordAuthentication no
KbdInteractiveAuthentication no
PrintMotd no
UseDNS no
Subsystem sftp internal-sftp
END
cat >/etc/systemd/system/test-sshd.service <<END
[Service]
ExecStart=/usr/sbin/sshd -D -e -f /etc/test/sshd_config
KillMode=process
END
cat >/etc/systemd/system/test.target <<END
[Unit]
Wants=test-sshd.service dbus.socket systemd-logind.service systemd-user-sessions.service systemd-journald.service cron.service
END
`

// harmonyText gives it a node as a service.
const harmonyText = `
install -m 755 /oldin/snapfw-devnet /usr/sbin/harmony
cat >/etc/systemd/system/harmony.service <<END
[Unit]
Description=harmony node
[Service]
Type=simple
Restart=on-failure
RestartSec=1
User=harmony
Group=harmony
WorkingDirectory=~
ExecStart=/usr/sbin/harmony node --shard 0 --datadir /home/harmony --rpc 127.0.0.1:RPCPORT --block-time 200ms --table-size 65536 --write-buffer 65536
[Install]
WantedBy=test.target
END
systemctl enable harmony.service 2>/dev/null
`

// world is a machine with a node, and what snapfw needs on this side of it.
type world struct {
	*testing.T
	node    string // its user, its unit or container, and its chain's driver
	docked  bool   // it is a container
	machine *Machine
	dir     string
	ssh     int
	rpc     int
	runs    int
}

func newWorld(t *testing.T) *world {
	return newWorldOf(t, &world{node: "harmony"}, harmonyText, map[string]string{"snapfw-devnet": devnetPath})
}

// newWorldOf boots a machine with the node of w. setup makes its unit; programs lie in /oldin meanwhile.
func newWorldOf(t *testing.T, w *world, setup string, programs map[string]string) *world {
	t.Parallel()
	if err := Missing(); err == nil {
		if _, err := exec.LookPath("rclone"); err != nil {
			skip(t, errors.New("rclone is not installed (Debian: apt-get install rclone)"))
		}
	}
	w.T, w.dir, w.ssh, w.rpc = t, t.TempDir(), freePort(t), freePort(t)
	for _, key := range []string{"id", "host_key"} {
		if out, err := exec.Command("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", w.path(key)).CombinedOutput(); err != nil {
			skip(t, fmt.Errorf("ssh-keygen: %w: %s", err, out))
		}
	}
	pub, err := os.ReadFile(w.path("host_key.pub"))
	if err != nil {
		t.Fatal(err)
	}
	w.write("known_hosts", fmt.Sprintf("[127.0.0.1]:%d %s", w.ssh, pub))
	w.bucket()
	setup = strings.NewReplacer("SSHPORT", fmt.Sprint(w.ssh), "RPCPORT", fmt.Sprint(w.rpc), "NODE", w.node).Replace(machineText + setup)
	files := maps.Clone(programs)
	files["id.pub"], files["host_key"] = w.path("id.pub"), w.path("host_key")
	began := time.Now()
	w.machine = Boot(t, Options{Setup: setup, Target: "test.target", Ready: w.ready, Files: files})
	t.Cleanup(func() {
		if t.Failed() {
			journal, err := w.machine.Run("journalctl", "--no-pager", "-n", "60")
			t.Logf("the machine said (%v):\n%s%s", err, w.machine.Log(), journal)
		}
	})
	t.Logf("the machine was up after %v", time.Since(began).Round(time.Millisecond))
	return w
}

func (w *world) path(name string) string { return filepath.Join(w.dir, name) }

func (w *world) write(name, text string) {
	w.Helper()
	if err := os.WriteFile(w.path(name), []byte(text), 0o600); err != nil {
		w.Fatal(err)
	}
}

func freePort(t testing.TB) int {
	port, err := clitest.FreePort()
	if err != nil {
		t.Fatal(err)
	}
	return port
}

// ready wants sshd and a node that has a block.
func (w *world) ready(m *Machine) error {
	c, err := net.DialTimeout("tcp", fmt.Sprintf("127.0.0.1:%d", w.ssh), time.Second)
	if err != nil {
		return err
	}
	c.Close()
	out, err := m.Run("systemctl", "is-active", "systemd-logind.service", "dbus.socket", "test-sshd.service", "cron.service", w.node+".service")
	if err != nil {
		return fmt.Errorf("%w: %q", err, out)
	}
	c, err = net.DialTimeout("tcp", fmt.Sprintf("127.0.0.1:%d", w.rpc), time.Second)
	if err != nil {
		return err
	}
	return c.Close()
}

var listening = regexp.MustCompile(`http://127\.0\.0\.1:[0-9]+`)

// bucket is a webdav server on loopback, which the machine reaches too.
func (w *world) bucket() {
	w.Helper()
	if err := os.Mkdir(w.path("bucket"), 0o755); err != nil {
		w.Fatal(err)
	}
	cmd := exec.Command("rclone", "--config", "/dev/null", "serve", "webdav", w.path("bucket"), "--addr", "127.0.0.1:0", "--log-file", w.path("bucket.log"))
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + w.dir}
	if err := cmd.Start(); err != nil {
		w.Fatal(err)
	}
	w.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
	w.until("the bucket listens", func() bool {
		said, _ := os.ReadFile(w.path("bucket.log"))
		url := listening.Find(said)
		if url != nil {
			w.write("rclone.conf", fmt.Sprintf("[bucket]\ntype = webdav\nurl = %s\nvendor = other\n", url))
		}
		return url != nil
	})
}

func (w *world) until(what string, is func() bool) {
	w.Helper()
	end := time.Now().Add(2 * time.Minute)
	for !is() {
		if time.Now().After(end) {
			w.Fatalf("not within 2m: %s", what)
		}
		time.Sleep(50 * time.Millisecond)
	}
}

// setting is how one run reaches the node.
type setting struct {
	user    string
	owner   string
	service string // "" is harmony
	lease   string // "" is 30s
	stop    string // stop_timeout
}

// config writes a configuration with a state folder of its own and returns its path.
func (w *world) config(s setting) string {
	w.Helper()
	w.runs++
	if s.lease == "" {
		s.lease = "30s"
	}
	machine := fmt.Sprintf("{shard: 0, ip: 127.0.0.1, port: %d, user: %s, rpc_port: %d, db_directory: /home/harmony", w.ssh, s.user, w.rpc)
	if w.docked {
		machine += ", container: " + w.node
	}
	for _, kv := range [][2]string{{"owner", s.owner}, {"service", s.service}, {"stop_timeout", s.stop}} {
		if kv[1] != "" {
			machine += ", " + kv[0] + ": " + kv[1]
		}
	}
	name := fmt.Sprintf("snapfw%d.yaml", w.runs)
	w.write(name, fmt.Sprintf(`state_dir: %[1]s/state%[2]d
ssh: {key: %[1]s/id, known_hosts: [%[1]s/known_hosts]}
sinks:
  bucket: {plugin: rclone, to: "bucket:run%[2]d", config_path_on_host: %[1]s/rclone.conf}
chains:
  harmony:
    max_downtime: 30s
    guard_lease: %[3]s
    guard_margin: 10s
    machines: [%[4]s}]
    condition: {network: localnet, role: Validator, max_seconds_since_last_block: 60}
`, w.dir, w.runs, s.lease, machine))
	return w.path(name)
}

// said is how a run of snapfw ended.
type said struct {
	exit int
	text string
}

func (w *world) command(ctx context.Context, config string, words ...string) (*exec.Cmd, *bytes.Buffer) {
	if words[0] != "approve" && words[0] != "resume" { // they name a run
		words = append(words, "--chain", w.node)
	}
	cmd := exec.CommandContext(ctx, snapfwPath, append(words, "--config", config)...)
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + w.dir, "SNAPFW_PLUGINS=" + pluginsDir}
	out := &bytes.Buffer{}
	cmd.Stdout, cmd.Stderr = out, out
	return cmd, out
}

// snapfw runs a command to its end.
func (w *world) snapfw(config string, words ...string) said {
	w.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 4*time.Minute)
	defer cancel()
	cmd, out := w.command(ctx, config, words...)
	err := cmd.Run()
	var exited *exec.ExitError
	if err != nil && !errors.As(err, &exited) || ctx.Err() != nil {
		w.Fatalf("snapfw %v: %v\n%s", words, err, out)
	}
	return said{cmd.ProcessState.ExitCode(), out.String()}
}

// life names the node's process: it changes when the node is stopped and started.
func (w *world) life() string {
	w.Helper()
	if w.docked {
		return w.machine.Shell(w, "docker inspect -f '{{.Id}} {{.State.StartedAt}}' "+w.node)
	}
	return w.machine.Shell(w, "systemctl show -P InvocationID "+w.node+".service")
}

func (w *world) untouched(before string, s said) {
	w.Helper()
	if now := w.life(); now != before {
		w.Errorf("the node was stopped though nothing could be done\n%s", s.text)
	}
}

// answers tells whether the node's RPC is there.
func (w *world) answers() bool {
	c, err := net.DialTimeout("tcp", fmt.Sprintf("127.0.0.1:%d", w.rpc), time.Second)
	if err != nil {
		return false
	}
	c.Close()
	return true
}

// behave tells the node to misbehave.
func (w *world) behave(what map[string]string) {
	w.Helper()
	text, err := json.Marshal(what)
	if err != nil {
		w.Fatal(err)
	}
	w.machine.Shell(w, fmt.Sprintf(`cd /home/harmony; echo '%s' >.behave; chown harmony: .behave; mv .behave behave.json`, text))
}

// published sees that the pointer in the last configuration's bucket names a snapshot that is there.
func (w *world) published() {
	w.Helper()
	bucket := w.path(fmt.Sprintf("bucket/run%d", w.runs))
	body, err := os.ReadFile(filepath.Join(bucket, "pruned/0/latest.json"))
	var pointer struct{ Prefix string }
	if err == nil {
		err = json.Unmarshal(body, &pointer)
	}
	if err != nil || pointer.Prefix == "" {
		w.Fatalf("what is published: %v: %s", err, body)
	}
	if _, err := os.Stat(filepath.Join(bucket, pointer.Prefix, "CURRENT")); err != nil {
		w.Errorf("what latest.json names: %v", err)
	}
}
