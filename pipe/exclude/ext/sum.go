package ext

import "hash/crc32"

// The format uses its checksums raw, without the inversions at both ends that the names commonly imply.

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// crc32c goes on from a raw sum.
func crc32c(sum uint32, p []byte) uint32 { return ^crc32.Update(^sum, castagnoli, p) }

// crc32cWord goes on with a number in little-endian order, crc32cBig in the log's.
func crc32cWord(sum, v uint32) uint32 {
	return crc32c(sum, []byte{byte(v), byte(v >> 8), byte(v >> 16), byte(v >> 24)})
}

func crc32cBig(sum, v uint32) uint32 {
	return crc32c(sum, []byte{byte(v >> 24), byte(v >> 16), byte(v >> 8), byte(v)})
}

var (
	crc16Table = makeCRC16()
	crcBETable = makeCRCBE()
)

// makeCRC16 is of the polynomial x^16+x^15+x^2+1, reflected.
func makeCRC16() (t [256]uint16) {
	for i := range t {
		c := uint16(i)
		for range 8 {
			if c&1 != 0 {
				c = c>>1 ^ 0xa001
			} else {
				c >>= 1
			}
		}
		t[i] = c
	}
	return t
}

func crc16(sum uint16, p []byte) uint16 {
	for _, b := range p {
		sum = sum>>8 ^ crc16Table[byte(sum)^b]
	}
	return sum
}

// makeCRCBE is of CRC-32's polynomial with the highest bit first, as the log's first version has it.
func makeCRCBE() (t [256]uint32) {
	for i := range t {
		c := uint32(i) << 24
		for range 8 {
			if c&(1<<31) != 0 {
				c = c<<1 ^ 0x04c11db7
			} else {
				c <<= 1
			}
		}
		t[i] = c
	}
	return t
}

func crc32be(sum uint32, p []byte) uint32 {
	for _, b := range p {
		sum = sum<<8 ^ crcBETable[byte(sum>>24)^b]
	}
	return sum
}
