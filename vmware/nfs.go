package vmware

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"path"
	"path/filepath"
	"strings"
	"time"

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
	folder := &storeFolder{stores: all, home: at, open: func(ctx context.Context, at place) (pipe.Image, error) { return t.same(ctx, p, at) }}
	img, err := vmdk.OpenIn(ctx, folder, path.Base(at.file), nil)
	if err != nil {
		return nil, fmt.Errorf("%s: %v: %w", NFS, at, err)
	}
	return img, nil
}

// same opens a file that is the same here as on the datastore: a replica has the same descriptors, and content of another day.
// Its length, its time and some of its content are compared with what the server shows.
func (t *overNFS) same(ctx context.Context, p *Pinned, at place) (_ pipe.Image, err error) {
	here, err := t.file(at)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, here.Close())
		}
	}()
	file, err := t.https.getter(p).open(ctx, at, fileURL(p.Client, at))
	if err != nil {
		return nil, fmt.Errorf("what the server has could not be compared with %s: %w", t.mounts[at.name], err)
	}
	defer file.Close()
	differs := func(what string) error {
		return &UnfitError{Transport: NFS, Hint: "is it mounted there, or a copy of it?",
			Reason: fmt.Sprintf("%v is not the same in %s as on the datastore: %s", at, t.mounts[at.name], what)}
	}
	if here.Size() != file.Size() {
		return nil, differs(fmt.Sprintf("%d bytes, and %d", here.Size(), file.Size()))
	}
	if when, then, ok := t.times(at, file); ok && when.Sub(then).Abs() > nfsSkew {
		return nil, differs(fmt.Sprintf("it was written to at %s, and at %s", when.UTC().Format(time.RFC3339), then.UTC().Format(time.RFC3339)))
	}
	for _, e := range placesIn(here.Size()) {
		a, b := make([]byte, e.Len), make([]byte, e.Len)
		if err := errors.Join(readAll(ctx, here, a, e.Off), readAll(ctx, file, b, e.Off)); err != nil {
			return nil, err
		}
		if !bytes.Equal(a, b) {
			return nil, differs(fmt.Sprintf("its content at %d", e.Off))
		}
	}
	return here, nil
}

// times are when a pinned file was last written to, here and as the server shows it, where it does.
func (t *overNFS) times(at place, file pipe.Image) (here, there time.Time, ok bool) {
	f, ok := file.(*httpsFile)
	if !ok {
		return here, there, false
	}
	there, err := http.ParseTime(f.date)
	if err != nil {
		return here, there, false
	}
	root, err := os.OpenRoot(t.mounts[at.name])
	if err != nil {
		return here, there, false
	}
	defer root.Close()
	info, err := root.Stat(filepath.FromSlash(at.file))
	if err != nil {
		return here, there, false
	}
	return info.ModTime(), there, true
}

const (
	nfsSkew   = 2 * time.Second // the server tells whole seconds
	nfsPlaces = 8               // of a file are compared
	nfsPiece  = 64 << 10        // bytes each
)

// placesIn are the start of a file, its end, and some between.
func placesIn(size int64) (out []pipe.Extent) {
	if size <= nfsPlaces*nfsPiece {
		return []pipe.Extent{{Len: size}}
	}
	for i := range nfsPlaces {
		off := int64(0)
		switch i {
		case 0:
		case 1:
			off = size - nfsPiece
		default:
			off = rand.Int64N(size - nfsPiece)
		}
		out = append(out, pipe.Extent{Off: off, Len: nfsPiece})
	}
	return out
}

func readAll(ctx context.Context, img pipe.Image, p []byte, off int64) error {
	n, err := img.ReadAt(ctx, p, off)
	if n == len(p) {
		return nil
	}
	return noEOF(err)
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
