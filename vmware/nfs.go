package vmware

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"strings"

	"github.com/hikae/hikae/pipe"
	"github.com/hikae/hikae/pipe/diskfile"
	"github.com/hikae/hikae/vmware/vmdk"
)

// overNFS reads the files of a disk from datastores that are mounted on this machine too. That a folder is the datastore is
// not believed: the disk's own descriptor, which holds the number of its content, must be the same there as the server shows
// it.
type overNFS struct {
	mounts map[string]string // folder, by datastore
	https  *overHTTPS
}

func newNFS(mounts map[string]string, https *overHTTPS) *overNFS {
	return &overNFS{mounts: mounts, https: https}
}

func (t *overNFS) Name() string { return NFS }

// Check implements [Transport].
func (t *overNFS) Check(ctx context.Context, p *Pinned) error {
	_, _, err := t.find(ctx, p)
	return err
}

func (t *overNFS) find(ctx context.Context, p *Pinned) (stores, place, error) {
	if len(t.mounts) == 0 {
		return nil, place{}, &UnfitError{Transport: NFS, Reason: "no datastore is mounted on this machine", Hint: "name the folder where one is"}
	}
	all, at, err := diskFiles(ctx, NFS, p)
	if err != nil {
		return nil, place{}, asUnfit(NFS, err)
	}
	if t.mounts[at.name] == "" {
		return nil, place{}, &UnfitError{Transport: NFS, Reason: fmt.Sprintf("datastore %s is not mounted on this machine", at.name), Hint: "name the folder where it is"}
	}
	return all, at, nil
}

// Open implements [Transport]. Nothing happens on the host but reading.
func (t *overNFS) Open(ctx context.Context, p *Pinned) (pipe.Image, error) {
	all, at, err := t.find(ctx, p)
	if err != nil {
		return nil, err
	}
	if err := t.verify(ctx, p, at); err != nil {
		return nil, err
	}
	folder := &storeFolder{stores: all, home: at, open: func(_ context.Context, at place) (pipe.Image, error) { return t.file(at) }}
	img, err := vmdk.OpenIn(ctx, folder, path.Base(at.file), nil)
	if err != nil {
		return nil, fmt.Errorf("%s: %v: %w", NFS, at, err)
	}
	return img, nil
}

// file opens a file of a mounted datastore. It does not leave the folder, whatever links are in it, and opens no device.
func (t *overNFS) file(at place) (pipe.Image, error) {
	folder := t.mounts[at.name]
	if folder == "" {
		return nil, fmt.Errorf("%v: the datastore is not mounted on this machine", at)
	}
	root, err := os.OpenRoot(folder)
	if err != nil {
		return nil, err
	}
	defer root.Close()
	name := filepath.FromSlash(at.file)
	info, err := root.Stat(name)
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%v: %w", at, diskfile.ErrNotDisk)
	}
	return diskfile.OpenIn(root, name, nil)
}

// verify compares the disk's descriptor in the folder with that on the datastore.
func (t *overNFS) verify(ctx context.Context, p *Pinned, at place) error {
	there, err := t.https.getter(p).small(ctx, at, fileURL(p.Client, at))
	if err != nil {
		return fmt.Errorf("%s: what the server has could not be compared with %s: %w", NFS, t.mounts[at.name], err)
	}
	here, err := t.small(at)
	if err != nil {
		return fmt.Errorf("%s: %w", NFS, err)
	}
	if !bytes.Equal(here, there) {
		return &UnfitError{Transport: NFS, Hint: "is it mounted there, or a copy of it?",
			Reason: fmt.Sprintf("%v is not the same in %s as on the datastore", at, t.mounts[at.name])}
	}
	d, err := vmdk.ParseDescriptor(at.String(), here)
	if err != nil {
		return fmt.Errorf("%s: %w", NFS, err)
	}
	if id := plainUUID(d.DDB["uuid"]); id != "" && p.Disk.UUID != "" && id != plainUUID(p.Disk.UUID) {
		return &UnfitError{Transport: NFS, Reason: fmt.Sprintf("%v is disk %s there, the configuration says %s", at, id, p.Disk.UUID)}
	}
	return nil
}

func (t *overNFS) small(at place) (_ []byte, err error) {
	f, err := t.file(at)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	if f.Size() > openBytes {
		return nil, fmt.Errorf("%v: %d bytes are too many for a descriptor", at, f.Size())
	}
	return io.ReadAll(io.NewSectionReader(pipe.ReaderAt(context.Background(), f), 0, f.Size()))
}

// plainUUID is the 32 digits of a UUID in any of the ways in which it is written.
func plainUUID(s string) string {
	return strings.ToLower(strings.Map(func(r rune) rune {
		if strings.ContainsRune("0123456789abcdefABCDEF", r) {
			return r
		}
		return -1
	}, s))
}
