package host

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"path"
	"strconv"
	"strings"

	"github.com/pkg/sftp"
	"golang.org/x/crypto/ssh"
)

// remote is a machine over ssh.
type remote struct{ links *links }

func (r *remote) String() string { return r.links.target.String() }
func (r *remote) epoch() int     { return r.links.epoch() }

func (r *remote) close() error {
	r.links.close()
	return nil
}

func (r *remote) exec(ctx context.Context, c command) (int, error) {
	argv := c.argv
	if c.home != "" {
		if strings.Contains(argv[0], "=") {
			return 0, fmt.Errorf("run %q: a program's name must not hold a \"=\"", argv[0])
		}
		argv = append([]string{"env", "-i", "PATH=" + cleanPath, "HOME=" + c.home,
			"USER=" + c.user, "LOGNAME=" + c.user, "LANG=C.UTF-8"}, argv...)
	}
	line, err := shellLine(argv)
	if err != nil {
		return 0, err
	}
	var stdin io.Reader
	if len(c.stdin) > 0 {
		stdin = bytes.NewReader(c.stdin)
	}
	return r.run(ctx, "exec "+line, stdin, c)
}

// run gives a line to the login shell.
func (r *remote) run(ctx context.Context, line string, stdin io.Reader, c command) (int, error) {
	s, k, err := r.links.session(ctx)
	if err != nil {
		return 0, err
	}
	defer r.links.give(k)
	defer s.Close()
	s.Stdin, s.Stdout, s.Stderr = stdin, c.stdout, c.stderr
	ended := make(chan error, 1)
	go func() {
		err := s.Start(line)
		if err == nil {
			err = s.Wait()
		}
		ended <- err
	}()
	select {
	case err = <-ended:
		return r.exit(err)
	case <-ctx.Done():
		if c.end {
			s.Signal(ssh.SIGTERM)
		}
		return 0, context.Cause(ctx)
	}
}

func (r *remote) exit(err error) (int, error) {
	var exited *ssh.ExitError
	switch {
	case err == nil:
		return 0, nil
	case errors.As(err, &exited):
		return exited.ExitStatus(), nil
	}
	return 0, fmt.Errorf("%s: %w: %w", r, ErrCut, err)
}

// script runs lines of POSIX sh, whatever the login shell is.
func (r *remote) script(ctx context.Context, text string, stdin io.Reader) (string, error) {
	var out, errs capped
	line, err := shellLine([]string{"/bin/sh", "-c", text})
	if err != nil {
		return "", err
	}
	exit, err := r.run(ctx, "exec "+line, stdin, command{stdout: &out, stderr: &errs})
	if err != nil {
		return "", err
	}
	if exit != 0 {
		said := lastLine(errs.bytes())
		if said == "" {
			said = lastLine(out.bytes())
		}
		return "", fmt.Errorf("a shell command exits %d: %s", exit, said)
	}
	return string(out.bytes()), nil
}

// probeText is the first look. $1 is the configured root or empty; then, for each platform
// as uname says it, the name of snapfw-host and its size.
const probeText = `
set -f; me=$(id -u); host=$1; shift
printf 'snapfw-probe\n%s\n%s\n%s\n%s\n%s\n' "$(uname -sm)" "$me" "$(id -un)" "$HOME" "$TMPDIR"
b=; z=; u=$(uname -sm)
while [ $# -ge 3 ]; do
	case $u in $1) b=$2 z=$3;; esac
	shift 3
done
unsound() {
	[ -e "$1" ] || [ -L "$1" ] || return 1
	l=$(ls -ldn "$1" 2>&1) || { why=$l; return 0; }
	set -- $l
	case $1 in d*) ;; *) why='is no folder'; return 0;; esac
	case $1 in d????-??-*) ;; *) why='others can write it (chmod go-w)'; return 0;; esac
	[ "$3" = "$me" ] && return 1
	why='belongs to somebody else'
}
look() {
	if unsound "$1"; then printf '0 %s\n%s\n' "$1" "$why"; return; fi
	if unsound "$1/bin"; then printf '0 %s\nbin: %s\n' "$1" "$why"; return; fi
	f=$1/bin/$b; s=1
	if [ -d "$1/jobs" ] || [ -d "$1/guard" ]; then s=2; fi
	if [ -n "$b" ] && [ -f "$f" ] && [ "$(wc -c <"$f")" -eq "$z" ] && "$f" -root "$1" facts >/dev/null 2>&1; then s=3; fi
	printf '%s %s\n\n' "$s" "$1"
}
if [ -n "$host" ]; then look "$host"; exit 0; fi
look /var/lib/snapfw
case $HOME in /*) look "${HOME%/}/.local/lib/snapfw";; esac
case $TMPDIR in /*) ;; *) TMPDIR=/tmp;; esac
look "${TMPDIR%/}/snapfw-$me"
exit 0
`

