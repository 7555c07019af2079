package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

const jobUnit = "../../packaging/systemd/hikae-job@.service"

// readUnit are the settings of a unit file, by section and name; lists of several lines are one.
func readUnit(t *testing.T, path string) map[string]string {
	t.Helper()
	text, err := os.ReadFile(path)
	require.NoError(t, err)
	section, out := "", map[string]string{}
	for line := range strings.Lines(string(text)) {
		line = strings.TrimSpace(line)
		name, value, setting := strings.Cut(line, "=")
		switch {
		case line == "" || line[0] == '#':
		case line[0] == '[':
			section = strings.Trim(line, "[]")
		default:
			require.True(t, setting && section != "", "%q is no setting", line)
			out[section+"."+name] = strings.TrimSpace(out[section+"."+name] + " " + value)
		}
	}
	return out
}

// R203: the unit of a job says what the tool understands: its command line, its folders, and what an exit status means.
func TestJobUnit(t *testing.T) {
	unit := readUnit(t, jobUnit)
	words := strings.Fields(strings.ReplaceAll(unit["Service.ExecStart"], "%i", "nightly"))
	require.Equal(t, "/usr/local/bin/hikae", words[0])
	m := newMachine(t)
	tl, _ := m.tool()
	cmd, rest, err := tl.root().Find(words[1:])
	require.NoError(t, err)
	require.Equal(t, "hikae job run", cmd.CommandPath())
	require.NoError(t, cmd.ParseFlags(rest))
	require.NoError(t, cmd.ValidateArgs(cmd.Flags().Args()))
	require.NoError(t, cmd.ValidateFlagGroups())
	require.Equal(t, []string{"/etc/hikae/jobs/nightly.yaml"}, cmd.Flags().Args())
	follow, err := cmd.Flags().GetBool("follow")
	require.NoError(t, err)
	require.True(t, follow, "a run that ends would be a service that is over")
	page, err := os.ReadFile("../../docs/jobs.md")
	require.NoError(t, err)
	require.Contains(t, string(page), "`systemctl enable --now hikae-job@nightly` follows\n`/etc/hikae/jobs/nightly.yaml`")

	m.env = map[string]string{}
	for setting := range strings.FieldsSeq(unit["Service.Environment"]) {
		name, value, _ := strings.Cut(setting, "=")
		m.env[name] = value
	}
	tl, _ = m.tool()
	state, err := tl.stateDir()
	require.NoError(t, err)
	require.Equal(t, "/var/lib/"+unit["Service.StateDirectory"], state)
	require.Equal(t, "/var/cache/"+unit["Service.CacheDirectory"], m.env["HIKAE_CACHE_DIR"])
	require.Len(t, m.env, 2)
	require.NotEqual(t, "yes", unit["Service.PrivateTmp"], "QEMU opens by the same path what a backup makes in /var/tmp")
	require.Contains(t, strings.Fields(unit["Service.ReadWritePaths"]), "/var/tmp")
	wrong := filepath.Join(t.TempDir(), "wrong.yaml")
	require.NoError(t, os.WriteFile(wrong, []byte("nmae: nightly\n"), 0o600))
	status, said := newMachine(t).run(t, "job", "run", wrong, "--follow")
	require.Equal(t, unit["Service.RestartPreventExitStatus"], strconv.Itoa(int(status)), said)
}

// systemd itself reads the unit, and has nothing to say about it.
func TestJobUnitBySystemd(t *testing.T) {
	analyze, err := exec.LookPath("systemd-analyze")
	if err != nil {
		t.Skip("needs systemd-analyze")
	}
	text, err := os.ReadFile(jobUnit)
	require.NoError(t, err)
	path := filepath.Join(t.TempDir(), "hikae-job@nightly.service")
	require.NoError(t, os.WriteFile(path, []byte(strings.ReplaceAll(string(text), "/usr/local/bin/hikae", "/bin/true")), 0o600))
	out, err := exec.CommandContext(t.Context(), analyze, "verify", path).CombinedOutput()
	require.NotContains(t, string(out), "hikae-job@", err)
	require.NoError(t, os.WriteFile(path, []byte(strings.ReplaceAll(string(text), "ExecStart=", "ExecStrat=")), 0o600))
	out, _ = exec.CommandContext(t.Context(), analyze, "verify", path).CombinedOutput()
	require.Contains(t, string(out), "hikae-job@", "it would have told")
}

// The line of ExecStart is run, with the unit's environment below a folder of the test, and ended as systemd does it.
func TestJobUnitIsRun(t *testing.T) {
	unit, root := readUnit(t, jobUnit), t.TempDir()
	here := func(text string) string {
		return strings.NewReplacer("%i", "nightly", "=/var/", "="+root+"/var/", "/etc/", root+"/etc/").Replace(text)
	}
	require.NoError(t, os.MkdirAll(root+"/etc/hikae/jobs", 0o700))
	require.NoError(t, os.WriteFile(root+"/etc/hikae/jobs/nightly.yaml", []byte("name: nightly\nrepository: {url: "+root+"/repo}\n"+
		"sources: [{name: a, disks: ["+root+"/a.raw]}]\nschedule: {at: daily at 22:00}\n"), 0o600))
	words := strings.Fields(here(unit["Service.ExecStart"]))
	cmd := exec.Command("hikae", words[1:]...)
	cmd.Env = append(strings.Fields(here(unit["Service.Environment"])), "PATH="+os.Getenv("PATH"), "GORACE=atexit_sleep_ms=0")
	said := &spoken{}
	cmd.Stdout, cmd.Stderr = said, said
	require.NoError(t, cmd.Start())
	overdue := time.AfterFunc(time.Minute, func() { _ = cmd.Process.Kill() })
	defer overdue.Stop()
	require.Eventually(t, func() bool { return strings.Contains(said.String(), "next run") }, 30*time.Second, 10*time.Millisecond)
	require.NoError(t, cmd.Process.Signal(syscall.SIGTERM))
	require.NoError(t, cmd.Wait(), said.String())
	require.FileExists(t, root+"/var/lib/hikae/jobs/nightly.json")
}
