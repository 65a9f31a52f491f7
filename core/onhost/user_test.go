//go:build linux

package onhost

import (
	"fmt"
	"os"
	"os/user"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// notRoot makes the binary run as an ordinary user, also where the tests run as root.
func (b *box) notRoot() *user.User {
	b.Helper()
	if os.Getuid() != 0 {
		return login()
	}
	u, err := user.Lookup("nobody")
	if err != nil {
		b.Skip("SKIPPED: run as root, and there is no user nobody to become: " + err.Error())
	}
	uid, _ := strconv.Atoi(u.Uid)
	gid, _ := strconv.Atoi(u.Gid)
	b.cred = &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}
	if err := os.Chown(b.root, uid, gid); err != nil {
		b.Fatal(err)
	}
	return u
}

const sudoStandIn = `#!/bin/sh
if [ -e "$0.refuses" ]; then echo "sudo: a password is required" >&2; exit 1; fi
while [ "$1" != -- ]; do shift; done
shift
exec "$@"`

func TestJobOfAnotherUserThroughSudo(t *testing.T) {
	t.Parallel()
	b := newBox(t)
	b.notRoot()
	b.path = fakes(t, map[string]string{"sudo": sudoStandIn}) + ":/usr/bin:/bin"
	j := sh("r/n/s/1", `echo "$COLOUR ${#TOKEN} $PATH"; exit 6`)
	j.User, j.Env, j.Secrets = "chain-owner", map[string]string{"COLOUR": "blue"}, []string{"TOKEN"}
	res, _ := b.job(j, map[string]string{"TOKEN": "12345"})
	if res.Exit != 6 || res.Stdout != "blue 5 "+cleanPath+"\n" || res.Err != "" {
		t.Errorf("%+v", res)
	}
	slow := sh("r/n/slow/1", "trap 'exit 8' INT; while :; do sleep 0.02; done")
	slow.User, slow.End, slow.Timeout = "chain-owner", "INT", 2*time.Second
	if res, _ := b.job(slow, nil); res.Exit != 8 || !res.TimedOut {
		t.Errorf("%+v", res)
	}
	root := Job{ID: "r/n/root/1", Argv: []string{"/bin/echo", "as root"}, User: "root"}
	if res, _ := b.job(root, nil); res.Stdout != "as root\n" {
		t.Errorf("%+v", res)
	}
	root = Job{ID: "r/n/root/2", Argv: []string{"echo"}, User: "root"}
	if res, _ := b.job(root, nil); !strings.Contains(res.Err, "whole path") {
		t.Errorf("%+v", res)
	}
}

func TestJobWithoutSudo(t *testing.T) {
	t.Parallel()
	b := newBox(t)
	u := b.notRoot()
	path := fakes(t, map[string]string{"sudo": sudoStandIn, "sudo.refuses": ""})
	b.path = path
	j := Job{ID: "r/n/s/1", Argv: []string{"/usr/bin/systemctl", "stop", "x"}, User: "root"}
	want := fmt.Sprintf(`"%s ALL=(root) NOPASSWD: /usr/bin/systemctl stop x"`, u.Username)
	if res, _ := b.job(j, nil); !strings.Contains(res.Err, "a password is required") || !strings.Contains(res.Err, want) {
		t.Errorf("%+v", res)
	}
	j = Job{ID: "r/n/s/2", Argv: []string{"true"}, User: "chain-owner"}
	want = fmt.Sprintf(`"%s ALL=(chain-owner) NOPASSWD: ALL"`, u.Username)
	if res, _ := b.job(j, nil); !strings.Contains(res.Err, want) {
		t.Errorf("%+v", res)
	}
	b.path = fakes(t, nil)
	j.ID = "r/n/s/3"
	if res, _ := b.job(j, nil); !strings.Contains(res.Err, "no sudo") {
		t.Errorf("%+v", res)
	}
}

func TestJobOfAnotherUserByRoot(t *testing.T) {
	t.Parallel()
	if os.Getuid() != 0 {
		t.Skip("SKIPPED: only root becomes another user without sudo")
	}
	b := newBox(t)
	j := sh("r/n/s/1", `id -un; echo "$USER $HOME"; pwd`)
	j.User, j.Dir = "nobody", "/"
	if res, _ := b.job(j, nil); res.Stdout != "nobody\nnobody /nonexistent\n/\n" {
		t.Errorf("%+v", res)
	}
}
