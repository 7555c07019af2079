package vmwaretest

import (
	"errors"
	"strconv"
	"strings"
)

// errRange says that a range lies outside of the file.
var errRange = errors.New("range not satisfiable")

// byteRange is the part of a file that a request wants.
type byteRange struct {
	off, n  int64
	partial bool // the request named it
}

// parseRange reads a Range header for a file of size bytes. What is no single range of bytes is passed over, as RFC 9110 lets a
// server do, and then the whole file is meant.
func parseRange(header string, size int64) (byteRange, error) {
	whole := byteRange{n: size}
	spec, ok := strings.CutPrefix(header, "bytes=")
	if !ok || len(spec) > 64 || strings.Contains(spec, ",") {
		return whole, nil
	}
	from, to, ok := strings.Cut(strings.TrimSpace(spec), "-")
	if !ok {
		return whole, nil
	}
	if from == "" {
		return suffixRange(to, size)
	}
	first, err := strconv.ParseInt(from, 10, 64)
	if err != nil || first < 0 {
		return whole, nil
	}
	last := size - 1
	if to != "" {
		if last, err = strconv.ParseInt(to, 10, 64); err != nil || last < first {
			return whole, nil
		}
	}
	if first >= size {
		return byteRange{}, errRange
	}
	return byteRange{off: first, n: min(last, size-1) - first + 1, partial: true}, nil
}

// suffixRange is the last bytes of a file.
func suffixRange(length string, size int64) (byteRange, error) {
	n, err := strconv.ParseInt(length, 10, 64)
	if err != nil || n < 0 {
		return byteRange{n: size}, nil
	}
	if n == 0 || size == 0 {
		return byteRange{}, errRange
	}
	n = min(n, size)
	return byteRange{off: size - n, n: n, partial: true}, nil
}
