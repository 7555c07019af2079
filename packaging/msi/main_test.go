package main

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func needs(t *testing.T, programs ...string) {
	t.Helper()
	for _, p := range programs {
		if _, err := exec.LookPath(p); err != nil {
			t.Skipf("needs %s (Debian: wixl, msitools, osslsigncode)", p)
		}
	}
}

func output(t *testing.T, name string, args ...string) string {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), name, args...).CombinedOutput()
	require.NoError(t, err, string(out))
	return strings.ReplaceAll(string(out), "\r", "")
}

// table is one table of an MSI: rows of columns, without its three lines of heading.
func table(t *testing.T, msi, name string) (rows [][]string) {
	t.Helper()
	lines := strings.Split(strings.TrimRight(output(t, "msiinfo", "export", msi, name), "\n"), "\n")
	require.Greater(t, len(lines), 3, name)
	for _, line := range lines[3:] {
		rows = append(rows, strings.Split(line, "\t"))
	}
	return rows
}

// program is something that can be packed and, as far as signing is concerned, a Windows program.
func program(t *testing.T) string {
	t.Helper()
	to := filepath.Join(t.TempDir(), "built.exe")
	dir := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(dir, "main.go"), []byte("package main\nfunc main() {}\n"), 0o600))
	cmd := exec.CommandContext(t.Context(), "go", "build", "-ldflags=-s -w", "-o", to, filepath.Join(dir, "main.go"))
	cmd.Env = append(os.Environ(), "GOOS=windows", "GOARCH=amd64", "CGO_ENABLED=0", "GOFLAGS=-mod=mod", "GO111MODULE=off")
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, string(out))
	return to
}

// R131, R132, R134, R135: the MSI has the program byte for byte, one service, and nothing that a policy cannot install.
func TestBuild(t *testing.T) {
	t.Parallel()
	needs(t, "wixl", "msibuild", "msiinfo", "msiextract")
	exe, msi := filepath.Join(t.TempDir(), "any.exe"), filepath.Join(t.TempDir(), "a.msi")
	want := bytes.Repeat([]byte("MZ not a program\x00"), 5000)
	require.NoError(t, os.WriteFile(exe, want, 0o600))
	require.NoError(t, Build(t.Context(), Options{Program: exe, Version: "1.2.3", Out: msi}))

	into := t.TempDir()
	output(t, "msiextract", "-C", into, msi)
	var found []string
	require.NoError(t, filepath.WalkDir(into, func(name string, d os.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			found = append(found, name)
		}
		return err
	}))
	require.Len(t, found, 1)
	require.Equal(t, "hikae-agent.exe", filepath.Base(found[0]))
	got, err := os.ReadFile(found[0])
	require.NoError(t, err)
	require.True(t, bytes.Equal(want, got))

	services := table(t, msi, "ServiceInstall")
	require.Len(t, services, 1)
	s := services[0]
	require.Equal(t, []string{"hikae-agent", "Hikae installer service", "16", "2", "1"}, s[1:6], "a process of its own, at start")
	require.Empty(t, s[8], "LocalSystem")
	require.Equal(t, "service run", s[10])
	control := table(t, msi, "ServiceControl")
	require.Len(t, control, 1)
	require.Equal(t, []string{"hikae-agent", "163"}, control[0][1:3], "started; stopped either way; deleted at the end")

	properties := map[string]string{}
	for _, row := range table(t, msi, "Property") {
		properties[row[0]] = row[1]
	}
	require.Equal(t, "1.2.3", properties["ProductVersion"])
	require.Equal(t, "1", properties["ALLUSERS"])
	require.Contains(t, strings.Split(properties["SecureCustomProperties"], ";"), "KIT")
	require.Contains(t, output(t, "msiinfo", "suminfo", msi), "x64;1033")
	require.Contains(t, output(t, "msiinfo", "suminfo", msi), "Not yet verified on Windows", "the user sees it")
}

