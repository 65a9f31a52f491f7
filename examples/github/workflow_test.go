// Package github has workflows to copy. These tests run their scripts as a runner does, against a snapfw that
// writes down how it was called and ends as it is told.
package github

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"gopkg.in/yaml.v3"
)

type workflow struct {
	On          map[string]yaml.Node
	Permissions map[string]string
	Jobs        map[string]struct {
		Environment string
		Timeout     int `yaml:"timeout-minutes"`
		Defaults    struct{ Run struct{ Shell string } }
		Env         map[string]string
		Steps       []step
	}
}

type step struct {
	Name, If, Uses, Run, Shell string
	Env                        map[string]string
	With                       map[string]string
}

var files = []string{"snaprelease.yml", "snaprelease-resume.yml"}

func read(t *testing.T, file string) workflow {
	t.Helper()
	body, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var w workflow
	if err := yaml.Unmarshal(body, &w); err != nil {
		t.Fatal(err)
	}
	if len(w.Jobs) != 1 {
		t.Fatalf("%s has %d jobs", file, len(w.Jobs))
	}
	return w
}

func (w workflow) step(t *testing.T, name string) step {
	t.Helper()
	for _, job := range w.Jobs {
		for _, s := range job.Steps {
			if s.Name == name {
				return s
			}
		}
	}
	t.Fatalf("there is no step %q", name)
	return step{}
}

func TestWorkflowsAreSound(t *testing.T) {
	for _, file := range files {
		w := read(t, file)
		if len(w.Permissions) != 1 || w.Permissions["contents"] != "read" {
			t.Errorf("%s: permissions %v", file, w.Permissions)
		}
		for name, job := range w.Jobs {
			if job.Environment == "" || job.Timeout < 360 || job.Defaults.Run.Shell != "bash" || job.Env["SNAPFW_STATE_DIR"] == "" {
				t.Errorf("%s: job %s: %+v", file, name, job)
			}
			var always int
			for _, s := range job.Steps {
				// What a person typed must reach a script as a value only.
				if strings.Contains(s.Run, "${{") {
					t.Errorf("%s: %s: the script holds an expression", file, s.Name)
				}
				if strings.Contains(s.If, "always()") {
					always++
				}
			}
			if always != 2 {
				t.Errorf("%s: the log is kept and the key removed whatever happens; %d steps run always", file, always)
			}
		}
	}
	var inputs struct {
		Inputs map[string]struct{ Type string }
	}
	dispatch := read(t, files[0]).On["workflow_dispatch"]
	if err := dispatch.Decode(&inputs); err != nil {
		t.Fatal(err)
	}
	for name, kind := range map[string]string{"chain": "string", "force": "boolean", "reason": "string", "clear-indexes": "boolean"} {
		if inputs.Inputs[name].Type != kind {
			t.Errorf("input %s is of type %q", name, inputs.Inputs[name].Type)
		}
	}
}

const fake = `#!/bin/sh
{ for word; do printf '%s\0' "$word"; done; printf '\n'; } >>"$FAKE_CALLS"
case $1 in
release)
	[ "$FAKE_EXIT" = 2 ] && exit 2
	printf '{\n  "run": "%s",\n  "chain": "c",\n  "nodes": [\n    {\n      "review": "https://git.example.org/pull/7",\n      "report": "…"\n    }\n  ]\n}\n' "erigon-1"
	exit "$FAKE_EXIT" ;;
show) printf 'run erigon-1\n\n**Verdict: safe**\n\n- 1 file\n' ;;
logs) echo '{"kind":"begun"}' ;;
runs) printf 'RUN STATE EXIT\nrun-3 parked 5\nrun-2 open 0\nrun-1 done 0\n' ;;
resume) case $4 in run-3) exit "$FAKE_EXIT" ;; *) exit 4 ;; esac ;;
esac
`

// stage is a runner's machine for one script.
type stage struct {
	dir  string
	exit int
	said string
}

func (st stage) read(name string) string {
	body, err := os.ReadFile(filepath.Join(st.dir, name))
	if err != nil {
		return ""
	}
	return string(body)
}

// calls are the command lines that snapfw was given.
func (st stage) calls() (calls [][]string) {
	for line := range strings.SplitSeq(strings.TrimSuffix(st.read("calls"), "\x00\n"), "\x00\n") {
		calls = append(calls, strings.Split(line, "\x00"))
	}
	return calls
}

