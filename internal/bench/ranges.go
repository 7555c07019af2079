//go:build linux

package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// byteRange is a range of a disk, in the form that hikae backup --changed takes.
type byteRange struct {
	Start  int64 `json:"start"`
	Length int64 `json:"length"`
}

func total(ranges []byteRange) (n int64) {
	for _, r := range ranges {
		n += r.Length
	}
	return n
}

// appendRange adds a range behind the others and joins it to the last where they touch.
func appendRange(ranges []byteRange, r byteRange) []byteRange {
	if n := len(ranges); n > 0 {
		last := &ranges[n-1]
		if end := last.Start + last.Length; r.Start <= end {
			last.Length = max(end, r.Start+r.Length) - last.Start
			return ranges
		}
	}
	return append(ranges, r)
}

// alignOut widens every range to multiples of align.
func alignOut(ranges []byteRange, align int64) []byteRange {
	var out []byteRange
	for _, r := range ranges {
		start := r.Start / align * align
		end := (r.Start + r.Length + align - 1) / align * align
		out = appendRange(out, byteRange{start, end - start})
	}
	return out
}

// differences compares two files of one length in pieces of unit bytes.
func differences(a, b string, unit int) ([]byteRange, error) {
	fa, err := os.Open(a)
	if err != nil {
		return nil, err
	}
	defer fa.Close()
	fb, err := os.Open(b)
	if err != nil {
		return nil, err
	}
	defer fb.Close()
	ra, err := dataRanges(fa)
	if err != nil {
		return nil, err
	}
	rb, err := dataRanges(fb)
	if err != nil {
		return nil, err
	}
	out := []byteRange{}
	for _, r := range union(alignOut(ra, int64(unit)), alignOut(rb, int64(unit))) {
		if out, err = differ(out, fa, fb, r, unit); err != nil {
			return nil, err
		}
	}
	return out, nil
}

func differ(out []byteRange, a, b io.ReaderAt, r byteRange, unit int) ([]byteRange, error) {
	chunk := 256 * unit
	pa, pb := make([]byte, chunk), make([]byte, chunk)
	for off := r.Start; off < r.Start+r.Length; off += int64(chunk) {
		n := int(min(int64(chunk), r.Start+r.Length-off))
		na, err := readFull(a, pa[:n], off)
		if err != nil {
			return nil, err
		}
		nb, err := readFull(b, pb[:n], off)
		if err != nil {
			return nil, err
		}
		if na != nb {
			return nil, fmt.Errorf("the disks differ in length at %d", off)
		}
		for at := 0; at < na; at += unit {
			end := min(at+unit, na)
			if !bytes.Equal(pa[at:end], pb[at:end]) {
				out = appendRange(out, byteRange{off + int64(at), int64(end - at)})
			}
		}
	}
	return out, nil
}

// readFull is ReadAt without an error at the end of the file.
func readFull(r io.ReaderAt, p []byte, off int64) (int, error) {
	n, err := r.ReadAt(p, off)
	if errors.Is(err, io.EOF) {
		err = nil
	}
	return n, err
}

// union merges two ascending lists.
func union(a, b []byteRange) []byteRange {
	var out []byteRange
	for len(a) > 0 || len(b) > 0 {
		if len(b) == 0 || len(a) > 0 && a[0].Start <= b[0].Start {
			out, a = appendRange(out, a[0]), a[1:]
		} else {
			out, b = appendRange(out, b[0]), b[1:]
		}
	}
	return out
}

// dataRanges are the parts of a file that are not holes.
func dataRanges(f *os.File) ([]byteRange, error) {
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	var out []byteRange
	for end := int64(0); end < info.Size(); {
		start, err := unix.Seek(int(f.Fd()), end, unix.SEEK_DATA)
		if errors.Is(err, unix.ENXIO) {
			break
		}
		if err != nil {
			return nil, fmt.Errorf("%s: look for data at %d: %w", f.Name(), end, err)
		}
		if end, err = unix.Seek(int(f.Fd()), start, unix.SEEK_HOLE); err != nil {
			return nil, fmt.Errorf("%s: look for a hole at %d: %w", f.Name(), start, err)
		}
		out = append(out, byteRange{start, end - start})
	}
	return out, nil
}

// dataBytes says how much of a file is not holes.
func dataBytes(name string) (int64, error) {
	f, err := os.Open(name)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	ranges, err := dataRanges(f)
	return total(ranges), err
}

// warm reads the data of a file into the page cache. Holes have nothing to read.
func warm(name string) error {
	return eachChunk(name, 1<<20, func([]byte, int64) error { return nil })
}

// eachChunk calls f for every aligned chunk of a file that holds data. p is valid during the call.
func eachChunk(name string, chunk int64, do func(p []byte, off int64) error) error {
	f, err := os.Open(name)
	if err != nil {
		return err
	}
	defer f.Close()
	ranges, err := dataRanges(f)
	if err != nil {
		return err
	}
	p := make([]byte, chunk)
	for _, r := range alignOut(ranges, chunk) {
		for off := r.Start; off < r.Start+r.Length; off += chunk {
			n, err := readFull(f, p, off)
			if err != nil {
				return err
			}
			if err := do(p[:n], off); err != nil {
				return err
			}
		}
	}
	return nil
}
