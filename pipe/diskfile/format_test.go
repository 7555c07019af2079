package diskfile_test

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae/pipe/diskfile"
)

// TestDetect: by content, never by name; and what is known but not in the table is never taken for raw.
func TestDetect(t *testing.T) {
	formats := diskfile.Formats{diskfile.Raw()}
	at := func(off int, s string) string {
		return strings.Repeat("\x00", off) + s + strings.Repeat("\x00", 8192-off-len(s))
	}
	for content, want := range map[string]string{
		"":                                        "raw",
		"\x33\xc0\x8e\xd0":                        "raw",
		at(0, ""):                                 "raw",
		at(0, "QFI\xfb\x00\x00\x00\x03"):          "qcow2",
		at(0, "QFI\xfb\x00\x00\x00\x01"):          "qcow",
		at(0, "vhdxfile"):                         "vhdx",
		at(0, "conectix"):                         "vhd",
		at(8192-512, "conectix"):                  "vhd",
		at(8192-511, "conectix"):                  "vhd",
		at(8192-513, "conectix"):                  "raw",
		at(0, "KDMV\x01"):                         "vmdk",
		at(0, "COWD"):                             "vmdk",
		at(0, "# Disk DescriptorFile\n"):          "vmdk",
		at(0, "\xbe\xba\xfe\xca\x00\x00\x00\x00"): "vmdk",
		at(64, "\x7f\x10\xda\xbe"):                "vdi",
	} {
		path := filepath.Join(t.TempDir(), "disk.vhdx")
		require.NoError(t, os.WriteFile(path, []byte(content), 0o600))
		f, err := formats.Detect(t.Context(), path)
		if want == "raw" {
			require.NoError(t, err)
			require.Equal(t, "raw", f.Name())
			continue
		}
		var format *diskfile.FormatError
		require.ErrorAs(t, err, &format)
		require.Equal(t, want, format.Format)
		_, err = formats.Open(t.Context(), path, "", nil)
		require.ErrorAs(t, err, &format)
		img, err := formats.Open(t.Context(), path, "raw", nil) // said so, it is raw
		require.NoError(t, err)
		require.NoError(t, img.Close())
	}
	_, err := formats.Open(t.Context(), "no matter", "floppy", nil)
	require.ErrorContains(t, err, `"floppy" is none of raw`)
	_, err = formats.Detect(t.Context(), filepath.Join(t.TempDir(), "no"))
	require.ErrorIs(t, err, os.ErrNotExist)
}

func TestRawFormat(t *testing.T) {
	f := diskfile.Raw()
	path := filepath.Join(t.TempDir(), "disk")
	target, err := f.Create(t.Context(), path, 100, nil)
	require.NoError(t, err)
	_, err = target.WriteAt(t.Context(), bytes.Repeat([]byte("x"), 100), 0)
	require.NoError(t, err)
	require.NoError(t, target.Commit(t.Context()))
	_, err = f.Create(t.Context(), path, 100, nil)
	require.ErrorIs(t, err, os.ErrExist)
	img, err := f.Open(t.Context(), path, nil)
	require.NoError(t, err)
	require.Equal(t, int64(100), img.Size())
	require.NoError(t, img.Close())
}
