package systemdtest

import (
	"regexp"
	"strings"
	"testing"
	"time"
)

// wellNow wants a snapshot that succeeds, is published, and left the node running.
func (w *world) wellNow(s setting) said {
	w.Helper()
	before := w.life()
	got := w.snapfw(w.config(s), "snapshot", "--publish")
	if got.exit != 0 {
		w.Fatalf("%+v: exit %d\n%s", s, got.exit, got.text)
	}
	if w.life() == before {
		w.Errorf("%+v: the node was not stopped\n%s", s, got.text)
	}
	if !w.answers() {
		w.Errorf("%+v: the node does not answer", s)
	}
	w.published()
	w.owned()
	return got
}

// owned sees that whatever a run left beside the database is its owner's.
func (w *world) owned() {
	w.Helper()
	// The node deletes files meanwhile, and find takes those for somebody else's: what is still there is asked again.
	foreign := w.machine.Shell(w,
		"find /home/harmony ! -user harmony -exec stat -c '%U %n' {} + 2>/dev/null | grep -v '^harmony ' || true")
	if foreign != "" {
		w.Errorf("not the owner's any more: %s", foreign)
	}
}

// lines picks what an operator reads at the end.
func (s said) lines() string {
	var last []string
	for line := range strings.Lines(s.text) {
		if !strings.HasPrefix(line, "time=") {
			last = append(last, line)
		}
	}
	return strings.Join(last, "")
}

// refusedNow wants a run that touches nothing and says what to do.
func (w *world) refusedNow(s setting, exit int, words ...string) said {
	w.Helper()
	before := w.life()
	got := w.snapfw(w.config(s), "snapshot", "--publish")
	w.untouched(before, got)
	if got.exit != exit {
		w.Errorf("%+v: exit %d, want %d\n%s", s, got.exit, exit, got.text)
	}
	for _, word := range words {
		if !strings.Contains(got.text, word) {
			w.Errorf("%+v: does not say %q\n%s", s, word, got.text)
		}
	}
	w.Logf("%+v: exit %d\n%s", s, got.exit, got.lines())
	return got
}

var moveIt = regexp.MustCompile(`sudo (mv -T [^ ]+ /var/lib/snapfw)`)

// TestLogins walks an operator's way: each thing that is missing is said, nothing is stopped for it, and
// what the error says is what helps.
func TestLogins(t *testing.T) {
	w := newWorld(t)
	owner, ops := setting{user: "harmony"}, setting{user: "ops", owner: "harmony"}
	w.refusedNow(owner, 3, "without a password", strings.TrimSpace(sudoersOwner))
	w.refusedNow(ops, 3, "without a password", strings.TrimSpace(strings.Split(sudoersOps, "\n")[0]))
	w.machine.Shell(t, "echo '"+strings.Split(sudoersOps, "\n")[0]+"' >/etc/sudoers.d/snapfw")
	w.refusedNow(ops, 1, strings.TrimSpace(strings.Split(sudoersOps, "\n")[1]))
	w.machine.Shell(t, "printf '%s' '"+sudoersOwner+sudoersOps+"' >/etc/sudoers.d/snapfw; visudo -cf /etc/sudoers.d/snapfw")
	w.refusedNow(setting{user: "harmony", service: "nosuch"}, 3, "nosuch.service is active", "not-found")

	began := time.Now()
	got := w.wellNow(owner)
	t.Logf("login as the owner, %v:\n%s", time.Since(began).Round(time.Millisecond), got.lines())

	got = w.refusedNow(ops, 1, "can't run programs from /home/ops/.local/lib/snapfw")
	advice := moveIt.FindStringSubmatch(got.text)
	if advice == nil {
		t.Fatal("no advice that can be followed")
	}
	w.machine.Shell(t, advice[1])
	w.refusedNow(ops, 1, "KillUserProcesses=yes", "loginctl enable-linger ops")
	w.machine.Shell(t, "loginctl enable-linger ops")
	began = time.Now()
	got = w.wellNow(ops)
	t.Logf("login as somebody else, %v:\n%s", time.Since(began).Round(time.Millisecond), got.lines())

	w.machine.Shell(t, "rm -r /var/lib/snapfw /etc/sudoers.d/snapfw")
	began = time.Now()
	got = w.wellNow(setting{user: "root"})
	t.Logf("login as root, %v:\n%s", time.Since(began).Round(time.Millisecond), got.lines())
}
