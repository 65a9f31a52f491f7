//go:build linux

package onhost

import (
	"fmt"
	"os"
	"os/user"
	"runtime"
	"time"
)

func facts(c *call) error {
	if err := c.want(); err != nil {
		return err
	}
	boot, err := bootID()
	if err != nil {
		return err
	}
	host, err := os.Hostname()
	if err != nil {
		return fmt.Errorf("host name: %w", err)
	}
	u := login()
	return c.print(Facts{
		OS: runtime.GOOS, Arch: runtime.GOARCH,
		User: u.Username, UID: os.Getuid(), Home: u.HomeDir,
		Host: host, Boot: boot, Root: c.root, Now: time.Now(), Systemd: systemdRuns(),
	})
}

// systemdRuns tells whether systemd is PID 1, as sd_booted(3) does.
func systemdRuns() bool {
	fi, err := os.Lstat("/run/systemd/system")
	return err == nil && fi.IsDir()
}

// login is the user that runs this process, even where the user is in no passwd file.
func login() *user.User {
	if u, err := user.Current(); err == nil {
		return u
	}
	uid := fmt.Sprint(os.Getuid())
	u := &user.User{Uid: uid, Gid: fmt.Sprint(os.Getgid()), Username: os.Getenv("USER"), HomeDir: os.Getenv("HOME")}
	if u.Username == "" {
		u.Username = uid
	}
	if u.HomeDir == "" {
		u.HomeDir = "/"
	}
	return u
}
