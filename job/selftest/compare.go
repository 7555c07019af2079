package selftest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/hikae/hikae"
	"github.com/hikae/hikae/pipe"
)

// compare takes one more snapshot, and holds what was restored against it wherever the VM's own record says that nothing
// was written since: there both must be the same.
func (t *test) compare(ctx context.Context) (text string, err error) {
	point, err := t.last(ctx)
	if err != nil {
		return "", err
	}
	since := map[string]hikae.ChangeID{}
	for key, id := range point.Tracking {
		since[key] = hikae.ChangeID(id)
	}
	if len(since) == 0 {
		return "", Doubtf("nothing tells what has not changed, so nothing was compared")
	}
	snap, err := t.Provider.Snapshot(ctx, t.ID, &hikae.SnapshotOptions{Journal: t.opts.Journal, Since: since})
	if err != nil {
		return "", err
	}
	defer func() {
		host, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Minute)
		defer cancel()
		err = errors.Join(err, snap.Release(host)) // without a commit: the base stays
	}()
	var same, whole int64
	for _, d := range point.Disks {
		n, err := t.compareDisk(ctx, snap, d.Key, since[d.Key])
		if err != nil {
			return "", fmt.Errorf("disk %s: %w", d.Key, err)
		}
		same, whole = same+n, whole+d.Size
	}
	return fmt.Sprintf("%d of %d MiB had not changed, and are the same", same>>20, whole>>20), nil
}

// compareDisk returns how many bytes were compared.
func (t *test) compareDisk(ctx context.Context, snap hikae.Snapshot, key string, since hikae.ChangeID) (same int64, err error) {
	live, err := snap.OpenDisk(ctx, key)
	if err != nil {
		return 0, err
	}
	defer live.Close()
	f, err := os.Open(filepath.Join(t.dir, "restored", key+".raw"))
	if err != nil {
		return 0, err
	}
	defer f.Close()
	for e, err := range snap.Changed(ctx, key, since) {
		if err != nil {
			return same, err
		}
		if e.Kind != pipe.Unchanged {
			continue
		}
		if err := sameData(ctx, live, f, e); err != nil {
			return same, err
		}
		same += e.Len
	}
	return same, nil
}

const piece = 1 << 20

// sameData compares a range. What the VM calls zero is not read from it.
func sameData(ctx context.Context, live pipe.Image, f *os.File, rng pipe.Extent) error {
	a, b := make([]byte, piece), make([]byte, piece)
	for e, err := range pipe.Extents(ctx, live, rng.Off, rng.Len) {
		if err != nil {
			return err
		}
		for off := e.Off; off < e.End(); off += piece {
			n := min(piece, e.End()-off)
			clear(a[:n])
			if e.Kind != pipe.Zero {
				if _, err := live.ReadAt(ctx, a[:n], off); err != nil && err != io.EOF {
					return err
				}
			}
			if _, err := f.ReadAt(b[:n], off); err != nil {
				return err
			}
			if !bytes.Equal(a[:n], b[:n]) {
				return fmt.Errorf("what was restored differs from the VM in [%d, %d), where nothing was written", off, off+n)
			}
		}
	}
	return nil
}
