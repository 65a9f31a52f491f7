package systemdtest

import (
	"bytes"
	"context"
	"os/exec"
	"strings"
	"testing"
	"time"
)

// TestStops has nodes that do not stop well, as systemd tells it.
func TestStops(t *testing.T) {
	w := newWorld(t)
	root := setting{user: "root"}

	w.behave(map[string]string{"panic-on-term": "once"})
	got := w.wellNow(root)
	if !strings.Contains(got.text, "Result=exit-code") {
		t.Errorf("does not say that the first stop was not clean\n%s", got.text)
	}
	t.Logf("a node that panics once:\n%s", got.lines())

	w.machine.Shell(t, `mkdir -p /run/systemd/system/harmony.service.d
printf '[Service]\nTimeoutStopSec=1\n' >/run/systemd/system/harmony.service.d/test.conf
systemctl daemon-reload`)
	w.behave(map[string]string{"ignore-term": "always"})
	got = w.snapfw(w.config(root), "snapshot", "--publish")
	if got.exit != 1 || !strings.Contains(got.text, "Result=timeout") {
		t.Errorf("a node that systemd kills: exit %d\n%s", got.exit, got.text)
	}
	if !w.answers() {
		t.Errorf("the node is down after a run that failed\n%s", got.text)
	}
	t.Logf("a node that systemd kills: exit %d\n%s", got.exit, got.lines())
	w.behave(map[string]string{})
	w.machine.Shell(t, "rm -r /run/systemd/system/harmony.service.d; systemctl daemon-reload")
	w.wellNow(root)
}

// killed starts a snapshot and kills snapfw as soon as the node is being stopped.
func (w *world) killed(config string) {
	w.Helper()
	w.behave(map[string]string{"ignore-term": "once:2s"})
	ctx, cancel := context.WithTimeout(context.Background(), 4*time.Minute)
	defer cancel()
	cmd, out := w.command(ctx, config, "snapshot", "--publish")
	if err := cmd.Start(); err != nil {
		w.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	w.until("the node is being stopped", func() bool {
		select {
		case err := <-ended:
			w.Fatalf("snapfw ended by itself: %v\n%s", err, out)
		default:
		}
		state, _ := w.machine.Run("systemctl", "show", "-P", "ActiveState", "harmony.service")
		return strings.TrimSpace(state) != "active"
	})
	cmd.Process.Kill()
	<-ended
}

// TestKilled kills snapfw while the node is down. logind ends the login session and all that is in it; the
// guard outlives that.
func TestKilled(t *testing.T) {
	w := newWorld(t)
	w.machine.Shell(t, "printf '%s' '"+sudoersOwner+sudoersOps+"' >/etc/sudoers.d/snapfw; install -d -o ops /var/lib/snapfw; loginctl enable-linger ops")
	for _, s := range []setting{
		{user: "ops", owner: "harmony", lease: "3s"},
		{user: "harmony", lease: "3s"},
		{user: "root", lease: "3s"},
	} {
		before, config := w.life(), w.config(s)
		w.killed(config)
		at := time.Now()
		w.until("the login session is over", func() bool {
			left, err := w.machine.Run("loginctl", "--no-legend", "list-sessions")
			return err == nil && strings.TrimSpace(left) == ""
		})
		over := time.Since(at)
		w.until("the guard has started the node", func() bool { return w.life() != before && w.answers() })
		t.Logf("login as %s: the session was over after %v, the node answered %v after snapfw was killed", s.user,
			over.Round(10*time.Millisecond), time.Since(at).Round(10*time.Millisecond))
		by := w.machine.Shell(t, "cat /var/lib/snapfw/guard/*/1/watch.json ~"+s.user+"/.local/lib/snapfw/guard/*/1/watch.json 2>/dev/null || :")
		if !strings.Contains(by, `"systemd-run"`) {
			t.Errorf("login as %s: the guard was not started by systemd-run: %s", s.user, by)
		}
		got := w.snapfw(config, "snapshot", "--publish")
		if got.exit != 0 {
			t.Errorf("the next run: exit %d\n%s", got.exit, got.text)
		}
		w.published()
		if !strings.Contains(got.text, "the guard on the host started the node again") {
			t.Errorf("the next run does not say what the guard did\n%s", got.text)
		}
		w.machine.Shell(t, `systemctl is-active harmony.service; test -z "$(systemctl list-units --no-legend 'snapfw-guard-*')"`)
		if s.user == "ops" {
			w.machine.Shell(t, "rm -r /var/lib/snapfw")
		}
	}
}

// TestPowerCut cuts the machine's power while the node is down. An enabled unit comes back by
// itself; for one that is not, the guard leaves a line in the crontab.
func TestPowerCut(t *testing.T) {
	w := newWorld(t)
	root := setting{user: "root"}
	w.machine.Shell(t, "systemctl disable harmony.service 2>/dev/null")
	config := w.config(root)
	w.killed(config)
	if line := w.machine.Shell(t, "crontab -l"); !strings.Contains(line, "@reboot /var/lib/snapfw/bin/snapfw-host-") {
		t.Errorf("the crontab of a machine whose node is down: %q", line)
	}
	at := time.Now()
	up := func(m *Machine) error {
		_, err := m.Run("systemctl", "is-active", "test-sshd.service", "cron.service")
		return err
	}
	if err := w.machine.PowerCut(up); err != nil {
		t.Fatalf("the machine does not come up again: %v", err)
	}
	booted := time.Since(at)
	w.until("cron has the guard start the node", w.answers)
	t.Logf("the machine was up %v after the power was cut, the node answered after %v", booted.Round(10*time.Millisecond), time.Since(at).Round(10*time.Millisecond))
	w.until("the crontab is as before", func() bool {
		line, err := w.machine.Run("crontab", "-l")
		return err != nil || strings.TrimSpace(line) == ""
	})
	got := w.snapfw(config, "snapshot", "--publish")
	if got.exit != 0 {
		t.Errorf("the next run: exit %d\n%s", got.exit, got.text)
	}
	t.Logf("the next run:\n%s", got.lines())
}

// TestNothingIsReached sees that the machine keeps its hands off this one, and can be had twice.
func TestNothingIsReached(t *testing.T) {
	at := func(m *Machine) error {
		out, err := m.Run("bash", "-c", "test $$ != 1; cat /proc/1/comm; ls -A /tmp; touch /tmp/there /etc/there")
		if err == nil && !strings.HasPrefix(out, "systemd\n") {
			t.Errorf("process 1 is %q", out)
		}
		return err
	}
	setup := "printf '[Unit]\\nWants=systemd-tmpfiles-clean.service\\n' >/etc/systemd/system/test.target\n"
	for range 2 {
		Boot(t, Options{Setup: setup, Target: "test.target", Ready: at})
	}
	out, err := exec.Command("sh", "-c", "ls /etc/there /tmp/there /oldroot /oldin 2>/dev/null").Output()
	if err == nil || len(bytes.TrimSpace(out)) > 0 {
		t.Errorf("the machine wrote to this one: %s", out)
	}
}
