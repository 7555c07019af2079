package fat

import (
	"encoding/binary"
	"strings"
	"unicode/utf16"
)

// upper is the upper half of the character set that short names are in where nobody says otherwise: code page 437.
var upper = []rune("ÇüéâäàåçêëèïîìÄÅÉæÆôöòûùÿÖÜ¢£¥₧ƒáíóúñÑªº¿⌐¬½¼¡«»░▒▓│┤╡╢╖╕╣║╗╝╜╛┐└┴┬├─┼╞╟╚╔╩╦╠═╬╧╨╤╥╙╘╒╓╫╪┘┌█▄▌▐▀αßΓπΣσµτΦΘΩδ∞φε∩≡±≥≤⌠⌡÷≈°∙·√ⁿ²■\u00a0")

func decodeOEM(p []byte) string {
	var b strings.Builder
	for _, c := range p {
		if c < 0x80 {
			b.WriteByte(c)
		} else {
			b.WriteRune(upper[c-0x80])
		}
	}
	return b.String()
}

// shortName is the name in a short entry: eight characters and three, of which two flags say that they are small.
func shortName(e []byte) string {
	base, ext := [8]byte(e[:8]), [3]byte(e[8:11])
	if base[0] == 0x05 { // stands for 0xE5, which marks what is deleted
		base[0] = 0xE5
	}
	name := strings.TrimRight(decodeOEM(base[:]), " ")
	if e[12]&0x08 != 0 {
		name = strings.ToLower(name)
	}
	if end := strings.TrimRight(decodeOEM(ext[:]), " "); end != "" {
		if e[12]&0x10 != 0 {
			end = strings.ToLower(end)
		}
		name += "." + end
	}
	return name
}

// nameSum is the checksum of a short name that the parts of its long name carry.
func nameSum(e []byte) (sum byte) {
	for _, c := range e[:11] {
		sum = sum>>1 | sum<<7
		sum += c
	}
	return sum
}

const (
	longUnits = 13 // UTF-16 units in a part
	longParts = 20
)

// longName is a long name as its parts come in: the last first.
type longName struct {
	parts [longParts][longUnits]uint16
	count int // parts that there are
	next  int // the number of the part that is awaited; 0: the name is whole
	sum   byte
}

// add takes one part. A part that does not follow begins anew, or is nothing.
func (n *longName) add(e []byte) {
	number := int(e[0] & 0x3F)
	switch {
	case number < 1 || number > longParts:
		n.count = 0
		return
	case e[0]&0x40 != 0:
		n.count, n.next, n.sum = number, number, e[13]
	case n.count == 0 || number != n.next || e[13] != n.sum:
		n.count = 0
		return
	}
	part := &n.parts[number-1]
	for i := range part {
		at := 1 + 2*i
		if i >= 5 {
			at = 14 + 2*(i-5)
		}
		if i >= 11 {
			at = 28 + 2*(i-11)
		}
		part[i] = binary.LittleEndian.Uint16(e[at:])
	}
	n.next = number - 1
}

// take is the name if it is whole and belongs to the short entry e; it forgets the parts.
func (n *longName) take(e []byte) string {
	count := n.count
	n.count = 0
	if count == 0 || n.next != 0 || n.sum != nameSum(e) {
		return ""
	}
	var units []uint16
	for i := range count {
		for _, u := range n.parts[i] {
			if u == 0 {
				return string(utf16.Decode(units))
			}
			units = append(units, u)
		}
	}
	return string(utf16.Decode(units))
}
