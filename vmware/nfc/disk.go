package nfc

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"sync"
	"sync/atomic"

	"github.com/hikae/hikae/pipe"
)

// Disk is an open disk: a pipe.ExtentImage, and by [Disk.Target] a pipe.Target. Reads of any number of goroutines share
// the one connection; pieces that are not whole sectors are read as whole sectors and cut.
type Disk struct {
	c      *Conn
	path   string
	write  bool
	size   int64
	sector int64
	uuid   string      // as the host said when it was opened; empty: it said none, or nobody asked
	handle uint64      // below the connection's lock
	closed atomic.Bool // the file is, by a commit or with the session

	amending sync.Mutex // sectors that are written in parts are read first

	told allocation
}

// Size is the capacity in bytes.
func (d *Disk) Size() int64 { return d.size }

// Sector is the length of the disk's sectors in bytes: 512 or 4096.
func (d *Disk) Sector() int { return int(d.sector) }

// Property is a line of the disk's descriptor: what stands there as "ddb.key", such as "uuid" or "adapterType". A key that
// it does not have is fs.ErrNotExist.
func (d *Disk) Property(ctx context.Context, key string) (string, error) {
	if !isWord(key) {
		return "", d.explain("property", fmt.Errorf("%.60q is no key: %w", key, fs.ErrInvalid))
	}
	if d.c.closed.Load() || d.isShut() {
		return "", d.explain("property", errClosed)
	}
	var c *call
	err := d.c.request(ctx, func(handle uint64) *call {
		c = newProperty(handle, key)
		return c
	})
	switch {
	case err != nil:
		return "", d.explain("property "+key, err)
	case len(c.reply) == 0:
		return "", d.explain("property "+key, fs.ErrNotExist)
	}
	return string(c.reply), nil
}

// identify asks for the disk's UUID, by which it is known again after a lost connection. Not every disk has one, and not
// every host may tell: then there is only the size to go by.
func identify(ctx context.Context, l *link, handle uint64) (string, error) {
	c := newProperty(handle, "uuid")
	var refused *HostError
	if err := l.do(ctx, c); err != nil && !errors.As(err, &refused) {
		return "", err
	}
	return string(c.reply), nil
}

// Flight is as pipe.Far has it.
func (d *Disk) Flight() pipe.Flight {
	return pipe.Flight{Puts: d.c.opts.InFlight, Reads: d.c.opts.InFlight}
}

// explain names the disk.
func (d *Disk) explain(op string, err error) error { return fmt.Errorf("%s: %s: %w", d.path, op, err) }

// ReadAt is as pipe.Image has it. Errors are a pipe.RangeError around a [HostError], a [ProtocolError], or what wraps
// [ErrLost]; no byte is returned that the host did not send.
func (d *Disk) ReadAt(ctx context.Context, p []byte, off int64) (int, error) {
	if off < 0 {
		return 0, &pipe.RangeError{Op: "read", Off: off, Len: int64(len(p)), Err: fs.ErrInvalid}
	}
	if d.c.closed.Load() || d.isShut() {
		return 0, d.explain("read", errClosed)
	}
	if err := ctx.Err(); err != nil {
		return 0, err
	}
	var end error
	if inside := max(0, d.size-off); int64(len(p)) > inside {
		p, end = p[:inside], io.EOF
	}
	n, err := d.inPieces(p, off, max(longestRead, d.c.opts.Buffer), func(part []byte, off int64) error {
		return d.readPiece(ctx, part, off)
	})
	if err != nil {
		return n, d.fault(ctx, "read", p[n:], off+int64(n), err)
	}
	return n, end
}

// fault names disk and range of what failed, unless it was the caller who gave up.
func (d *Disk) fault(ctx context.Context, op string, p []byte, off int64, err error) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return fmt.Errorf("%s: %w", d.path, &pipe.RangeError{Op: op, Off: off, Len: int64(len(p)), Err: err})
}

// inPieces cuts [off, off+len(p)) at sectors and at most every longest bytes, and does all pieces at once; how many of
// them are on the wire is the connection's matter. It returns how many bytes are done up to the first that is not.
func (d *Disk) inPieces(p []byte, off int64, longest int, do func(part []byte, off int64) error) (int, error) {
	ends := d.cut(off, int64(len(p)), int64(longest))
	if len(ends) <= 1 {
		if len(ends) == 1 {
			if err := do(p, off); err != nil {
				return 0, err
			}
		}
		return len(p), nil
	}
	errs := make([]error, len(ends))
	turns := make(chan struct{}, d.c.opts.InFlight)
	var wg sync.WaitGroup
	at := int64(0)
	for i, to := range ends {
		from := at
		turns <- struct{}{}
		wg.Go(func() {
			errs[i] = do(p[from:to], off+from)
			<-turns
		})
		at = to
	}
	wg.Wait()
	from := int64(0)
	for i, to := range ends {
		if errs[i] != nil {
			return int(from), errs[i]
		}
		from = to
	}
	return len(p), nil
}

// cut returns where the pieces of [off, off+n) end, counted from off. Only the first and the last may be parts of sectors,
// and such a part is a piece of its own.
func (d *Disk) cut(off, n, longest int64) []int64 {
	var ends []int64
	for done := int64(0); done < n; {
		at := off + done
		step := min(n-done, longest)
		if in := at % d.sector; in != 0 {
			step = min(step, d.sector-in)
		} else if step > d.sector {
			step -= step % d.sector
		}
		done += step
		ends = append(ends, done)
	}
	return ends
}

func (d *Disk) whole(p []byte, off int64) bool {
	return off%d.sector == 0 && int64(len(p))%d.sector == 0
}

// readPiece reads whole sectors, or a part of one.
func (d *Disk) readPiece(ctx context.Context, p []byte, off int64) error {
	if d.whole(p, off) {
		return d.c.request(ctx, func(handle uint64) *call { return newRead(handle, p, off) })
	}
	sector, at, err := d.readSector(ctx, off)
	if err == nil {
		copy(p, sector[off-at:])
	}
	return err
}

// readSector reads the sector that off lies in, and says where it begins.
func (d *Disk) readSector(ctx context.Context, off int64) ([]byte, int64, error) {
	at, p := off-off%d.sector, make([]byte, d.sector)
	err := d.c.request(ctx, func(handle uint64) *call { return newRead(handle, p, at) })
	return p, at, err
}

// selfTest reads the first sector twice. A client that understands a host wrongly shows it here, before a backup relies on
// it.
func (d *Disk) selfTest(ctx context.Context, l *link, handle uint64) error {
	if d.size == 0 {
		return nil
	}
	var got [2][]byte
	for i := range got {
		got[i] = make([]byte, d.sector)
		if err := l.do(ctx, newRead(handle, got[i], 0)); err != nil {
			return err
		}
	}
	if !bytes.Equal(got[0], got[1]) {
		return broken("the first sector was read twice, and differs")
	}
	return nil
}

func (d *Disk) isShut() bool { return d.closed.Load() }

// shut closes the file and leaves the session. Requests under way are waited for.
func (d *Disk) shut(ctx context.Context, l *link, handle uint64) error {
	d.closed.Store(true)
	if !l.drain(ctx) {
		if err := l.failure(); err != nil {
			return d.explain("close", err)
		}
		return d.explain("close", fmt.Errorf("%w: requests are still not answered", ErrLost))
	}
	if err := l.closeFile(ctx, handle); err != nil {
		return d.explain("close", lost(err))
	}
	return nil
}

// Close ends the session as [Conn.Close] does. It may come twice.
func (d *Disk) Close() error { return d.c.Close() }
