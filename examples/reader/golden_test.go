package main

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"filippo.io/age"
	"github.com/stretchr/testify/require"
)

// golden describes one of the repositories that package repo keeps for ever.
type golden struct {
	What            string
	Secret          secretVector
	CheckpointEvery uint64
	Points          []struct {
		ID, VM string
		Disks  []struct {
			Key, SHA256 string
			Size        int64
		}
	}
}

// keyring holds a golden's secret.
func (g *golden) keyring(t *testing.T) *keyring {
	switch g.Secret.Type {
	case "none":
		return &keyring{}
	case "passphrase":
		return &keyring{passphrase: []byte(g.Secret.Value)}
	case "keyfile":
		return &keyring{key: unhex(t, g.Secret.Value)}
	}
	require.Equal(t, "age", g.Secret.Type)
	ids, err := age.ParseIdentities(strings.NewReader(g.Secret.Value))
	require.NoError(t, err)
	return &keyring{identities: ids}
}

// unpack puts an archive's files into a folder, and gives their hashes.
func unpack(t *testing.T, archive, dir string) {
	f, err := os.Open(archive)
	require.NoError(t, err)
	defer f.Close()
	z, err := gzip.NewReader(f)
	require.NoError(t, err)
	r := tar.NewReader(z)
	for {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return
		}
		require.NoError(t, err)
		require.True(t, filepath.IsLocal(h.Name), h.Name)
		path := filepath.Join(dir, filepath.FromSlash(h.Name))
		require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o700))
		content, err := io.ReadAll(r)
		require.NoError(t, err)
		require.NoError(t, os.WriteFile(path, content, 0o400))
	}
}

// TestGoldens restores every disk of every golden repository, checks them whole, and holds the annotated dump against what is there.
func TestGoldens(t *testing.T) {
	top := filepath.Join("..", "..", "repo", "testdata", "golden")
	archives, err := filepath.Glob(filepath.Join(top, "*.tar.gz"))
	require.NoError(t, err)
	require.GreaterOrEqual(t, len(archives), 13)
	for _, archive := range archives {
		name := strings.TrimSuffix(archive, ".tar.gz")
		t.Run(filepath.Base(name), func(t *testing.T) {
			raw, err := os.ReadFile(name + ".json")
			require.NoError(t, err)
			var g golden
			require.NoError(t, json.Unmarshal(raw, &g))
			dir := filepath.Join(t.TempDir(), "repo")
			unpack(t, archive, dir)
			r, err := openSample(dir, g.keyring(t), g.CheckpointEvery)
			require.NoError(t, err)
			require.Empty(t, r.log.broken)
			require.Len(t, r.log.points, len(g.Points))
			for _, p := range g.Points {
				for _, d := range p.Disks {
					out := filepath.Join(t.TempDir(), "disk")
					require.NoError(t, r.restore(context.Background(), p.ID, d.Key, out))
					content, err := os.ReadFile(out)
					require.NoError(t, err)
					sum := sha256.Sum256(content)
					require.Equal(t, d.SHA256, hex.EncodeToString(sum[:]), "disk %s of %s", d.Key, p.ID)
				}
			}
			rep, err := r.check(context.Background())
			require.NoError(t, err)
			require.Equal(t, len(g.Points), rep.points)
			if filepath.Base(name) == "bad" {
				require.Len(t, rep.faults, 1, "the pack that was damaged")
			} else {
				require.Empty(t, rep.faults)
				require.Empty(t, rep.mended)
			}
			var dump bytes.Buffer
			require.NoError(t, r.dump(&dump))
			if os.Getenv("HIKAE_MAKE_DUMPS") != "" {
				require.NoError(t, os.WriteFile(name+".txt", dump.Bytes(), 0o644))
			}
			want, err := os.ReadFile(name + ".txt")
			require.NoError(t, err)
			require.Equal(t, string(want), dump.String())
		})
	}
}

// openGolden unpacks a golden repository, hurts it, and opens what is left.
func openGolden(t *testing.T, name string, hurt func(path func(string) string)) *repository {
	base := filepath.Join("..", "..", "repo", "testdata", "golden", name)
	raw, err := os.ReadFile(base + ".json")
	require.NoError(t, err)
	var g golden
	require.NoError(t, json.Unmarshal(raw, &g))
	dir := filepath.Join(t.TempDir(), "repo")
	unpack(t, base+".tar.gz", dir)
	hurt(func(name string) string { return filepath.Join(dir, filepath.FromSlash(name)) })
	r, err := openSample(dir, g.keyring(t), g.CheckpointEvery)
	require.NoError(t, err)
	return r
}

func replaceFile(t *testing.T, path string, content []byte) {
	require.NoError(t, os.RemoveAll(path))
	require.NoError(t, os.WriteFile(path, content, 0o600))
}

// TestPlacesOfARecord: what stands in the place of a record and is not it gives way to a copy that is; junk behind the end is
// nobody's; and where a record is lost, what comes before still counts.
func TestPlacesOfARecord(t *testing.T) {
	r := openGolden(t, "held", func(path func(string) string) {
		other, err := os.ReadFile(path(logName(4)))
		require.NoError(t, err)
		replaceFile(t, path(logName(5)), other)
		replaceFile(t, path(logName(6)), nil)
		replaceFile(t, path("log/ffffffffffffffff"), other[:5000])
		replaceFile(t, path("log/.DS_Store"), []byte("junk"))
	})
	require.NoError(t, r.log.broken)
	require.Len(t, r.log.points, 2)

	r = openGolden(t, "held", func(path func(string) string) {
		for _, place := range places {
			require.NoError(t, os.Remove(path(place+logName(5))))
		}
	})
	require.ErrorIs(t, r.log.broken, errDamaged)
	require.ErrorContains(t, r.log.broken, logName(5))
	require.Len(t, r.log.points, 1)
	_, err := r.find("abc")
	require.ErrorContains(t, err, logName(5), "it may stand behind what is lost")
}

// TestPlacesOfACheckpoint: it is read from any of its places; where the newest is lost, an older one does not bridge the gap.
func TestPlacesOfACheckpoint(t *testing.T) {
	whole := openGolden(t, "checkpoints", func(func(string) string) {})
	newest := checkpointName((whole.log.from + 1) / whole.every)
	for keep, place := range places {
		r := openGolden(t, "checkpoints", func(path func(string) string) {
			for i, p := range places {
				if i != keep {
					replaceFile(t, path(p+newest), []byte("nothing"))
				}
			}
		})
		require.NoError(t, r.log.broken, place)
		require.Equal(t, whole.log.end, r.log.end)
		require.Len(t, r.log.points, len(whole.log.points))
	}
	r := openGolden(t, "checkpoints", func(path func(string) string) {
		for _, p := range places {
			require.NoError(t, os.Remove(path(p+newest)))
		}
	})
	require.ErrorIs(t, r.log.broken, errDamaged)
	require.Less(t, len(r.log.points), len(whole.log.points))
}