// unames are what "uname -sm" prints on the platforms that snapfw-host is built for.
var unames = map[string]string{
	"linux/amd64": "Linux x86_64", "linux/arm64": "Linux aarch64", "linux/riscv64": "Linux riscv64",
	"linux/arm": "Linux armv*", "linux/386": "Linux i?86", "linux/ppc64le": "Linux ppc64le", "linux/s390x": "Linux s390x",
}

func (r *remote) probe(ctx context.Context, hostDir string, cores map[string]program) (probed, error) {
	words := []string{"/bin/sh", "-c", probeText, "sh", hostDir}
	for platform, p := range cores {
		if u, ok := unames[platform]; ok {
			words = append(words, u, p.placedName(), strconv.FormatInt(p.size, 10))
		}
	}
	line, err := shellLine(words)
	if err != nil {
		return probed{}, err
	}
	var out, errs capped
	exit, err := r.run(ctx, "exec "+line, nil, command{stdout: &out, stderr: &errs})
	if err != nil {
		return probed{}, err
	}
	p, err := readProbe(out.bytes())
	if err != nil {
		said := lastLine(errs.bytes())
		if said == "" {
			said = lastLine(out.bytes())
		}
		return probed{}, fmt.Errorf("%s: look at the machine (exit %d, %q): %w", r, exit, said, err)
	}
	return p, nil
}

// readProbe reads what probeText prints: the word, uname, uid, user, home, TMPDIR, then two lines
// for each root. It takes nothing for granted: the machine may lie.
func readProbe(out []byte) (probed, error) {
	lines := strings.Split(strings.ReplaceAll(string(out), "\r\n", "\n"), "\n")
	if lines[0] != "snapfw-probe" {
		if strings.Contains(string(out), "snapfw-probe\n") {
			return probed{}, errors.New("its login shell prints text before each command: let ~/.bashrc or what prints it do so only for a terminal (case $- in *i*) …)")
		}
		return probed{}, errors.New("it ran no command: its user needs a POSIX shell as login shell, and sshd must not force another command")
	}
	if len(lines) < 6 {
		return probed{}, errors.New("the answer is cut short")
	}
	var p probed
	p.system, p.arch = platformOf(lines[1])
	uid, err := strconv.Atoi(lines[2])
	if err != nil || uid < 0 {
		return probed{}, fmt.Errorf("%q is no user id", lines[2])
	}
	p.uid, p.user, p.home = uid, lines[3], lines[4]
	if !userName.MatchString(p.user) {
		return probed{}, fmt.Errorf("%q is no user name", p.user)
	}
	if !strings.HasPrefix(p.home, "/") {
		p.home = "/"
	}
	for rest := lines[6:]; len(rest) >= 2; rest = rest[2:] {
		state, dir, ok := strings.Cut(rest[0], " ")
		n, err := strconv.Atoi(state)
		if !ok || err != nil || n < int(rootUnfit) || n > int(rootReady) || !path.IsAbs(dir) || len(p.roots) == 8 {
			return probed{}, fmt.Errorf("%q does not describe a folder", rest[0])
		}
		p.roots = append(p.roots, candidate{path: path.Clean(dir), state: rootState(n), why: rest[1]})
	}
	return p, nil
}

func (r *remote) makeRoot(ctx context.Context, root string) error {
	var b strings.Builder
	fmt.Fprintf(&b, "umask 022; mkdir -p %s || exit 1\n", quote(root))
	for _, f := range rootFolders {
		d := quote(path.Join(root, f.name))
		fmt.Fprintf(&b, "[ -d %s ] || mkdir -m %o %s || [ -d %s ] || exit 1\n", d, f.mode, d, d)
	}
	_, err := r.script(ctx, b.String(), nil)
	return err
}

