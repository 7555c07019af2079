package nfsserve

import (
	"encoding/binary"
	"errors"
)

var errMalformed = errors.New("a call is not what its procedure says")

// shapes are the arguments of the procedures (RFC 1813, 3.3 and 5.2), one letter for each part:
//
//	u, U  a number of 32 or 64 bits      h  a handle, at most 64 bytes      n  a name, at most 255
//	o     bytes, at most a message       a  what to set (sattr3)            g  a guard: a flag, and a time where it is set
//	p     a path, at most 1024           m  how to create: 0 and 1 are followed by a, 2 by 8 bytes            r  how much to read, made smaller where it is much
//
// What is not here is not answered: special files and links of both kinds.
var shapes = map[[2]uint32]string{
	{programMount, 0}: "", {programMount, 1}: "p", {programMount, 2}: "", {programMount, 3}: "p", {programMount, 4}: "", {programMount, 5}: "",
	{programNFS, 0}: "", {programNFS, 1}: "h", {programNFS, 2}: "hag", {programNFS, 3}: "hn", {programNFS, 4}: "hu",
	{programNFS, 6}: "hUr", {programNFS, 7}: "hUuuo", {programNFS, 8}: "hnm", {programNFS, 9}: "hna",
	{programNFS, 12}: "hn", {programNFS, 13}: "hn", {programNFS, 14}: "hnhn",
	{programNFS, 16}: "hUUu", {programNFS, 17}: "hUUuu", {programNFS, 18}: "h", {programNFS, 19}: "h", {programNFS, 20}: "h", {programNFS, 21}: "hUu",
}

const (
	maxHandle   = 64
	maxFileName = 255
	maxPath     = 1024
	maxAuth     = 400
	mostRead    = 1 << 20
)

// check takes a call apart (RFC 5531, 9).
func check(call []byte) error {
	p := &parts{b: call}
	p.word() // its number
	kind, version := p.word(), p.word()
	program := p.word()
	p.word() // the program's version: the library answers
	proc := p.word()
	for range 2 { // credential, verifier
		p.word()
		p.opaque(maxAuth)
	}
	shape, known := shapes[[2]uint32{program, proc}]
	if kind != 0 || version != 2 || !known {
		return errMalformed
	}
	for _, part := range shape {
		p.take(part)
	}
	if p.bad || len(p.b) > 0 {
		return errMalformed
	}
	return nil
}

// parts are what is left of a call.
type parts struct {
	b   []byte
	bad bool
}

func (p *parts) take(part rune) {
	switch part {
	case 'u':
		p.word()
	case 'U':
		p.skip(8)
	case 'h':
		p.opaque(maxHandle)
	case 'n':
		p.opaque(maxFileName)
	case 'p':
		p.opaque(maxPath)
	case 'o':
		p.opaque(maxMessage)
	case 'a':
		p.attributes()
	case 'g':
		if p.word() != 0 {
			p.skip(8)
		}
	case 'm':
		if how := p.word(); how < 2 {
			p.attributes()
		} else {
			p.skip(8)
		}
	case 'r':
		if len(p.b) >= 4 && binary.BigEndian.Uint32(p.b) > mostRead {
			binary.BigEndian.PutUint32(p.b, mostRead) // a server may answer with less
		}
		p.word()
	}
}

// attributes are mode, owner, group, size, and two times, each behind a flag.
func (p *parts) attributes() {
	for _, n := range []int{4, 4, 4, 8} {
		if p.word() != 0 {
			p.skip(n)
		}
	}
	for range 2 {
		if p.word() == 2 { // 1 is the server's own time
			p.skip(8)
		}
	}
}

func (p *parts) word() uint32 {
	if len(p.b) < 4 {
		p.bad, p.b = true, nil
		return 0
	}
	w := binary.BigEndian.Uint32(p.b)
	p.b = p.b[4:]
	return w
}

func (p *parts) skip(n int) {
	if len(p.b) < n {
		p.bad, p.b = true, nil
		return
	}
	p.b = p.b[n:]
}

func (p *parts) opaque(most int) {
	n := int64(p.word())
	if n > int64(most) {
		p.bad = true
		return
	}
	p.skip(int((n + 3) &^ 3))
}
