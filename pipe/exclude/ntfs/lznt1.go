package ntfs

import (
	"errors"
)

// lzChunk is how much of the plain content one chunk of LZNT1 stands for; only the last may be shorter.
const lzChunk = 4 << 10

var errLZ = errors.New("compressed content does not decode")

// decodeLZNT1 fills dst from src, which may be longer than what is needed. What src does not cover reads as zero.
//
// Content is in chunks of up to 4 KiB, each with a header of two bytes: its length less 3, and whether it is
// compressed. A header of 0 is the end. It reads only src and writes only dst, once for each byte.
func decodeLZNT1(dst, src []byte) error {
	for len(dst) > 0 && len(src) >= 2 {
		h := le.Uint16(src)
		if h == 0 {
			break
		}
		n := int(h&0xFFF) + 3
		if n > len(src) {
			return errLZ
		}
		out := dst[:min(lzChunk, len(dst))]
		var err error
		var done int
		if h&0x8000 == 0 {
			done = copy(out, src[2:n])
		} else if done, err = decodeChunk(out, src[2:n]); err != nil {
			return err
		}
		clear(out[done:])
		dst, src = dst[len(out):], src[n:]
	}
	clear(dst)
	return nil
}

// decodeChunk decodes groups of eight tokens behind a byte of flags: a byte as it is, or a copy of what came before.
// How many bits of a copy are its distance grows with what has come.
func decodeChunk(dst, src []byte) (n int, err error) {
	for len(src) > 0 {
		flags := src[0]
		src = src[1:]
		for bit := 0; bit < 8 && len(src) > 0; bit++ {
			if flags>>bit&1 == 0 {
				if n == len(dst) {
					return n, nil
				}
				dst[n] = src[0]
				n, src = n+1, src[1:]
				continue
			}
			if len(src) < 2 || n == 0 {
				return n, errLZ
			}
			token := int(le.Uint16(src))
			src = src[2:]
			lengthBits := 12
			for i := n - 1; i >= 16; i >>= 1 {
				lengthBits--
			}
			back := token>>lengthBits + 1
			length := token&(1<<lengthBits-1) + 3
			if back > n {
				return n, errLZ
			}
			for length = min(length, len(dst)-n); length > 0; length-- {
				dst[n] = dst[n-back]
				n++
			}
		}
	}
	return n, nil
}
