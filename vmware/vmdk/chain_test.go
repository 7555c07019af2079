package vmdk_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae/pipe"
	"github.com/hikae/hikae/pipe/diskfile"
	"github.com/hikae/hikae/pipe/pipetest"
	"github.com/hikae/hikae/vmware/vmdk"
)

func newRand(seed uint64) *rand.Rand { return rand.New(rand.NewPCG(seed, 1)) }

// text is a descriptor; parent is empty for none.
func text(cid, parentCID, parent, extents string) string {
	s := "# Disk DescriptorFile\nversion=1\nCID=" + cid + "\nparentCID=" + parentCID + "\ncreateType=\"vmfs\"\n"
	if parent != "" {
		s += "parentFileNameHint=\"" + parent + "\"\n"
	}
	return s + extents
}

func put(t testing.TB, dir, name, content string) string {
	t.Helper()
	path := filepath.Join(dir, name)
	require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o755))
	require.NoError(t, os.WriteFile(path, []byte(content), 0o600))
	return path
}

const none = "ffffffff"

// TestChainRefuses: a chain that is not whole is an error, and never zeros.
func TestChainRefuses(t *testing.T) {
	for name, test := range map[string]struct {
		parent, cid, hint string // as the delta has them
		want              any
	}{
		"parent is missing":       {"", "00000001", "base.vmdk", new(*vmdk.ReferenceError)},
		"parent has another id":   {text("00000002", none, "", "RW 2 ZERO"), "00000001", "base.vmdk", new(*vmdk.CIDError)},
		"parent is not named":     {text("00000001", none, "", "RW 2 ZERO"), "00000001", "", new(*vmdk.ReferenceError)},
		"parent's id is not":      {text("00000001", none, "", "RW 2 ZERO"), none, "base.vmdk", new(*vmdk.CorruptError)},
		"parent is the delta":     {"", "00000001", "delta.vmdk", new(*vmdk.ReferenceError)},
		"parent leads back":       {text("00000001", "00000007", "delta.vmdk", "RW 2 ZERO"), "00000001", "base.vmdk", new(*vmdk.ReferenceError)},
		"parent is damaged":       {"rubbish", "00000001", "base.vmdk", new(*vmdk.CorruptError)},
		"parent lacks its extent": {text("00000001", none, "", "RW 2 VMFS \"gone\""), "00000001", "base.vmdk", new(*vmdk.ReferenceError)},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			if test.parent != "" {
				put(t, dir, "base.vmdk", test.parent)
			}
			delta := put(t, dir, "delta.vmdk", text("00000007", test.cid, test.hint, "RW 2 ZERO"))
			_, err := vmdk.Open(t.Context(), delta, nil)
			require.ErrorAs(t, err, test.want)
		})
	}
}

// TestChainDepth: chains have an end.
func TestChainDepth(t *testing.T) {
	dir := t.TempDir()
	for i := range 258 {
		put(t, dir, fmt.Sprintf("%d.vmdk", i), text("00000001", "00000001", fmt.Sprintf("%d.vmdk", i+1), "RW 2 ZERO"))
	}
	_, err := vmdk.Open(t.Context(), filepath.Join(dir, "0.vmdk"), nil)
	var ref *vmdk.ReferenceError
	require.ErrorAs(t, err, &ref)
	require.Contains(t, ref.Reason, "deeper")
	put(t, dir, "255.vmdk", text("00000001", none, "", "RW 2 ZERO"))
	img, err := vmdk.Open(t.Context(), filepath.Join(dir, "0.vmdk"), nil)
	require.NoError(t, err)
	require.Equal(t, 256, img.Info().Depth)
	require.NoError(t, img.Close())
}

// TestChainLoopByLink: a file is known by more than its name.
func TestChainLoopByLink(t *testing.T) {
	dir := t.TempDir()
	path := put(t, dir, "a.vmdk", text("00000001", "00000001", "b.vmdk", "RW 2 ZERO"))
	if err := os.Symlink("a.vmdk", filepath.Join(dir, "b.vmdk")); err != nil {
		t.Skipf("no symbolic links here: %v", err)
	}
	_, err := vmdk.Open(t.Context(), path, nil)
	var ref *vmdk.ReferenceError
	require.ErrorAs(t, err, &ref)
	require.Contains(t, ref.Reason, "leads back")
}

