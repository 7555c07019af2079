package jobfile

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae/repo/retention"
)

const whole = `
name: nightly
repository:
  url: /backup/hikae
  password-file: /etc/hikae/nightly.password
  lock: 30d
sources:
  - url: vsphere://backup@vcenter.example.org/
    password-file: /etc/hikae/vcenter.password
    tags: backup:nightly
    include: ["web*", db1]
    exclude: "*-test"
  - name: files
    disks: [system=/vm/a.raw, /vm/b.qcow2]
    force-live: true
guest:
  - vms: "db*"
    ways: ["ssh://root@{vm}.example.org"]
    policy: try
    applications: false
    hold: 5s
exclude: {swap: false, files: "**/tmp/**"}
compression: better
limits:
  tasks: 8
  hosts: {"*": 2, esx1: 1}
  datastores: {"*": 4}
  proxies: {build1: 3}
  repositories: {/backup: 6}
  rate: 100MiB/s
retry: {attempts: 2, first: 1s, most: 1m}
schedule:
  at: [daily at 22:00, "0 12 * * sat"]
  zone: Europe/Berlin
  catch-up: 0
window:
  open: ["mon-fri 20:00-06:00", "sat,sun"]
  at-close: stop
retention:
  keep: {last: 3, daily: 14, weekly: all, within: 2d}
  prune: true
copies:
  - repository: {url: "s3://s3.example.org/bucket/hikae", password-env: OTHER}
    retention: {keep: "monthly=12", zone: UTC}
verify: {data: 5%}
boot-check: {vms: "web*", wait-for: [agent, "tcp:22"]}
replicas: [{to: /srv/replicas, vms: "web*", keep: 4, rate: 100MiB/s}]
hooks:
  - when: before-job
    run: [/usr/local/bin/warm-up, --all]
    on-failure: stop
  - when: after-job
    if: [failed, warned]
    url: https://hooks.example.org/in
    secret-file: /etc/hikae/hook.secret
report: {html: "/var/lib/hikae/{job}-{date}.html"}
`

func TestWholeFile(t *testing.T) {
	f, err := Parse("job.yaml", []byte(whole))
	require.NoError(t, err)
	assert.Equal(t, "nightly", f.Name)
	assert.Equal(t, 30*24*time.Hour, time.Duration(f.Repository.Lock))
	assert.Equal(t, Strings{"backup:nightly"}, f.Sources[0].Tags)
	assert.True(t, f.Sources[0].Takes("web7"))
	assert.False(t, f.Sources[0].Takes("web7-test"))
	assert.False(t, f.Sources[0].Takes("db2"))
	assert.Equal(t, []string{"system=/vm/a.raw", "/vm/b.qcow2"}, f.Sources[1].Disks)
	assert.False(t, *f.Guest[0].Applications)
	assert.False(t, *f.Exclude.Swap)
	assert.Nil(t, f.Exclude.Free, "left out: the default")
	assert.Equal(t, map[string]int{"*": 2, "esx1": 1}, f.Limits.Hosts)
	assert.Equal(t, map[string]int{"tasks": 8, "host/*": 2, "host/esx1": 1, "datastore/*": 4, "proxy/build1": 3, "repository//backup": 6}, f.Limits.Of(),
		"R201, R203: as the engine has them")
	assert.Equal(t, retention.Policy{Last: 3, Daily: 14, Weekly: retention.All, Within: 48 * time.Hour}, f.Retention.Keep.Policy)
	assert.Equal(t, "Europe/Berlin", f.Retention.Zone, "the schedule's")
	assert.Equal(t, "UTC", f.Copies[0].Retention.Zone)
	assert.Zero(t, f.Schedule.CatchUp, "said to be none")

	berlin, err := time.LoadLocation("Europe/Berlin")
	require.NoError(t, err)
	next, ok := f.Runs().Next(time.Date(2026, 11, 27, 22, 0, 0, 0, berlin))
	require.True(t, ok)
	assert.Equal(t, "2026-11-28T12:00:00+01:00", next.Format(time.RFC3339))
	open, until := f.Opening().At(time.Date(2026, 11, 27, 21, 0, 0, 0, berlin))
	assert.True(t, open)
	assert.Equal(t, "2026-11-30T00:00:00+01:00", until.Format(time.RFC3339))
}

