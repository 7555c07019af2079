package winetest

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

const (
	wine       = "/usr/lib/wine/wine64"
	wineserver = "/usr/lib/wine/wineserver64"
	compiler   = "x86_64-w64-mingw32-gcc"
	limit      = 4 * time.Minute // of one step
)

// machine is a Windows of our own.
type machine struct {
	prefix string
	env    []string
}

// boot makes one. It is half a gigabyte, and goes with the test.
func boot(t *testing.T) *machine {
	t.Helper()
	if tier := os.Getenv("HIKAE_TEST_TIER"); tier != "long" && tier != "release" {
		t.Skip("makes a wine prefix of 700 MB: set HIKAE_TEST_TIER=long")
	}
	for _, program := range []string{wine, wineserver} {
		if _, err := os.Stat(program); err != nil {
			t.Skipf("needs %s (Debian: wine64)", program)
		}
	}
	if _, err := exec.LookPath(compiler); err != nil {
		t.Skipf("needs %s (Debian: gcc-mingw-w64-x86-64-win32)", compiler)
	}
	m := &machine{prefix: filepath.Join(t.TempDir(), "prefix")}
	m.env = append(os.Environ(), "WINEPREFIX="+m.prefix, "WINEDEBUG=-all", "DISPLAY=", "WINEDLLOVERRIDES=vssapi=n;mscoree,mshtml=", "HIKAE_FAKE_VSS=1")
	t.Cleanup(func() { // of this prefix alone: those of other prefixes go on
		cmd := exec.Command(wineserver, "-k")
		cmd.Env = m.env
		cmd.Run()
		wait := exec.Command(wineserver, "-w")
		wait.Env = m.env
		wait.Run()
	})
	out, err := m.run(t, wine, "wineboot", "-i")
	require.NoError(t, err, out)
	m.library(t, "bcryptprimitives.dll", "prng.c", "-ladvapi32")
	m.library(t, "vssapi.dll", "vssapi.c", "-lole32", "-loleaut32", "-luuid")
	return m
}

func (m *machine) library(t *testing.T, name, source string, libraries ...string) {
	t.Helper()
	to := filepath.Join(m.prefix, "drive_c", "windows", "system32", name)
	require.NoError(t, ignoreMissing(os.Remove(to))) // wine's own is a link or a stub
	args := append([]string{"-shared", "-O2", "-s", "-Wall", "-Werror", "-o", to, filepath.Join("testdata", source)}, libraries...)
	out, err := m.run(t, compiler, args...)
	require.NoError(t, err, out)
}

func ignoreMissing(err error) error {
	if os.IsNotExist(err) {
		return nil
	}
	return err
}

func (m *machine) run(t *testing.T, name string, args ...string) (string, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	cmd := exec.CommandContext(ctx, name, args...)
	// A file: programs that wine leaves behind would keep a pipe open.
	out, err := os.CreateTemp(t.TempDir(), "")
	require.NoError(t, err)
	defer out.Close()
	cmd.Env, cmd.Stdout, cmd.Stderr = m.env, out, out
	err = cmd.Run()
	text, readErr := os.ReadFile(out.Name())
	require.NoError(t, readErr)
	return string(bytes.ReplaceAll(text, []byte("\r"), nil)), err
}

// build builds a package, or its tests, for Windows.
func build(t *testing.T, words ...string) string {
	t.Helper()
	to := filepath.Join(t.TempDir(), "built.exe")
	cmd := exec.CommandContext(t.Context(), "go", append(words[:len(words)-1:len(words)-1], "-o", to, words[len(words)-1])...)
	cmd.Env = append(os.Environ(), "GOOS=windows", "GOARCH=amd64", "CGO_ENABLED=0")
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, string(out))
	return to
}

var passed = regexp.MustCompile(`(?m)^--- PASS: (\S+)`)

// TestUnderWine runs the tests of five packages, and counts that those ran which need Windows.
func TestUnderWine(t *testing.T) {
	m := boot(t)
	m.env = append(m.env, "HIKAE_HYPERV_EXE=Z:"+strings.ReplaceAll(
		build(t, "build", "-trimpath", "-ldflags=-s -w", "github.com/hikae/hikae/hyperv/helper/hikae-hyperv"), "/", `\`))
	for _, c := range []struct {
		pkg  string
		only string
		want []string
	}{
		{"guest/agent/winsvc", ".", []string{"TestPipeBothWays", "TestPipeFullDuplex", "TestPipeDeadlines", "TestPipeFirst", "TestService", "TestPrivateDir"}},
		{"guest/agent/vss", "Windows", []string{"TestWindowsBackup", "TestWindowsFind", "TestWindowsCheck", "TestWindowsOwn", "TestWindowsAbort", "TestWindowsHangs", "TestWindowsStuck"}},
		{"guest/agent/hikae-agent", "TestPipe", []string{"TestPipeSession", "TestPipeLease", "TestPipeRefuses"}},
		{"hyperv/helper/requester", "Windows", []string{"TestWindowsSession", "TestWindowsVolume", "TestWindowsLeadsOut"}},
		{"hyperv/helper/hikae-hyperv", ".", []string{"TestPipeSession", "TestPipeCut", "TestService"}},
	} {
		t.Run(c.pkg, func(t *testing.T) {
			exe := build(t, "test", "-c", "github.com/hikae/hikae/"+c.pkg)
			out, err := m.run(t, wine, exe, "-test.v", "-test.timeout=180s", "-test.run="+c.only)
			require.NoError(t, err, out)
			var ran []string
			for _, p := range passed.FindAllStringSubmatch(out, -1) {
				ran = append(ran, p[1])
			}
			require.Subset(t, ran, c.want, out)
		})
	}
}

// The program itself starts, says its version and refuses what it does not know.
func TestProgram(t *testing.T) {
	m := boot(t)
	exe := build(t, "build", "-trimpath", "-ldflags=-s -w", "github.com/hikae/hikae/guest/agent/hikae-agent")
	out, err := m.run(t, wine, exe, "version")
	require.NoError(t, err, out)
	require.Contains(t, out, "hikae-agent ")
	_, err = m.run(t, wine, exe, "service", "dance")
	var exit *exec.ExitError
	require.ErrorAs(t, err, &exit)
	require.Equal(t, 2, exit.ExitCode())
}