// TestOutside: no file outside of the folder is opened, whatever leads there, and no device (RELIABILITY 1.6).
func TestOutside(t *testing.T) {
	outer := t.TempDir()
	put(t, outer, "secret", "secret"+string(make([]byte, 1018)))
	dir := filepath.Join(outer, "vm")
	require.NoError(t, os.Mkdir(dir, 0o755))
	links := os.Symlink(filepath.Join(outer, "secret"), filepath.Join(dir, "link")) == nil
	for _, name := range []string{"../secret", "../../../../../../etc/shadow", filepath.Join(outer, "secret"), "/dev/null", "link", ".", "x/../../secret"} {
		if name == "link" && !links {
			continue
		}
		for _, line := range []string{"RW 2 FLAT \"%s\" 0", "RW 2 VMFS \"%s\"", "RW 2 SPARSE \"%s\"", "RW 2 VMFSSPARSE \"%s\"", "RW 2 SESPARSE \"%s\""} {
			path := put(t, dir, "disk.vmdk", text("00000001", none, "", fmt.Sprintf(line, name)))
			_, err := vmdk.Open(t.Context(), path, nil)
			var ref *vmdk.ReferenceError
			require.ErrorAs(t, err, &ref, "%s of %s", line, name)
		}
		path := put(t, dir, "disk.vmdk", text("00000001", "00000002", name, "RW 2 ZERO"))
		_, err := vmdk.Open(t.Context(), path, nil)
		var ref *vmdk.ReferenceError
		require.ErrorAs(t, err, &ref, "parent %s", name)
	}
}

// TestDevice: a device in the folder itself is refused, and so is one in an allowed folder.
func TestDevice(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("devices are looked for in /dev")
	}
	devices, err := filepath.Glob("/dev/loop[0-9]*")
	require.NoError(t, err)
	if len(devices) == 0 {
		t.Skip("there is no block device")
	}
	path := put(t, t.TempDir(), "disk.vmdk", text("00000001", none, "", "RW 0 FLAT \""+devices[0]+"\" 0"))
	_, err = vmdk.Open(t.Context(), path, &vmdk.Options{Allow: []string{"/dev"}})
	var ref *vmdk.ReferenceError
	require.ErrorAs(t, err, &ref)
	require.Contains(t, ref.Error(), "device")
}

// TestAllow: a parent in another folder is opened where that is allowed, with its extents beside it.
func TestAllow(t *testing.T) {
	outer := t.TempDir()
	put(t, outer, "template/base.vmdk", text("00000005", none, "", "RW 2 VMFS \"base-flat.vmdk\""))
	put(t, outer, "template/base-flat.vmdk", string(bytes.Repeat([]byte("b"), 1024)))
	for _, hint := range []string{"../template/base.vmdk", filepath.Join(outer, "template", "base.vmdk")} {
		p := piece{sectors: 2, grain: 1, kinds: []int{absent, filled}, content: bytes.Repeat([]byte("d"), 1024)}
		put(t, outer, "clone/delta.vmdk", string(p.cowd(newRand(1))))
		path := put(t, outer, "clone/disk.vmdk", text("00000006", "00000005", hint, "RW 2 VMFSSPARSE \"delta.vmdk\""))
		_, err := vmdk.Open(t.Context(), path, nil)
		var ref *vmdk.ReferenceError
		require.ErrorAs(t, err, &ref, "%s", hint)
		img, err := vmdk.Open(t.Context(), path, &vmdk.Options{Allow: []string{filepath.Join(outer, "template")}})
		require.NoError(t, err, "%s", hint)
		require.Equal(t, append(bytes.Repeat([]byte("b"), 512), bytes.Repeat([]byte("d"), 512)...), readAll(t, img, 700))
		require.Len(t, img.Info().Files, 4)
		require.NoError(t, img.Close())
	}
}