func TestSmallFile(t *testing.T) {
	f, err := Parse("job.yaml", []byte("name: a\nrepository: {url: r}\nsources: [{url: 'kvm:///q'}]\n"))
	require.NoError(t, err)
	assert.Equal(t, 12*time.Hour, time.Duration(f.Schedule.CatchUp))
	assert.Empty(t, f.Runs())
	assert.True(t, f.Opening().Always())
	assert.True(t, f.Sources[0].Takes("anything"))
}

// Aliases are taken: a password file that five sources have is written once.
func TestAliases(t *testing.T) {
	f, err := Parse("job.yaml", []byte("name: a\nrepository: {url: r}\nsources:\n- {url: 'kvm:///q', include: &all [a, b]}\n- {url: 'kvm:///p', include: *all}\n"))
	require.NoError(t, err)
	assert.Equal(t, Strings{"a", "b"}, f.Sources[1].Include)
}

func TestBounds(t *testing.T) {
	head := "name: a\nrepository: {url: r}\nsources:\n"
	laughs := "a: &a [x,x,x,x,x,x,x,x,x,x]\n"
	for _, c := range "bcdefghi" {
		laughs += string(c) + ": &" + string(c) + " [" + strings.TrimSuffix(strings.Repeat("*"+string(c-1)+",", 10), ",") + "]\n"
	}
	for name, text := range map[string]string{
		"too large":      head + "#" + strings.Repeat("x", MaxBytes),
		"too deep":       "sources: " + strings.Repeat("[", 200) + strings.Repeat("]", 200),
		"too many":       head + strings.Repeat("- {url: 'kvm:///q', include: [a, b, c, d]}\n", 20_000),
		"a billion":      laughs + "sources: [{url: 'kvm:///q', include: *i}]\n",
		"itself":         "sources: &a [*a]\n",
		"two documents":  head + "- {url: 'kvm:///q'}\n---\nname: b\n",
		"nothing":        "",
		"only a comment": "# nothing\n",
		"a list":         "- a\n- b\n",
		"a word":         "hello\n",
	} {
		begun := time.Now()
		_, err := Parse("job.yaml", []byte(text))
		var e *Error
		require.ErrorAs(t, err, &e, name)
		require.LessOrEqual(t, len(e.Problems), maxProblems, name)
		require.Less(t, time.Since(begun), 5*time.Minute, name)
	}
	_, err := Read(filepath.Join(t.TempDir(), "none.yaml"))
	require.ErrorIs(t, err, os.ErrNotExist)
}

// The names that a file has are described, and the copy of the schema for people and editors is the one that is made.
func TestSchema(t *testing.T) {
	const copied = "../../docs/job.schema.json"
	made := Schema()
	if os.Getenv("HIKAE_UPDATE") != "" {
		require.NoError(t, os.WriteFile(copied, made, 0o644))
	}
	have, err := os.ReadFile(copied)
	require.NoError(t, err)
	require.Equal(t, string(made), string(have), "write it anew with HIKAE_UPDATE=1 go test ./job/jobfile")
	require.NotContains(t, string(made), `"description": ""`)
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(whole))
	f.Add([]byte("a: &a [*a]"))
	for _, c := range mistakes {
		f.Add([]byte(c.text))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		file, err := Parse("f", data)
		if err == nil {
			require.NotEmpty(t, file.Name)
			require.NotEmpty(t, file.Sources)
			return
		}
		e, ok := errors.AsType[*Error](err)
		require.True(t, ok)
		require.NotEmpty(t, e.Problems)
		require.LessOrEqual(t, len(e.Problems), maxProblems)
	})
}