func (r *remote) has(ctx context.Context, path string, size int64) (bool, error) {
	f := quote(path)
	out, err := r.script(ctx, fmt.Sprintf(`if [ -f %s ] && [ -x %s ] && [ "$(wc -c <%s)" -eq %d ]; then echo yes; fi`, f, f, f, size), nil)
	return strings.TrimSpace(out) == "yes", err
}

func (r *remote) find(ctx context.Context, name string) (string, error) {
	out, err := r.script(ctx, "PATH="+cleanPath+"; command -v "+quote(name)+" || :", nil)
	if err != nil {
		return "", err
	}
	found := strings.TrimSpace(out)
	if !path.IsAbs(found) || strings.ContainsAny(found, "\n\x00") {
		return "", nil
	}
	return found, nil
}

func (r *remote) put(ctx context.Context, p program, dst string) error {
	tmp := tempName(dst)
	err := r.upload(ctx, p, tmp)
	if err == nil {
		err = r.settleUpload(ctx, p, tmp, dst)
	}
	if err != nil {
		// Best effort, and also when ctx has ended; a hidden leftover does no harm.
		r.script(context.WithoutCancel(ctx), "rm -f "+quote(tmp), nil)
	}
	return err
}

// upload writes a program by sftp, or through cat where sshd has no sftp.
func (r *remote) upload(ctx context.Context, p program, tmp string) error {
	body, err := p.open()
	if err != nil {
		return err
	}
	defer body.Close()
	s, k, err := r.links.session(ctx)
	if err != nil {
		return err
	}
	client, err := overSFTP(s)
	if err != nil {
		s.Close()
		r.links.give(k)
		_, err = r.script(ctx, "umask 077; cat >"+quote(tmp), body)
		return err
	}
	defer r.links.give(k)
	defer client.Close()
	stop := context.AfterFunc(ctx, func() { s.Close() })
	defer stop()
	if err := copySFTP(client, tmp, &io.LimitedReader{R: body, N: p.size}); err != nil {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if errors.Is(err, sftp.ErrSSHFxConnectionLost) || errors.Is(err, io.EOF) {
			return fmt.Errorf("%s: %w: %w", r, ErrCut, err)
		}
		return fmt.Errorf("write %s: %w (is the disk full?)", path.Dir(tmp), err)
	}
	return nil
}

func overSFTP(s *ssh.Session) (*sftp.Client, error) {
	w, err := s.StdinPipe()
	if err != nil {
		return nil, err
	}
	out, err := s.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := s.RequestSubsystem("sftp"); err != nil {
		return nil, err
	}
	return sftp.NewClientPipe(out, w, sftp.UseConcurrentWrites(true))
}

// copySFTP writes a file whose size body tells: then sftp keeps many writes under way, which far
// machines need.
func copySFTP(client *sftp.Client, tmp string, body *io.LimitedReader) error {
	f, err := client.Create(tmp)
	if err != nil {
		return err
	}
	_, err = f.ReadFrom(body)
	if err == nil {
		var unknown *sftp.StatusError
		// fsync is an extension that not every server has.
		if serr := f.Sync(); serr != nil && !errors.As(serr, &unknown) {
			err = serr
		}
	}
	return errors.Join(err, f.Close())
}

// settleUpload checks what arrived by the host's sha256sum, or by reading it back, and
// gives it its name.
func (r *remote) settleUpload(ctx context.Context, p program, tmp, dst string) error {
	t, d := quote(tmp), quote(dst)
	out, err := r.script(ctx, fmt.Sprintf(`chmod 755 %s || exit 1
s=$(sha256sum <%s 2>/dev/null) || { echo none; exit 0; }
case $s in %s*) mv -f %s %s && echo placed;; *) echo differs;; esac`, t, t, p.sum, t, d), nil)
	if err != nil {
		return err
	}
	switch strings.TrimSpace(out) {
	case "placed":
		return nil
	case "none":
		h := sha256.New()
		line, err := shellLine([]string{"cat", tmp})
		if err != nil {
			return err
		}
		if _, err := r.run(ctx, "exec "+line, nil, command{stdout: h, stderr: io.Discard}); err != nil {
			return err
		}
		if hex.EncodeToString(h.Sum(nil)) == p.sum {
			_, err := r.script(ctx, fmt.Sprintf("mv -f %s %s", t, d), nil)
			return err
		}
	}
	return changedUnderway(p)
}
