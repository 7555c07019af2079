package selftest

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/hikae/hikae"
	"github.com/hikae/hikae/job/selftest"
	"github.com/hikae/hikae/pipe"
	"github.com/hikae/hikae/vmware"
)

const (
	pieceBytes = 1 << 20
	dataPieces = 64 // of what holds data, and
	restPieces = 8  // of what does not, from each disk
	inFlight   = 4
	maxExtents = 1 << 20
	openWait   = 30 * time.Minute // a transport that streams opens a disk by reading all of it
)

// sample is some of a disk as backups read it.
type sample struct {
	disk   hikae.Disk
	by     string // the transport
	pieces []piece
}

type piece struct {
	off    int64
	length int
	sum    [sha256.Size]byte
}

// sampleOf reads a disk here and there by the transport that a backup takes.
func (t *test) sampleOf(ctx context.Context, d hikae.Disk) (*sample, error) {
	img, err := t.snap.OpenDisk(ctx, d.Key)
	if err != nil {
		return nil, err
	}
	s := &sample{disk: d, by: "?"}
	if s.pieces, err = places(ctx, img); err == nil {
		err = s.each(ctx, func(ctx context.Context, p *piece) (err error) {
			p.sum, err = p.read(ctx, img)
			return err
		})
	}
	if c, ok := pipe.As[vmware.Chosen](img); ok {
		s.by = c.Choice().Transport
	}
	return s, errors.Join(err, img.Close())
}

// places are where a disk is read: evenly over what holds data, and some of the rest.
func places(ctx context.Context, img pipe.Image) ([]piece, error) {
	var data, rest []pipe.Extent
	for e, err := range pipe.Extents(ctx, img, 0, img.Size()) {
		if err != nil {
			return nil, err
		}
		if e.Kind == pipe.Data {
			data = append(data, e)
		} else {
			rest = append(rest, e)
		}
		if len(data)+len(rest) == maxExtents {
			break // what comes first is enough to compare by
		}
	}
	return append(evenly(data, dataPieces), evenly(rest, restPieces)...), nil
}

// evenly spreads pieces over extents, no two in the same place.
func evenly(list []pipe.Extent, n int) (out []piece) {
	var whole int64
	for _, e := range list {
		whole += e.Len
	}
	step := max(whole/int64(n), pieceBytes)
	passed, next := int64(0), int64(0) // bytes of extents before this one; where the next piece begins
	for _, e := range list {
		for ; next < passed+e.Len; next += step {
			off := e.Off + next - passed
			out = append(out, piece{off: off, length: int(min(pieceBytes, e.End()-off))})
		}
		passed += e.Len
	}
	return out
}

// each does something with all pieces, some at once.
func (s *sample) each(ctx context.Context, do func(context.Context, *piece) error) error {
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(inFlight)
	for i := range s.pieces {
		g.Go(func() error { return do(ctx, &s.pieces[i]) })
	}
	return g.Wait()
}

func (p *piece) read(ctx context.Context, img pipe.Image) (sum [sha256.Size]byte, err error) {
	buf := make([]byte, p.length)
	n, err := img.ReadAt(ctx, buf, p.off)
	if err != nil && !(errors.Is(err, io.EOF) && n == len(buf)) {
		return sum, fmt.Errorf("read [%d, %d): %w", p.off, p.off+int64(p.length), err)
	}
	return sha256.Sum256(buf), nil
}

// errDiffers is content that is not what another transport gave.
var errDiffers = errors.New("it gives other content than the transport that backups take")

// transport reads all disks by one transport alone, and compares. One that cannot be used here says why.
func (t *test) transport(ctx context.Context, name string) (string, error) {
	by, ok := t.snap.(vmware.OpenerBy)
	if !ok {
		return "", errors.New("the snapshot does not let a transport be named")
	}
	var all figures
	for i, s := range t.samples {
		f, err := s.compare(ctx, by, name)
		var unfit *vmware.UnfitError
		switch {
		case err == nil:
			all.add(f)
			continue
		case errors.Is(err, errDiffers) || ctx.Err() != nil:
			t.facts["transport "+name] = err.Error()
			return "", fmt.Errorf("disk %d: %w", i+1, err)
		case errors.As(err, &unfit):
			text := "cannot be used here: " + unfit.Reason
			if unfit.Hint != "" {
				text += " (" + unfit.Hint + ")"
			}
			t.facts["transport "+name] = text
			return "", selftest.Untriedf("%s", text)
		}
		t.facts["transport "+name] = "failed: " + reason(err)
		return "", selftest.Doubtf("disk %d: %s", i+1, reason(err))
	}
	text := all.String()
	t.facts["transport "+name] = text
	return text, nil
}

// reason is an error without what the step has in its name.
func reason(err error) string {
	if none, ok := errors.AsType[*vmware.NoTransportError](err); ok && none.Err != nil {
		err = none.Err
	}
	return err.Error()
}

// compare reads by a transport what is in the sample.
func (s *sample) compare(ctx context.Context, by vmware.OpenerBy, transport string) (f figures, err error) {
	ctx, cancel := context.WithTimeout(ctx, openWait)
	defer cancel()
	begun := time.Now()
	img, err := by.OpenDiskBy(ctx, s.disk.Key, transport)
	if err != nil {
		return f, err
	}
	defer func() { err = errors.Join(err, img.Close()) }()
	f.open, begun = time.Since(begun), time.Now()
	err = s.each(ctx, func(ctx context.Context, p *piece) error {
		sum, err := p.read(ctx, img)
		if err == nil && !bytes.Equal(sum[:], p.sum[:]) {
			return fmt.Errorf("[%d, %d): %w (%s)", p.off, p.off+int64(p.length), errDiffers, s.by)
		}
		return err
	})
	f.read = time.Since(begun)
	for _, p := range s.pieces {
		f.bytes += int64(p.length)
	}
	return f, err
}

// figures are how fast a transport was.
type figures struct {
	open, read time.Duration
	bytes      int64
}

func (f *figures) add(g figures) {
	f.open, f.read, f.bytes = f.open+g.open, f.read+g.read, f.bytes+g.bytes
}

func (f figures) String() string {
	perSecond := float64(f.bytes>>10) / 1024 / max(f.read.Seconds(), 1e-3)
	return fmt.Sprintf("the same; opened in %.1f s, %d MiB read at %.0f MiB/s", f.open.Seconds(), f.bytes>>20, perSecond)
}
