package main

import (
	"bytes"
	"context"
	"encoding/hex"
	"encoding/json"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
)

var toolDir string // where it is, once it was built

// tool builds the program that writes repositories, once.
var tool = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "reader")
	if err != nil {
		return "", err
	}
	toolDir = dir
	path := filepath.Join(dir, "hikae.exe")
	out, err := exec.Command("go", "build", "-o", path, "../hikae").CombinedOutput()
	if err != nil {
		return "", &fault{string(out), -1, err, ""}
	}
	return path, nil
})

func TestMain(m *testing.M) {
	status := m.Run()
	if toolDir != "" {
		_ = os.RemoveAll(toolDir)
	}
	os.Exit(status)
}

// sample is a repository, its secrets, and what is in its points.
type sample struct {
	dir    string
	env    map[string]string
	points map[string]map[string][]byte // by id and key of a disk
}

func (s *sample) getenv(name string) string { return s.env[name] }

// run runs the reader in this process.
func (s *sample) run(args ...string) (status int, out, log string) {
	var o, l bytes.Buffer
	status = run(context.Background(), args, s.getenv, &o, &l)
	return status, o.String(), l.String()
}

// makeSample makes a repository with the tool: two points of a VM with an odd disk, an aligned and an empty one.
func makeSample(t *testing.T, secret string) *sample {
	hikae, err := tool()
	require.NoError(t, err)
	top := t.TempDir()
	s := &sample{dir: filepath.Join(top, "repo"), env: map[string]string{}, points: map[string]map[string][]byte{}}
	key := filepath.Join(top, "key")
	require.NoError(t, os.WriteFile(key, []byte(strings.Repeat("5a", 32)), 0o600))
	flag := "--no-encryption"
	switch secret {
	case "passphrase":
		flag = "--json"
		s.env["HIKAE_PASSWORD"] = "correct horse"
	case "key":
		flag = "--key-file=" + key
		s.env["HIKAE_KEY_FILE"] = key
	}
	do := func(args ...string) []byte {
		cmd := exec.CommandContext(t.Context(), hikae, args...)
		cmd.Env = append(os.Environ(), "HIKAE_PASSWORD="+s.env["HIKAE_PASSWORD"], "HIKAE_STATE_DIR="+filepath.Join(top, "state"),
			"HIKAE_CACHE_DIR="+filepath.Join(top, "cache"))
		var stderr bytes.Buffer
		cmd.Stderr = &stderr
		out, err := cmd.Output()
		require.NoError(t, err, "%s %s", out, stderr.String())
		return out
	}
	do("init", "--block-size=64KiB", flag, s.dir)
	random := rand.New(rand.NewChaCha8([32]byte{9}))
	odd := make([]byte, 17*65536+777)
	for i := range 5 * 65536 {
		odd[i] = byte(random.Uint32())
	}
	copy(odd[9*65536:], bytes.Repeat([]byte("a text that is easy to compress. "), 6000))
	disks := map[string][]byte{"odd": odd, "even": bytes.Repeat([]byte{7}, 65536), "empty": {}, "zero": make([]byte, 200000)}
	for range 2 {
		args := []string{"backup", "--json", "--repo", s.dir, "--name", "web 1"}
		if secret == "key" {
			args = append(args, flag)
		}
		content := map[string][]byte{}
		for name, b := range disks {
			path := filepath.Join(top, name+".img")
			require.NoError(t, os.WriteFile(path, b, 0o600))
			args = append(args, name+"="+path)
			content[name] = bytes.Clone(b)
		}
		var result struct{ Point string }
		require.NoError(t, json.Unmarshal(do(args...), &result))
		s.points[result.Point] = content
		copy(odd[70000:], "changed")
	}
	return s
}

// try restores every disk of every point. Each is right to the last byte, or fails without a file; it returns what the
// failures said.
func (s *sample) try(t *testing.T) (failures []string) {
	keys, err := readKeys(s.getenv)
	require.NoError(t, err)
	r, err := openRepository(s.dir, keys)
	if err != nil {
		return []string{err.Error()}
	}
	if r.log.broken != nil {
		failures = append(failures, r.log.broken.Error())
	}
	out := filepath.Join(t.TempDir(), "out")
	for point, disks := range s.points {
		for key, content := range disks {
			if err := r.restore(context.Background(), point, key, out); err != nil {
				require.NoFileExists(t, out)
				require.NoFileExists(t, out+".part")
				failures = append(failures, err.Error())
				continue
			}
			got, err := os.ReadFile(out)
			require.NoError(t, err)
			require.True(t, bytes.Equal(content, got), "disk %s of %s came back wrong", key, point)
			require.NoError(t, os.Remove(out))
		}
	}
	return failures
}

func TestRestoreFresh(t *testing.T) {
	for _, secret := range []string{"none", "passphrase", "key"} {
		t.Run(secret, func(t *testing.T) {
			s := makeSample(t, secret)
			require.Empty(t, s.try(t))
			status, out, log := s.run("check", s.dir)
			require.Equal(t, exitDone, status, "%s%s", out, log)
			for point, disks := range s.points {
				out := filepath.Join(t.TempDir(), "out")
				status, _, log := s.run("restore", s.dir, point, "odd", out)
				require.Equal(t, exitDone, status, log)
				got, err := os.ReadFile(out)
				require.NoError(t, err)
				require.True(t, bytes.Equal(disks["odd"], got))
			}
			status, out, _ = s.run("list", s.dir)
			require.Equal(t, exitDone, status)
			require.Len(t, strings.Split(strings.TrimSpace(out), "\n"), 8)
			if secret != "none" {
				s.env["HIKAE_PASSWORD"], s.env["HIKAE_KEY_FILE"] = "wrong", ""
				status, _, _ = s.run("list", s.dir)
				require.Equal(t, exitFailed, status)
			}
		})
	}
}

