package trust

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
)

// The first call makes a key, the next ones find it.
func TestLoadIdentity(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "not", "there", "yet")
	first, err := LoadIdentity(dir)
	require.NoError(t, err)
	again, err := LoadIdentity(dir)
	require.NoError(t, err)
	require.Equal(t, first.Pin(), again.Pin())
	require.Equal(t, first.PublicKey(), again.PublicKey())
	if runtime.GOOS != "windows" {
		fi, err := os.Stat(filepath.Join(dir, identityFile))
		require.NoError(t, err)
		require.Equal(t, fs.FileMode(0o600), fi.Mode().Perm())
		fi, err = os.Stat(dir)
		require.NoError(t, err)
		require.Equal(t, fs.FileMode(0o700), fi.Mode().Perm())
	}
	require.ElementsMatch(t, []string{identityFile, lockFile}, names(t, dir))
}

func names(t *testing.T, dir string) (out []string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	require.NoError(t, err)
	for _, e := range entries {
		out = append(out, e.Name())
	}
	return out
}

// Any number that come first at once get one key.
func TestLoadIdentityAtOnce(t *testing.T) {
	dir := t.TempDir()
	pins := make([]Pin, 8)
	var wg sync.WaitGroup
	for i := range pins {
		wg.Go(func() {
			if id, err := LoadIdentity(dir); err == nil {
				pins[i] = id.Pin()
			}
		})
	}
	wg.Wait()
	require.NotZero(t, pins[0])
	for _, p := range pins {
		require.Equal(t, pins[0], p)
	}
}

// A key file that is not as it should be is refused and left alone.
func TestBadIdentityFiles(t *testing.T) {
	ec, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	der, err := x509.MarshalPKCS8PrivateKey(ec)
	require.NoError(t, err)
	good, err := LoadIdentity(t.TempDir())
	require.NoError(t, err)
	goodDER, err := x509.MarshalPKCS8PrivateKey(good.key)
	require.NoError(t, err)
	goodPEM := pem.EncodeToMemory(&pem.Block{Type: pemType, Bytes: goodDER})

	for name, data := range map[string][]byte{
		"empty":          nil,
		"no PEM":         []byte("a key"),
		"two blocks":     append(append([]byte{}, goodPEM...), goodPEM...),
		"another kind":   pem.EncodeToMemory(&pem.Block{Type: pemType, Bytes: der}),
		"another block":  pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: goodDER}),
		"torn":           pem.EncodeToMemory(&pem.Block{Type: pemType, Bytes: goodDER[:20]}),
		"torn text":      goodPEM[:len(goodPEM)/2],
		"larger than it": append(goodPEM, make([]byte, maxKeyFile)...),
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			path := filepath.Join(dir, identityFile)
			require.NoError(t, os.WriteFile(path, data, 0o600))
			_, err := LoadIdentity(dir)
			require.ErrorIs(t, err, ErrIdentity)
			require.ErrorContains(t, err, identityFile)
			after, err := os.ReadFile(path)
			require.NoError(t, err)
			require.Equal(t, string(data), string(after))
		})
	}
	t.Run("a folder in its place", func(t *testing.T) {
		dir := t.TempDir()
		require.NoError(t, os.Mkdir(filepath.Join(dir, identityFile), 0o700))
		_, err := LoadIdentity(dir)
		require.ErrorIs(t, err, ErrIdentity)
	})
}

// What others may use is not used, and the error says what to do.
func TestOpenPermissions(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("access lists decide on Windows, not modes")
	}
	dir := t.TempDir()
	_, err := LoadIdentity(dir)
	require.NoError(t, err)
	for _, mode := range []fs.FileMode{0o640, 0o604, 0o660, 0o644} {
		require.NoError(t, os.Chmod(filepath.Join(dir, identityFile), mode))
		_, err = LoadIdentity(dir)
		require.ErrorIs(t, err, ErrIdentity)
		require.ErrorContains(t, err, "chmod 600")
	}
	open := filepath.Join(t.TempDir(), "open")
	require.NoError(t, os.Mkdir(open, 0o700))
	require.NoError(t, os.Chmod(open, 0o777))
	_, err = LoadIdentity(open)
	require.ErrorIs(t, err, fs.ErrPermission)
	_, err = OpenBook(open)
	require.ErrorIs(t, err, fs.ErrPermission)
}

