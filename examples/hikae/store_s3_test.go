package main

import (
	"crypto/sha256"
	"encoding/json"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae/examples/hikae/internal/outcome"
	"github.com/hikae/hikae/repo/store/s3store/s3test"
)

// R013: the main job with a bucket of a real S3 server as repository, plain and with versions. No secret is printed.
func TestRepositoryInABucket(t *testing.T) {
	srv := s3test.Start(t)
	for kind, name := range map[s3test.Kind]string{s3test.Plain: "plain", s3test.Locked: "locked"} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			m := &machine{env: map[string]string{"HIKAE_STATE_DIR": filepath.Join(dir, "state"), "HIKAE_CACHE_DIR": filepath.Join(dir, "cache"),
				"HIKAE_PASSWORD": "a passphrase", "AWS_ACCESS_KEY_ID": srv.AccessKey, "AWS_SECRET_ACCESS_KEY": srv.SecretKey}}
			place := "s3://" + srv.Host + "/" + srv.Bucket(t, kind) + "/hikae?tls=off"
			disk, back := filepath.Join(dir, "disk.raw"), filepath.Join(dir, "back.raw")
			content := make([]byte, 5<<20)
			rand.NewChaCha8([32]byte{1}).Read(content)
			require.NoError(t, os.WriteFile(disk, content, 0o600))

			m.must(t, "init", place)
			status, text := m.run(t, "init", place)
			require.Equal(t, outcome.Failed, status, text)
			var first struct{ Point string }
			require.NoError(t, json.NewDecoder(strings.NewReader(m.must(t, "backup", "--json", "--quiet", "--repo", place, "--name", "web1", disk))).Decode(&first))
			content[1<<20] ^= 1
			require.NoError(t, os.WriteFile(disk, content, 0o600))
			m.must(t, "backup", "--repo", place, "--name", "web1", disk)
			m.must(t, "verify", "--repo", place, "--data", "all")
			m.must(t, "restore", "--repo", place, "web1@latest", "--to", back)
			got, err := os.ReadFile(back)
			require.NoError(t, err)
			require.Equal(t, sha256.Sum256(content), sha256.Sum256(got))
			content[1<<20] ^= 1
			m.must(t, "restore", "--repo", place, first.Point, "--to", back, "--force")
			got, err = os.ReadFile(back)
			require.NoError(t, err)
			require.Equal(t, sha256.Sum256(content), sha256.Sum256(got))
		})
	}
}

// What is wrong with a bucket has a name and a hint, and never a secret.
func TestBucketMistakes(t *testing.T) {
	srv := s3test.Start(t)
	dir := t.TempDir()
	m := &machine{env: map[string]string{"HIKAE_STATE_DIR": dir, "HIKAE_CACHE_DIR": dir, "HIKAE_PASSWORD": "a passphrase",
		"AWS_ACCESS_KEY_ID": srv.AccessKey, "AWS_SECRET_ACCESS_KEY": srv.SecretKey}}
	status, text := m.run(t, "points", "--repo", "s3://"+srv.Host+"/not-there?tls=off")
	require.Equal(t, outcome.Failed, status, text)
	require.Contains(t, text, "does not exist")
	status, text = m.run(t, "points", "--repo", "s3://"+srv.Host+"/"+srv.Bucket(t, s3test.Plain)+"?tls=off")
	require.Equal(t, outcome.Failed, status, text)
	require.Contains(t, text, "no repository")
	status, text = m.run(t, "points", "--repo", "s3://me:wr0ng-secret@"+srv.Host+"/bucket")
	require.Equal(t, outcome.Misused, status, text)
	require.NotContains(t, text, "wr0ng-secret")
	m.env["AWS_SECRET_ACCESS_KEY"] = "wr0ng-secret"
	status, text = m.run(t, "points", "--repo", "s3://"+srv.Host+"/not-there?tls=off")
	require.Equal(t, outcome.Failed, status, text)
	require.Contains(t, text, "AWS_ACCESS_KEY_ID")
	require.NotContains(t, text, "wr0ng-secret")
}