// run executes a step's script as GitHub does for "shell: bash".
func run(t *testing.T, s step, env ...string) stage {
	t.Helper()
	st := stage{dir: t.TempDir()}
	for _, d := range []string{"bin", "temp", "state", "work"} {
		if err := os.Mkdir(filepath.Join(st.dir, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for name, body := range map[string]string{"bin/snapfw": fake, "script.sh": s.Run, "state/snapshot.log": "a line\n"} {
		if err := os.WriteFile(filepath.Join(st.dir, name), []byte(body), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	cmd := exec.Command("bash", "--noprofile", "--norc", "-eo", "pipefail", filepath.Join(st.dir, "script.sh"))
	cmd.Dir = filepath.Join(st.dir, "work")
	cmd.Env = append([]string{
		"PATH=" + filepath.Join(st.dir, "bin") + ":" + os.Getenv("PATH"), "RUNNER_TEMP=" + filepath.Join(st.dir, "temp"),
		"SNAPFW_STATE_DIR=" + filepath.Join(st.dir, "state"), "FAKE_CALLS=" + filepath.Join(st.dir, "calls"), "FAKE_EXIT=0",
		"GITHUB_STEP_SUMMARY=" + filepath.Join(st.dir, "summary"), "GITHUB_ENV=" + filepath.Join(st.dir, "env"),
	}, env...)
	out, err := cmd.CombinedOutput()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	st.exit, st.said = cmd.ProcessState.ExitCode(), string(out)
	return st
}

func TestReleaseTakesAWaitForNoFailure(t *testing.T) {
	s := read(t, files[0]).step(t, "Release")
	for _, c := range []struct {
		code string
		want int
		says string
	}{
		{"0", 0, "published"},
		{"5", 0, "waiting for the review: https://git.example.org/pull/7"},
		{"1", 1, "the node is up"},
		{"2", 2, "No run was begun"},
		{"3", 3, "refused"},
		{"4", 4, "another run"},
		{"10", 10, "the node is down"},
		{"130", 130, "exit code 130"},
	} {
		st := run(t, s, "CHAIN=erigon-mainnet", "FORCE=false", "CLEAR_INDEXES=false", "REASON=", "FAKE_EXIT="+c.code)
		summary := st.read("summary")
		if got := st.exit; got != c.want || !strings.Contains(summary, c.says) {
			t.Errorf("snapfw ends with %s: the step with %d\n%s%s", c.code, got, summary, st.said)
		}
		if want := []string{"release", "--config", "snapfw.yaml", "--chain=erigon-mainnet", "--output", "json"}; !slices.Equal(st.calls()[0], want) {
			t.Errorf("called with %q", st.calls()[0])
		}
		if c.code == "2" {
			continue
		}
		if !strings.Contains(summary, "**Verdict: safe**") {
			t.Errorf("the report is not in the summary: %s", summary)
		}
		if st.read("temp/kept/erigon-1.jsonl") == "" || st.read("temp/kept/snapshot.log") == "" {
			t.Errorf("exit code %s: the journal or the log is not kept", c.code)
		}
	}
}

// Inputs are text, whatever they hold.
func TestInputsAreNeverExecuted(t *testing.T) {
	s := read(t, files[0]).step(t, "Release")
	for _, evil := range []string{
		`"; touch pwned; "`, "$(touch pwned)", "`touch pwned`", "' ; touch pwned ; '", "a\ntouch pwned\n", "--config=/tmp/other", "* ? [a]", `%s\n`, "${{ github.token }}",
	} {
		st := run(t, s, "CHAIN="+evil, "FORCE=true", "CLEAR_INDEXES=true", "REASON="+evil)
		want := []string{"release", "--config", "snapfw.yaml", "--chain=" + evil, "--output", "json", "--clear-indexes", "--force", "--reason=" + evil}
		if got := st.calls()[0]; !slices.Equal(got, want) {
			t.Errorf("%q: called with %q", evil, got)
		}
		if left, err := os.ReadDir(filepath.Join(st.dir, "work")); err != nil || len(left) > 0 {
			t.Errorf("%q was executed: %v %v", evil, left, err)
		}
	}
	// Without force the reason is of no use, and with something else than true nothing is forced.
	st := run(t, s, "CHAIN=c", "FORCE=1; true", "CLEAR_INDEXES=", "REASON=why")
	if got := st.calls()[0]; len(got) != 6 {
		t.Errorf("called with %q", got)
	}
}

func TestKeysAreForTheRunnerOnly(t *testing.T) {
	for _, file := range files {
		w := read(t, file)
		st := run(t, w.step(t, "Write the ssh key"), "SSH_KEY=secret $(touch pwned)", "KNOWN_HOSTS=host key")
		if st.exit != 0 || st.read("temp/snapfw/key") != "secret $(touch pwned)\n" || st.read("temp/snapfw/known_hosts") != "host key\n" || strings.Contains(st.said, "secret") {
			t.Errorf("%s: exit code %d: %s", file, st.exit, st.said)
		}
		info, err := os.Stat(filepath.Join(st.dir, "temp/snapfw/key"))
		if err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v %v", file, info, err)
		}
		if env := st.read("env"); !strings.Contains(env, "SNAPFW_SSH_KEY=") || strings.Contains(env, "secret") {
			t.Errorf("%s: the job's environment: %s", file, env)
		}
		if s := w.step(t, "Remove the ssh key"); !strings.Contains(s.Run, `rm -rf "$RUNNER_TEMP/snapfw"`) {
			t.Errorf("%s: %s", file, s.Run)
		}
	}
}

func TestResumeGoesThroughAllThatIsNotOver(t *testing.T) {
	s := read(t, files[1]).step(t, "Resume")
	for code, want := range map[string]int{"0": 0, "5": 0, "4": 0, "3": 3, "1": 1, "10": 10} {
		st := run(t, s, "FAKE_EXIT="+code)
		if st.exit != want {
			t.Errorf("a resume ends with %s: the step with %d: %s", code, st.exit, st.said)
		}
		var resumed []string
		for _, call := range st.calls() {
			if call[0] == "resume" {
				resumed = append(resumed, call[3])
			}
		}
		if !slices.Equal(resumed, []string{"run-3", "run-2"}) {
			t.Errorf("resumed %q", resumed)
		}
		if sum := st.read("summary"); strings.Count(sum, "\n- ")+1 != 2 || !strings.Contains(sum, "- run-2: another job") {
			t.Errorf("summary: %s", sum)
		}
	}
}
