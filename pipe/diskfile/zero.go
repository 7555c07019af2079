package diskfile

import (
	"bytes"
	"os"
)

// page is the unit in which zeros are looked for: that of nearly every file system, so that a smaller hole cannot exist.
// A larger one gains nothing: 637 MiB of files in a fresh ext4 disk of 1.5 GiB make 10 runs of data with 4 KiB and 8 with
// 64 KiB, and writing them takes the same time.
const page = 4 << 10

var zeroPage [page]byte

// IsZero reports whether p is all zeros.
func IsZero(p []byte) bool {
	for len(p) >= page {
		if !bytes.Equal(p[:page], zeroPage[:]) {
			return false
		}
		p = p[page:]
	}
	return bytes.Equal(p, zeroPage[:len(p)])
}

// span is a part of a buffer that is all zeros, or is not.
type span struct {
	off  int // in the buffer
	end  int
	zero bool
}

// spans cuts p, which belongs at byte off of a file, at page borders into parts that are all zeros and parts that are
// not. Neighbours differ.
func spans(p []byte, off int64) []span {
	var out []span
	for at := 0; at < len(p); {
		end := min(at+page-int((off+int64(at))%page), len(p))
		zero := IsZero(p[at:end])
		if last := len(out) - 1; last >= 0 && out[last].zero == zero {
			out[last].end = end
		} else {
			out = append(out, span{at, end, zero})
		}
		at = end
	}
	return out
}

// writeZeros makes a range zero the long way.
func writeZeros(f *os.File, off, n int64) error {
	zeros := make([]byte, min(n, 1<<20))
	for n > 0 {
		done, err := f.WriteAt(zeros[:min(n, int64(len(zeros)))], off)
		if err != nil {
			return err
		}
		off, n = off+int64(done), n-int64(done)
	}
	return nil
}
