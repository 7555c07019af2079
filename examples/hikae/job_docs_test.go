package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae/internal/fatdisk"
)

// The first job of docs/jobs.md, run as it stands but for its folders.
func TestJobOfTheGuide(t *testing.T) {
	text, err := os.ReadFile("../../docs/jobs.md")
	require.NoError(t, err)
	_, file, ok := strings.Cut(string(text), "```yaml\n")
	require.True(t, ok)
	file, _, _ = strings.Cut(file, "```")
	dir := t.TempDir()
	file = strings.NewReplacer("/backup/hikae", dir+"/repo", "/etc/hikae/", dir+"/", "/vm/", dir+"/", "/var/lib/hikae/", dir+"/").Replace(file)
	require.NoError(t, os.WriteFile(dir+"/job.yaml", []byte(file), 0o600))
	require.NoError(t, os.WriteFile(dir+"/repository.password", []byte("correct horse battery staple\n"), 0o600))
	for i, name := range []string{"web1", "db1-sda", "db1-sdb"} {
		disk, err := fatdisk.Sample(dir+"/"+name+".raw", 8<<20, uint64(i))
		require.NoError(t, err)
		require.NoError(t, disk.Close())
	}
	m := newMachine(t)
	m.must(t, "init", "--password-file", dir+"/repository.password", dir+"/repo")
	require.Contains(t, m.must(t, "job", "plan", dir+"/job.yaml"), "first: 2 VMs into")
	require.Contains(t, m.must(t, "job", "run", dir+"/job.yaml"), "2 of 2 VMs have a new point")
	pages, err := filepath.Glob(dir + "/reports/first-*.html")
	require.NoError(t, err)
	require.Len(t, pages, 1)
	page, err := os.ReadFile(pages[0])
	require.NoError(t, err)
	require.Contains(t, string(page), "web1")
	require.NotContains(t, string(page), "<script")
}
