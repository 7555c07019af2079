package pack

import (
	"bufio"
	"bytes"
	"crypto/ed25519"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func keyPair(t testing.TB, seed byte) (ed25519.PublicKey, ed25519.PrivateKey) {
	t.Helper()
	private := ed25519.NewKeyFromSeed(bytes.Repeat([]byte{seed}, ed25519.SeedSize))
	return private.Public().(ed25519.PublicKey), private
}

func sample(t testing.TB) (whole []byte, public ed25519.PublicKey) {
	t.Helper()
	public, private := keyPair(t, 1)
	whole, err := Make([]byte("a program"), Header{Name: "hikae-agent", Version: "1.4.0", OS: "linux", Arch: "amd64"}, private)
	require.NoError(t, err)
	return whole, public
}

func TestPackage(t *testing.T) {
	whole, public := sample(t)
	path := filepath.Join(t.TempDir(), "a"+Ending)
	require.NoError(t, os.WriteFile(path, whole, 0o600))
	f, err := ReadFile(path)
	require.NoError(t, err)
	require.Equal(t, "a program", string(f.Program))
	require.Equal(t, "1.4.0", f.Version)
	require.NoError(t, f.Verify(f.Signature, []ed25519.PublicKey{public}))

	other, _ := keyPair(t, 2)
	require.ErrorIs(t, f.Verify(f.Signature, []ed25519.PublicKey{other}), ErrSignature)
	require.ErrorIs(t, f.Verify(f.Signature, nil), ErrSignature)
	require.ErrorIs(t, f.Verify(nil, []ed25519.PublicKey{public}), ErrSignature)
	require.NoError(t, f.Verify(f.Signature, []ed25519.PublicKey{other, public}))

	// The header is read, and not a byte of the program with it.
	r := bufio.NewReader(bytes.NewReader(whole))
	_, err = Read(r)
	require.NoError(t, err)
	rest, err := io.ReadAll(r)
	require.NoError(t, err)
	require.Equal(t, "a program", string(rest))
}

// R130: no bit of a package can be changed without being found: in the header by the signature, behind it by the sum.
func TestEveryBitCounts(t *testing.T) {
	whole, public := sample(t)
	for i := range whole {
		for bit := range 8 {
			bad := bytes.Clone(whole)
			bad[i] ^= 1 << bit
			f, err := ReadFrom(bytes.NewReader(bad))
			if err == nil {
				err = f.Verify(f.Signature, []ed25519.PublicKey{public})
			}
			require.Error(t, err, "byte %d bit %d", i, bit)
		}
	}
	for n := range whole {
		_, err := ReadFrom(bytes.NewReader(whole[:n]))
		require.Error(t, err, "cut after %d bytes", n)
	}
	_, err := ReadFrom(bytes.NewReader(append(bytes.Clone(whole), 'x')))
	require.ErrorIs(t, err, ErrContent)
}

func TestVersions(t *testing.T) {
	ordered := []string{"0.0.1", "0.0.2", "0.0.10", "0.1.0", "0.9.9", "1.0.0", "1.0.1", "1.10.0", "2.0.0", "999999999.0.0"}
	for i, a := range ordered {
		for j, b := range ordered {
			got, err := Compare(a, b)
			require.NoError(t, err)
			require.Equal(t, i < j, got < 0, "%s %s", a, b)
			require.Equal(t, i == j, got == 0, "%s %s", a, b)
		}
	}
	for _, wrong := range []string{"", "1", "1.2", "1.2.3.4", "01.2.3", "1.2.3-rc1", "1.2.x", "-1.0.0", "1.2.9999999999", "1.2.3\n"} {
		_, err := Compare(wrong, "1.0.0")
		require.ErrorIs(t, err, ErrForm, wrong)
		_, err = Compare("1.0.0", wrong)
		require.ErrorIs(t, err, ErrForm, wrong)
	}
}

func TestKeys(t *testing.T) {
	public, _ := keyPair(t, 3)
	back, err := ParseKey(KeyText(public))
	require.NoError(t, err)
	require.Equal(t, public, back)
	for _, wrong := range []string{"", "ed25519:", "ed25519:AAAA", "rsa:" + strings.TrimPrefix(KeyText(public), keyPrefix), KeyText(public) + "\n"} {
		_, err := ParseKey(wrong)
		require.ErrorIs(t, err, ErrForm, wrong)
	}
}

func TestMakeRefuses(t *testing.T) {
	_, key := keyPair(t, 1)
	good := Header{Name: "hikae-agent", Version: "1.0.0", OS: "linux", Arch: "amd64"}
	for _, change := range []func(h *Header){
		func(h *Header) { h.Name = "../x" },
		func(h *Header) { h.Name = "a\nsize 1" },
		func(h *Header) { h.OS = "" },
		func(h *Header) { h.Version = "1" },
	} {
		h := good
		change(&h)
		_, err := Make([]byte("x"), h, key)
		require.ErrorIs(t, err, ErrForm)
	}
	_, err := Make(nil, good, key)
	require.ErrorIs(t, err, ErrForm, "an empty program")
	_, err = Make([]byte("x"), good, nil)
	require.Error(t, err)
}

// Whatever is decoded is written as it was read.
func FuzzDecode(f *testing.F) {
	whole, _ := sample(f)
	head := whole[:len(whole)-len("a program")]
	f.Add(head)
	f.Add(bytes.Replace(head, []byte("downgrade no"), []byte("downgrade yes"), 1))
	f.Add(bytes.Replace(head, []byte("size 9"), []byte("size +9"), 1))
	f.Add([]byte(magic))
	f.Fuzz(func(t *testing.T, text []byte) {
		p, err := Decode(text)
		if err != nil {
			require.ErrorIs(t, err, ErrForm)
			return
		}
		require.Equal(t, text, p.Encode())
	})
}