// objects gives the names of all objects of a repository, without those of the copies.
func (s *sample) objects(t *testing.T) (names []string) {
	err := filepath.WalkDir(s.dir, func(path string, d fs.DirEntry, err error) error {
		require.NoError(t, err)
		name, _ := filepath.Rel(s.dir, path)
		name = filepath.ToSlash(name)
		if d.Type().IsRegular() && !strings.HasPrefix(name, "copy") && !strings.HasPrefix(name, ".") {
			names = append(names, name)
		}
		return nil
	})
	require.NoError(t, err)
	require.NotEmpty(t, names)
	return names
}

// hurt changes an object under all its names, and gives a function that puts it right again.
func (s *sample) hurt(t *testing.T, name string, change func([]byte) []byte) (mend func()) {
	before := map[string][]byte{}
	for _, place := range places {
		path := filepath.Join(s.dir, filepath.FromSlash(place+name))
		old, err := os.ReadFile(path)
		if err != nil {
			continue
		}
		before[path] = old
		require.NoError(t, os.WriteFile(path, change(bytes.Clone(old)), 0o600))
	}
	return func() {
		for path, old := range before {
			require.NoError(t, os.WriteFile(path, old, 0o600))
		}
	}
}

// TestDamage hurts each object in turn: one byte, which parity mends; every cell, and the file cut off, which it does
// not; and a change under right tags, which the seals must find.
func TestDamage(t *testing.T) {
	for _, secret := range []string{"none", "key"} {
		t.Run(secret, func(t *testing.T) {
			s := makeSample(t, secret)
			random := rand.New(rand.NewChaCha8([32]byte{4}))
			tier := os.Getenv("HIKAE_TEST_TIER")
			for i, name := range s.objects(t) {
				if (i%2 == 0) != (secret == "none") && tier != "long" && tier != "release" {
					continue // each object is hurt in one of the two repositories; the long tier does all
				}
				mend := s.hurt(t, name, func(b []byte) []byte { b[random.IntN(len(b))] ^= 0x10; return b })
				require.Empty(t, s.try(t), name)
				status, _, _ := s.run("check", s.dir)
				require.Equal(t, exitWarnings, status, name)
				mend()

				for what, change := range map[string]func([]byte) []byte{
					"every cell": func(b []byte) []byte {
						for at := 17; at < len(b); at += cellSize {
							b[at] ^= 1
						}
						return b
					},
					"cut off": func(b []byte) []byte { return b[:len(b)/8] },
					"forged":  func(b []byte) []byte { return forge(b, random) },
				} {
					mend := s.hurt(t, name, change)
					failures := s.try(t)
					kind, _, _ := strings.Cut(name, "/")
					if kind != "index" && kind != "anchor" {
						require.NotEmpty(t, failures, "%s, %s", name, what)
					} else {
						require.Empty(t, failures, "%s, %s", name, what)
					}
					for _, f := range failures {
						require.Contains(t, f, name, what)
					}
					mend()
				}
			}
			require.Empty(t, s.try(t))
		})
	}
}

// forge flips the same bit of a stream in every cell that may hold it and puts right tags on.
func forge(b []byte, random *rand.Rand) []byte {
	g, _, _ := readCell(b[:cellSize])
	at := random.IntN(int(g.length))
	if g.n == 1 {
		for c := 0; c < len(b); c += cellSize {
			b[c+at] ^= 4
			seal(b[c : c+cellSize])
		}
		return b
	}
	c := at / payloadSize * cellSize
	b[c+at%payloadSize] ^= 4
	seal(b[c : c+cellSize])
	return b
}

// TestMissing takes each object away.
func TestMissing(t *testing.T) {
	s := makeSample(t, "none")
	for _, name := range s.objects(t) {
		mend := s.hurt(t, name, func([]byte) []byte { return nil })
		for _, place := range places {
			_ = os.Remove(filepath.Join(s.dir, filepath.FromSlash(place+name)))
		}
		s.try(t)
		mend()
	}
	require.Empty(t, s.try(t))
}

func TestUsage(t *testing.T) {
	s := &sample{}
	for _, args := range [][]string{nil, {"list"}, {"restore", "a"}, {"burn", "a"}} {
		status, _, log := s.run(args...)
		require.Equal(t, exitUsage, status)
		require.Equal(t, usage, log)
	}
	status, _, log := s.run("list", t.TempDir())
	require.Equal(t, exitFailed, status)
	require.Contains(t, log, "header")
}

func TestRecipeBounds(t *testing.T) {
	good := unhex(t, "0100"+"00"+"03000000"+"00"+"03000000"+"616263")
	rec, err := parseRecipe(good, 3)
	require.NoError(t, err)
	require.Equal(t, "abc", string(rec.literal))
	for i := range good {
		_, err := parseRecipe(good[:i], 3)
		require.Error(t, err, hex.EncodeToString(good[:i]))
	}
	_, err = parseRecipe(good, 4)
	require.Error(t, err)
}