// The steps stand where Windows Installer wants them: what is deferred between InstallInitialize and InstallFinalize, the
// kit laid down before the service starts, an older product gone before anything is put down.
func TestSequence(t *testing.T) {
	t.Parallel()
	needs(t, "wixl", "msibuild", "msiinfo")
	exe, msi := filepath.Join(t.TempDir(), "any.exe"), filepath.Join(t.TempDir(), "a.msi")
	require.NoError(t, os.WriteFile(exe, []byte("MZ"), 0o600))
	require.NoError(t, Build(t.Context(), Options{Program: exe, Version: "255.255.65535", Out: msi}))
	at, when := map[string]int{}, map[string]string{}
	for i, row := range table(t, msi, "InstallExecuteSequence") {
		at[row[0]], when[row[0]] = i+1, row[1]
	}
	order := []string{"FindRelatedProducts", "LaunchConditions", "CostFinalize", "InstallValidate", "ResolveSource", "KitBeside", "InstallInitialize",
		"RemoveExistingProducts", "StopServices", "CleanUp", "DeleteServices", "RemoveFiles", "InstallFiles", "SetUp", "InstallServices", "StartServices", "InstallFinalize"}
	for i, name := range order {
		require.NotZero(t, at[name], name)
		if i > 0 {
			require.Less(t, at[order[i-1]], at[name], "%s before %s", order[i-1], name)
		}
	}
	require.Equal(t, `REMOVE="ALL" AND NOT UPGRADINGPRODUCTCODE`, when["CleanUp"], "an upgrade keeps keys and components")
	require.Equal(t, "NOT REMOVE", when["SetUp"])

	types := map[string][]string{}
	for _, row := range table(t, msi, "CustomAction") {
		types[row[0]] = row[1:4]
	}
	require.Equal(t, map[string][]string{
		"KitBeside": {"51", "KIT", "[SourceDir]kit.json"},
		"SetUp":     {"3090", "AgentProgram", `service setup --kit "[KIT]"`}, // 18 + 0x400 deferred + 0x800 as LocalSystem
		"CleanUp":   {"3154", "AgentProgram", "service clean"},               // and 0x40: a failure ends nothing
	}, types)
}

// What is signed is the program as well as the MSI, and a changed byte shows.
func TestSigned(t *testing.T) {
	t.Parallel()
	needs(t, "wixl", "msibuild", "msiextract", "osslsigncode")
	cert, key := certificate(t)
	msi := filepath.Join(t.TempDir(), "a.msi")
	require.NoError(t, Build(t.Context(), Options{Program: program(t), Version: "0.1.0", Out: msi, Certificate: cert, Key: key}))
	into := t.TempDir()
	output(t, "msiextract", "-C", into, msi)
	exe, err := filepath.Glob(into + "/*/*/hikae-agent.exe")
	require.NoError(t, err)
	if len(exe) == 0 {
		exe, err = filepath.Glob(into + "/*/hikae-agent.exe")
		require.NoError(t, err)
	}
	require.Len(t, exe, 1)
	for _, file := range []string{msi, exe[0]} {
		require.Contains(t, output(t, "osslsigncode", "verify", "-CAfile", cert, "-in", file), "Signature verification: ok")
	}
	data, err := os.ReadFile(exe[0])
	require.NoError(t, err)
	data[len(data)/2] ^= 1
	bad := filepath.Join(t.TempDir(), "bad.exe")
	require.NoError(t, os.WriteFile(bad, data, 0o600))
	require.Error(t, exec.Command("osslsigncode", "verify", "-CAfile", cert, "-in", bad).Run())
}

func TestRefused(t *testing.T) {
	t.Parallel()
	out := filepath.Join(t.TempDir(), "a.msi")
	for _, version := range []string{"", "1.2", "1.2.3.4", "v1.2.3", "256.1.1", "1.2.3-rc1", "1.2.3\n"} {
		require.ErrorContains(t, Build(t.Context(), Options{Version: version, Out: out}), "version", version)
	}
	require.ErrorContains(t, Build(t.Context(), Options{Version: "1.2.3", Out: out, Key: "k"}), "neither")
	require.ErrorIs(t, Build(t.Context(), Options{Version: "1.2.3", Out: out, Program: "/none"}), os.ErrNotExist)
	left, err := os.ReadDir(filepath.Dir(out))
	require.NoError(t, err)
	require.Empty(t, left)
}

// certificate is one for signing code, by itself.
func certificate(t *testing.T) (cert, key string) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "Hikae test"}, NotBefore: time.Now().Add(-time.Hour),
		NotAfter: time.Now().Add(time.Hour), KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageCodeSigning}}
	der, err := x509.CreateCertificate(rand.Reader, template, template, private.Public(), private)
	require.NoError(t, err)
	raw, err := x509.MarshalPKCS8PrivateKey(private)
	require.NoError(t, err)
	dir := t.TempDir()
	cert, key = filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	require.NoError(t, os.WriteFile(cert, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600))
	require.NoError(t, os.WriteFile(key, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: raw}), 0o600))
	return cert, key
}
