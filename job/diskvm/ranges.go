package diskvm

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"math"
	"slices"

	"github.com/hikae/hikae/pipe"
)

// Range is a part of a disk that has changed, in bytes.
type Range struct {
	Start  int64 `json:"start"`
	Length int64 `json:"length"`
}

const (
	maxRangesJSON = 256 << 20 // bytes of a list
	maxRanges     = 4 << 20   // entries of a list
)

// ParseRanges reads a list of changed ranges: a JSON array of {"start": …, "length": …} in bytes, in any order,
// overlaps allowed; [] means that nothing changed. Other fields are ignored. The result is in order, without overlaps.
// Errors in the text are *UsageError.
func ParseRanges(r io.Reader) ([]Range, error) {
	limited := &io.LimitedReader{R: r, N: maxRangesJSON + 1}
	list, err := decodeRanges(json.NewDecoder(limited))
	switch {
	case limited.N <= 0:
		return nil, usage("list of changes", "it is longer than %d bytes", int64(maxRangesJSON))
	case err != nil:
		return nil, err
	}
	return merge(list), nil
}

func decodeRanges(dec *json.Decoder) ([]Range, error) {
	if t, err := dec.Token(); err != nil || t != json.Delim('[') {
		return nil, badRanges(err, `it is not a JSON array of {"start": …, "length": …}`)
	}
	list := []Range{}
	for dec.More() {
		var e struct{ Start, Length *int64 }
		at := dec.InputOffset()
		if err := dec.Decode(&e); err != nil {
			return nil, badRanges(err, fmt.Sprintf("entry %d, at byte %d: %v", len(list), at, err))
		}
		if e.Start == nil || e.Length == nil {
			return nil, usage("list of changes", "entry %d, at byte %d: start or length is missing", len(list), at)
		}
		if *e.Start < 0 || *e.Length < 0 || *e.Length > math.MaxInt64-*e.Start {
			return nil, usage("list of changes", "entry %d, at byte %d: start %d, length %d is no range", len(list), at, *e.Start, *e.Length)
		}
		if list = append(list, Range{*e.Start, *e.Length}); len(list) > maxRanges {
			return nil, usage("list of changes", "it has more than %d entries", maxRanges)
		}
	}
	if _, err := dec.Token(); err != nil {
		return nil, badRanges(err, fmt.Sprintf("it is cut off or broken after entry %d", len(list)))
	}
	if _, err := dec.Token(); err != io.EOF {
		return nil, usage("list of changes", "something comes after its end")
	}
	return list, nil
}

// badRanges tells bad text from a file that cannot be read.
func badRanges(err error, why string) error {
	var syntax *json.SyntaxError
	var kind *json.UnmarshalTypeError
	if err == nil || errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.As(err, &syntax) || errors.As(err, &kind) {
		return usage("list of changes", "%s", why)
	}
	return fmt.Errorf("list of changes: %w", err)
}

// merge sorts ranges and joins what touches or overlaps. Empty ranges go.
func merge(list []Range) []Range {
	list = slices.DeleteFunc(slices.Clone(list), func(r Range) bool { return r.Length == 0 })
	slices.SortFunc(list, func(a, b Range) int { return cmp.Compare(a.Start, b.Start) })
	out := []Range{}
	for _, r := range list {
		if n := len(out); n > 0 && r.Start <= out[n-1].Start+out[n-1].Length {
			out[n-1].Length = max(out[n-1].Length, r.Start+r.Length-out[n-1].Start)
			continue
		}
		out = append(out, r)
	}
	return out
}

// checkRanges refuses what a disk of size bytes cannot have.
func checkRanges(key string, list []Range, size int64) error {
	for _, r := range list {
		if r.Start < 0 || r.Length < 0 || r.Start > size || r.Length > size-r.Start {
			return usage("changes of disk "+key, "start %d, length %d is not within its %d bytes", r.Start, r.Length, size)
		}
	}
	return nil
}

// cover yields a merged list as an ascending, gap-free cover of [0, size).
func cover(list []Range, size int64) iter.Seq2[pipe.Extent, error] {
	return func(yield func(pipe.Extent, error) bool) {
		pos := int64(0)
		for _, r := range list {
			if r.Start > pos && !yield(pipe.Extent{Off: pos, Len: r.Start - pos, Kind: pipe.Unchanged}, nil) {
				return
			}
			if !yield(pipe.Extent{Off: r.Start, Len: r.Length, Kind: pipe.Data}, nil) {
				return
			}
			pos = r.Start + r.Length
		}
		if pos < size {
			yield(pipe.Extent{Off: pos, Len: size - pos, Kind: pipe.Unchanged}, nil)
		}
	}
}
