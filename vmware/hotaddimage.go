package vmware

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strconv"
	"sync"
	"syscall"
	"unsafe"

	"github.com/hikae/hikae/pipe"
	"github.com/hikae/hikae/pipe/diskfile"
)

// hotImage is an attached disk. It is read past the page cache, where the system allows that: what is read once is not worth
// keeping, and a disk that was at the same place before cannot shine through.
type hotImage struct {
	name   string
	size   int64
	block  int64 // bytes that the device reads at least; 0: any
	bounce sync.Pool
	stands func() bool  // the device is there and works
	undo   func() error // detaches

	mu   sync.RWMutex // held for reading while somebody reads
	f    *os.File     // nil: closed
	gone bool         // and detached
}

const (
	bounceBytes = 1 << 20
	maxBlock    = 64 << 10
	memoryAlign = 4096
)

// openHotImage opens a device, and makes sure that it is the one that was found.
func openHotImage(g hotGuest, name string, d *hotDisk) (*hotImage, error) {
	f, direct, err := openDirect(g.path("dev", name))
	if err != nil {
		return nil, err
	}
	img := &hotImage{name: name, f: f, stands: func() bool { return g.works(name, d.wanted()) }}
	img.bounce.New = func() any { return alignedBuffer(bounceBytes) }
	if img.size, err = g.same(f, name, d.wanted()); err == nil && direct {
		img.block, err = g.blockOf(name)
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return img, nil
}

// same compares an open device with the disk that is wanted, after it was opened: names of devices are given anew when disks
// come and go.
func (g hotGuest) same(f *os.File, name string, want wantedDisk) (size int64, err error) {
	fi, err := f.Stat()
	if err != nil {
		return 0, err
	}
	number, isDevice := deviceNumber(fi)
	if !isDevice && g.root == "/" {
		return 0, fmt.Errorf("%s: %w: it is no block device", name, fs.ErrInvalid)
	}
	if isDevice {
		if is, err := g.text("sys/block", name, "dev"); err != nil || is != number {
			return 0, fmt.Errorf("%s is device %s, and %.20q is what was found: %w", name, number, is, fs.ErrInvalid)
		}
	}
	now, why, err := g.seek(want)
	switch {
	case err != nil:
		return 0, err
	case now != name:
		return 0, fmt.Errorf("%s is not the attached disk any more: %s", name, why)
	}
	size, err = f.Seek(0, io.SeekEnd)
	if err == nil && size != want.size {
		err = fmt.Errorf("%s has %d bytes, the configuration says %d", name, size, want.size)
	}
	return size, err
}

// blockOf is what reads of a device have to be multiples of.
func (g hotGuest) blockOf(name string) (int64, error) {
	text, err := g.text("sys/block", name, "queue/logical_block_size")
	if err != nil {
		return 0, err
	}
	n, err := strconv.ParseInt(text, 10, 32)
	if err != nil || n < 512 || n > maxBlock || n&(n-1) != 0 {
		return 0, fmt.Errorf("%s reads blocks of %.20q bytes", name, text)
	}
	return n, nil
}

func alignedBuffer(n int) *[]byte {
	p := make([]byte, n+memoryAlign)
	skip := 0
	if rest := int(uintptr(unsafe.Pointer(&p[0])) % memoryAlign); rest != 0 {
		skip = memoryAlign - rest
	}
	p = p[skip : skip+n : skip+n]
	return &p
}

// Size implements [pipe.Image].
func (i *hotImage) Size() int64 { return i.size }

// Flight keeps the disk and its controller busy.
func (i *hotImage) Flight() pipe.Flight { return pipe.Flight{Reads: 16, Bytes: 32 << 20} }

// ReadAt implements [pipe.Image].
func (i *hotImage) ReadAt(ctx context.Context, p []byte, off int64) (int, error) {
	if err := ctx.Err(); err != nil {
		return 0, err
	}
	if off < 0 {
		return 0, &pipe.RangeError{Op: "read", Off: off, Len: int64(len(p)), Err: fs.ErrInvalid}
	}
	i.mu.RLock()
	defer i.mu.RUnlock()
	switch {
	case i.f == nil:
		return 0, fmt.Errorf("%s: %w", i.name, fs.ErrClosed)
	case off >= i.size:
		return 0, io.EOF
	}
	want := p[:min(int64(len(p)), i.size-off)]
	n, err := i.read(want, off)
	switch {
	case err != nil:
		return n, fmt.Errorf("%s: read %d bytes at %d: %w", i.name, len(want), off, i.judge(bare(err)))
	case len(want) < len(p):
		return n, io.EOF
	}
	return n, nil
}

// judge says of an error whether it is the disk's own. EIO is, where the device is still there and its system lets it work: one
// that was taken away, or that its host does not serve any more, gives EIO as well, and another transport may do better.
func (i *hotImage) judge(err error) error {
	if errors.Is(err, syscall.EIO) && i.stands() {
		return fmt.Errorf("%w: %w", ErrContent, err)
	}
	return err
}

// works reports whether a device is still the disk that is wanted, and is not offline, blocked or on its way out.
func (g hotGuest) works(name string, want wantedDisk) bool {
	now, _, err := g.seek(want)
	if err != nil || now != name {
		return false
	}
	state, err := g.text("sys/block", name, "device", "state")
	return err == nil && state == "running"
}

// bare takes the path out of an error, which nobody can do anything with.
func bare(err error) error {
	if at := (*fs.PathError)(nil); errors.As(err, &at) {
		return at.Err
	}
	if err == io.EOF { // within the disk
		return io.ErrUnexpectedEOF
	}
	return err
}

func (i *hotImage) read(p []byte, off int64) (int, error) {
	if len(p) == 0 || i.block == 0 || aligned(p, off, i.block) {
		return i.f.ReadAt(p, off)
	}
	buf := i.bounce.Get().(*[]byte)
	defer i.bounce.Put(buf)
	for n := 0; n < len(p); {
		at := off + int64(n)
		from := at &^ (i.block - 1)
		room := (*buf)[:min(int64(bounceBytes), (off+int64(len(p))-from+i.block-1)&^(i.block-1), i.size-from)]
		got, err := i.f.ReadAt(room, from)
		if skip := int(at - from); got > skip {
			n += copy(p[n:], room[skip:got])
		}
		if n < len(p) && err != nil {
			return n, err
		}
	}
	return len(p), nil
}

func aligned(p []byte, off, block int64) bool {
	return off%block == 0 && int64(len(p))%block == 0 && uintptr(unsafe.Pointer(&p[0]))%512 == 0
}

// Close implements [pipe.Image]: the disk is detached. After an error it may be called again, and tries again.
func (i *hotImage) Close() error {
	i.mu.Lock()
	defer i.mu.Unlock()
	var err error
	if i.f != nil {
		err = i.f.Close()
		i.f = nil
	}
	if i.gone || i.undo == nil {
		return err
	}
	if undoErr := i.undo(); undoErr != nil {
		return errors.Join(err, undoErr)
	}
	i.gone = true
	return err
}

// hotTarget is an attached disk that is written. Its base is what it holds, and zeros are made where they are marked.
type hotTarget struct {
	*diskfile.InPlace
	is   *hotImage // the same disk, to read
	undo func() error
	gone bool
}

func openHotTarget(g hotGuest, name string, d *hotDisk) (*hotTarget, error) {
	is, err := openHotImage(g, name, d)
	if err != nil {
		return nil, err
	}
	// Opening it for itself fails where the system uses what it found on the disk: that is no disk to write over.
	to, err := diskfile.OpenTarget(g.path("dev", name), nil)
	if err != nil {
		return nil, errors.Join(err, is.Close())
	}
	// Once more, because this is another open file.
	if now, why, err := g.seek(d.wanted()); err != nil || now != name {
		return nil, errors.Join(fmt.Errorf("%s is not the attached disk any more: %s", name, why), err, to.Close(), is.Close())
	}
	return &hotTarget{InPlace: to, is: is}, nil
}

// Image implements [Readable].
func (t *hotTarget) Image() pipe.Image { return stayingOpen{t.is} }

// Flight keeps the disk and its controller busy.
func (t *hotTarget) Flight() pipe.Flight { return pipe.Flight{Puts: 8} }

// Commit implements [pipe.Target]: on nil all is durable, and the disk is detached.
func (t *hotTarget) Commit(ctx context.Context) error {
	return errors.Join(t.InPlace.Commit(ctx), t.Close())
}

// Close implements [pipe.Target]: the disk is detached. After an error it may be called again, and tries again.
func (t *hotTarget) Close() error {
	err := errors.Join(t.InPlace.Close(), t.is.Close())
	if t.gone {
		return err
	}
	if undoErr := t.undo(); undoErr != nil {
		return errors.Join(err, undoErr)
	}
	t.gone = true
	return err
}

var (
	_ pipe.Far          = (*hotImage)(nil)
	_ pipe.ExtentTarget = (*hotTarget)(nil)
	_ Readable          = (*hotTarget)(nil)
)