// TestAccess: what is not RW keeps its place; NOACCESS is an error, and never zeros.
func TestAccess(t *testing.T) {
	dir := t.TempDir()
	put(t, dir, "f", string(bytes.Repeat([]byte("x"), 1024)))
	path := put(t, dir, "disk.vmdk", text("00000001", none, "", "RW 3 ZERO\nRDONLY 1 FLAT \"f\" 1\nRW 1 FLAT \"f\" 0\nNOACCESS 1 FLAT \"gone\" 0\n"))
	img, err := vmdk.Open(t.Context(), path, nil)
	require.NoError(t, err)
	defer img.Close()
	p := make([]byte, 5*512)
	_, err = img.ReadAt(t.Context(), p, 0)
	require.NoError(t, err)
	require.Equal(t, append(make([]byte, 1536), bytes.Repeat([]byte("x"), 1024)...), p)
	_, err = img.ReadAt(t.Context(), p[:1], 5*512)
	require.ErrorIs(t, err, fs.ErrPermission)
	require.Equal(t, vmdk.ReadOnly, img.Info().Extents[1].Access)
}

// memoryFolder is a folder that is none of this machine.
type memoryFolder map[string]string

func (f memoryFolder) Open(_ context.Context, name string) (pipe.Image, error) {
	s, ok := f[name]
	if !ok {
		return nil, &fs.PathError{Op: "open", Path: name, Err: fs.ErrNotExist}
	}
	return pipetest.Bytes([]byte(s)), nil
}

// TestOpenIn: the files of a disk lie wherever the folder finds them, by names that lead from file to file.
func TestOpenIn(t *testing.T) {
	folder := memoryFolder{
		"vm/disk-000001.vmdk":     text("00000002", "00000001", "../base/disk.vmdk", "RW 1 ZERO\nRW 1 VMFSSPARSE \"delta\""),
		"base/disk.vmdk":          text("00000001", none, "", "RW 2 VMFS \"disk-flat.vmdk\""),
		"base/disk-flat.vmdk":     string(bytes.Repeat([]byte("y"), 1024)),
		"vm/delta":                string(piece{sectors: 1, grain: 1, kinds: []int{absent}, content: make([]byte, 512)}.cowd(newRand(1))),
		"vm/missing.vmdk":         text("00000002", "00000001", "gone.vmdk", "RW 1 ZERO"),
		"[datastore 1] x/it.vmdk": text("00000002", none, "", "RW 1 ZERO"),
	}
	img, err := vmdk.OpenIn(t.Context(), folder, "vm/disk-000001.vmdk", nil)
	require.NoError(t, err)
	pipetest.TestImage(t, img, pipetest.Bytes(append(make([]byte, 512), bytes.Repeat([]byte("y"), 512)...)))
	require.NoError(t, diskfile.Changed(img))
	require.NoError(t, img.Close())
	_, err = vmdk.OpenIn(t.Context(), folder, "vm/missing.vmdk", nil)
	require.ErrorIs(t, err, fs.ErrNotExist)
	require.True(t, errors.As(err, new(*vmdk.ReferenceError)))
	img, err = vmdk.OpenIn(t.Context(), folder, "[datastore 1] x/it.vmdk", nil)
	require.NoError(t, err)
	require.NoError(t, img.Close())
}

// TestFormat: in a table of formats, a disk is found by its content and made by default as one file.
func TestFormat(t *testing.T) {
	table := diskfile.Formats{vmdk.Format(nil, nil), diskfile.Raw()}
	path := filepath.Join(t.TempDir(), "disk")
	f, err := table.ByName("vmdk")
	require.NoError(t, err)
	target, err := f.Create(t.Context(), path, 1<<20, nil)
	require.NoError(t, err)
	defer target.Close()
	_, err = target.WriteAt(t.Context(), []byte("hello"), 77_777)
	require.NoError(t, err)
	require.NoError(t, target.Commit(t.Context()))
	img, err := table.Open(t.Context(), path, "", nil)
	require.NoError(t, err)
	p := make([]byte, 5)
	_, err = img.ReadAt(t.Context(), p, 77_777)
	require.NoError(t, err)
	require.Equal(t, "hello", string(p))
	later := time.Now().Add(time.Minute)
	require.NoError(t, os.Chtimes(path, later, later))
	var changed *diskfile.ChangedError
	require.ErrorAs(t, diskfile.Changed(img), &changed)
	require.ErrorAs(t, img.Close(), &changed)
}
