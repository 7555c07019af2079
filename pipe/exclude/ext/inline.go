package ext

import "bytes"

const (
	attrMagic  = 0xea020000
	attrSystem = 7 // the prefix "system."
)

// inlineData is the content that an inode has in itself: where others have their block map, and for the rest in an
// attribute called system.data.
func (v *view) inlineData(i *inode) ([]byte, error) {
	head := i.blockArea()
	rest, err := i.attribute(attrSystem, "data")
	if err != nil {
		return nil, err
	}
	return append(bytes.Clone(head), rest...), nil
}

// attribute finds an attribute within the inode; without it the answer is empty.
//
//	magic │ name length, prefix │ offset of the value │ its inode │ its size │ hash │ name … │ … │ 0 0 0 0 │ … values
func (i *inode) attribute(prefix byte, name string) ([]byte, error) {
	p := i.raw[min(len(i.raw), 128+i.extra()):]
	if len(p) < 8 || le.Uint32(p) != attrMagic {
		return nil, nil
	}
	p = p[4:] // values count from here
	for at := 0; ; {
		if at+16 > len(p) || le.Uint32(p[at:]) == 0 {
			return nil, nil
		}
		n := int(p[at])
		if at+16+n > len(p) {
			return nil, i.corrupt("the name of an attribute ends outside")
		}
		if p[at+1] == prefix && string(p[at+16:at+16+n]) == name {
			off, size := int(le.Uint16(p[at+2:])), int(le.Uint32(p[at+8:]))
			if le.Uint32(p[at+4:]) != 0 || size < 0 || off+size > len(p) || off+size < off {
				return nil, i.corrupt("the value of an attribute ends outside")
			}
			return p[off : off+size], nil
		}
		at += (16 + n + 3) &^ 3
	}
}