// A change of keys survives a kill between any two of its steps.
func TestRotationFiles(t *testing.T) {
	dir := t.TempDir()
	old, err := LoadIdentity(dir)
	require.NoError(t, err)
	_, err = PendingIdentity(dir)
	require.ErrorIs(t, err, fs.ErrNotExist)
	require.NoError(t, AdoptNext(dir), "nothing to adopt is no error")

	next, err := NextIdentity(dir)
	require.NoError(t, err)
	require.NotEqual(t, old.Pin(), next.Pin())
	again, err := NextIdentity(dir)
	require.NoError(t, err)
	require.Equal(t, next.Pin(), again.Pin(), "after a kill it is the same one")
	now, err := LoadIdentity(dir)
	require.NoError(t, err)
	require.Equal(t, old.Pin(), now.Pin(), "until it is adopted the old one is in use")

	require.NoError(t, AdoptNext(dir))
	now, err = LoadIdentity(dir)
	require.NoError(t, err)
	require.Equal(t, next.Pin(), now.Pin())
	_, err = PendingIdentity(dir)
	require.ErrorIs(t, err, fs.ErrNotExist)
	require.NoError(t, AdoptNext(dir))

	require.NoError(t, os.WriteFile(filepath.Join(dir, nextFile), []byte("damaged"), 0o600))
	require.ErrorIs(t, AdoptNext(dir), ErrIdentity)
	now, err = LoadIdentity(dir)
	require.NoError(t, err)
	require.Equal(t, next.Pin(), now.Pin(), "a damaged one takes no place")
}

// A dead process's half-written key is in nobody's way.
func TestLeftovers(t *testing.T) {
	dir := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(dir, identityFile+".new"), []byte("half a k"), 0o600))
	_, err := LoadIdentity(dir)
	require.NoError(t, err)
	require.ElementsMatch(t, []string{identityFile, lockFile}, names(t, dir))
}

// Keys and tokens print as nothing. (RELIABILITY bar 34)
func TestSecretsPrintAsNothing(t *testing.T) {
	id := fresh(t)
	token := newToken(id.Pin())
	key, err := token.Identity()
	require.NoError(t, err)
	var log strings.Builder
	logger := slog.New(slog.NewJSONHandler(&log, nil))
	logger.Info("x", "id", id, "token", token, "group", slog.GroupValue(slog.Any("t", token)))
	text := slog.New(slog.NewTextHandler(&log, nil))
	text.Info("x", "id", id, "token", token, "key", key)
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%d"} {
		fmt.Fprintf(&log, verb, id)
		fmt.Fprintf(&log, verb, token)
		fmt.Fprintf(&log, verb, &token)
		fmt.Fprintf(&log, verb, []any{id, token})
		fmt.Fprintf(&log, verb, struct{ T Token }{token})
	}
	_, err = json.Marshal(struct{ T Token }{token})
	require.Error(t, err, "a token goes into no document")
	require.Contains(t, log.String(), id.Pin().Short())
	for _, secret := range [][]byte{id.key.Seed(), key.key.Seed(), token.seed[:]} {
		require.NotContains(t, log.String(), fmt.Sprintf("%x", secret))
		require.NotContains(t, log.String(), strings.Trim(fmt.Sprint(secret), "[]"))
		require.NotContains(t, log.String(), base64.StdEncoding.EncodeToString(secret))
		require.NotContains(t, log.String(), tokenCode.EncodeToString(secret)[:40])
	}
	require.NotContains(t, log.String(), tokenPrefix)
}

func TestPins(t *testing.T) {
	p := fresh(t).Pin()
	again, err := ParsePin(p.String())
	require.NoError(t, err)
	require.Equal(t, p, again)
	for _, bad := range []string{"", p.Short(), strings.ToUpper(p.String()), p.String() + "0", p.String()[:70], "sha256:" + strings.Repeat("g", 64), strings.Repeat("0", 71)} {
		_, err := ParsePin(bad)
		require.ErrorIs(t, err, fs.ErrInvalid, bad)
	}
	_, err = PinOf(make([]byte, 31))
	require.ErrorIs(t, err, fs.ErrInvalid)
}
