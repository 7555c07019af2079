package hyperv

import (
	"context"
	"errors"
	"fmt"
	"math"

	"github.com/hikae/hikae"
	"github.com/hikae/hikae/hyperv/cim"
	"github.com/hikae/hikae/pipe"
)

const (
	changeGrain = 64 << 10 // bytes that changes are aligned to, outward
	maxAnswers  = 1 << 16  // for one disk
	maxRanges   = 1 << 20  // of one disk, before neighbours are joined
	leastAsked  = 1 << 20  // bytes
)

// lost is an answer of the ledger: tracking cannot be used, and why.
func lost(format string, args ...any) error {
	return fmt.Errorf("%w: %s", hikae.ErrTrackingLost, fmt.Sprintf(format, args...))
}

// untrackedError is hikae.ErrTrackingLost where nothing was lost: why nobody can tell what changed is known, it comes of what was done
// with the VM, and nobody has to look after it.
type untrackedError struct{ why string }

func (e untrackedError) Error() string        { return e.why + ": read in full" }
func (e untrackedError) Is(target error) bool { return target == hikae.ErrTrackingLost }

// changedRanges asks a host what of a disk's file changed since an id. One answer covers a part of a large disk, so it is asked
// until the end is reached: whoever takes the first answer for all of it loses what comes after. What the host refuses to tell is
// hikae.ErrTrackingLost, and so is an answer that does not hold together.
func (h *Host) changedRanges(ctx context.Context, path, since string, size int64) ([]pipe.Extent, error) {
	var list []pipe.Extent
	ask := size
	for off, n := int64(0), 0; off < size; n++ {
		if n == maxAnswers {
			return nil, lost("%d answers of the host covered %d of %d bytes", n, off, size)
		}
		some, processed, err := h.changedPart(ctx, path, since, off, min(ask, size-off))
		if errors.Is(err, cim.ErrTooLarge) && ask > leastAsked {
			ask = max(min(ask, size-off)/4, leastAsked)
			continue
		}
		if err != nil {
			return nil, untold(err, path, off)
		}
		if list = append(list, some...); len(list) > maxRanges {
			return nil, lost("the host tells more than %d changes of %s", maxRanges, path)
		}
		off += processed
	}
	return joinRanges(list, size), nil
}

// changedPart is one question. The ranges of its answer are ascending, apart from each other, and in what was processed.
func (h *Host) changedPart(ctx context.Context, path, since string, off, n int64) (list []pipe.Extent, processed int64, err error) {
	ctx, cancel := h.bounded(ctx)
	defer cancel()
	out, err := h.client.Run(ctx, h.images, "GetVirtualDiskChanges", []cim.Property{{Name: "Path", Value: path}, {Name: "LimitId", Value: since},
		{Name: "TargetSnapshotId", Value: ""}, {Name: "ByteOffset", Value: uint64(off)}, {Name: "ByteLength", Value: uint64(n)}}, nil)
	if err != nil {
		return nil, 0, err
	}
	var got struct {
		Processed uint64   `cim:"ProcessedByteLength"`
		Offsets   []uint64 `cim:"ChangedByteOffsets"`
		Lengths   []uint64 `cim:"ChangedByteLengths"`
	}
	if err := out.Out.Decode(&got); err != nil {
		return nil, 0, lost("the host's answer about %s: %v", path, err)
	}
	switch {
	case got.Processed == 0:
		return nil, 0, lost("the host was asked about changes of %s from %d on, and its answer covers nothing", path, off)
	case got.Processed > math.MaxInt64 || int64(got.Processed) > n:
		return nil, 0, lost("the host was asked about %d bytes of %s at %d, and answers for %d", n, path, off, got.Processed)
	case len(got.Offsets) != len(got.Lengths):
		return nil, 0, lost("the host tells %d changes of %s and %d lengths of them", len(got.Offsets), path, len(got.Lengths))
	}
	processed = int64(got.Processed)
	for i, at := uint64(0), uint64(off); i < uint64(len(got.Offsets)); i++ {
		from, length := got.Offsets[i], got.Lengths[i]
		end := uint64(off + processed)
		if length == 0 || from < at || from >= end || length > end-from {
			return nil, 0, lost("the host was asked about %s from %d to %d, and tells a change of %d bytes at %d: it overlaps another, or lies outside", path, off, end, length, from)
		}
		list = append(list, pipe.Extent{Off: int64(from), Len: int64(length), Kind: pipe.Data})
		at = from + length
	}
	return list, processed, nil
}

// untold tells what the host cannot know, or will not say, from a question that did not get through.
func untold(err error, path string, off int64) error {
	var refused *cim.ReturnError
	var failed *cim.JobError
	switch {
	case errors.Is(err, hikae.ErrTrackingLost):
		return err
	case errors.As(err, &refused), errors.As(err, &failed), errors.Is(err, cim.ErrArgument):
		return lost("the host cannot tell changes of %s from %d on: %v", path, off, err)
	}
	return fmt.Errorf("changes of %s from %d on: %w", path, off, err)
}

// joinRanges aligns ascending ranges outward and joins those that touch.
func joinRanges(list []pipe.Extent, size int64) (out []pipe.Extent) {
	for _, e := range list {
		from := e.Off - e.Off%changeGrain
		to := e.End()
		if rest := to % changeGrain; rest != 0 {
			to += min(changeGrain-rest, size-to)
		}
		if n := len(out); n > 0 && from <= out[n-1].End() {
			out[n-1].Len = max(out[n-1].End(), to) - out[n-1].Off
			continue
		}
		out = append(out, pipe.Extent{Off: from, Len: to - from, Kind: pipe.Data})
	}
	return out
}

// cover yields ascending ranges and what lies between them, which did not change, up to the end of the disk.
func cover(list []pipe.Extent, size int64, yield func(pipe.Extent, error) bool) {
	pos := int64(0)
	for _, e := range list {
		if e.Off > pos && !yield(pipe.Extent{Off: pos, Len: e.Off - pos, Kind: pipe.Unchanged}, nil) || !yield(e, nil) {
			return
		}
		pos = e.End()
	}
	if pos < size {
		yield(pipe.Extent{Off: pos, Len: size - pos, Kind: pipe.Unchanged}, nil)
	}
}
