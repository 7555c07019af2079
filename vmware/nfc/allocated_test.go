package nfc

import (
	"bytes"
	"encoding/binary"
	"testing"

	"github.com/hikae/hikae/pipe"
)

// A host that answers about larger chunks than it was asked for, or about another place or file, and says so in its answer, is
// not believed.
func TestAllocatedAnswerIsHeldToTheQuestion(t *testing.T) {
	disk := make([]byte, 4<<20)
	copy(disk[1<<20:], bytes.Repeat([]byte{7}, 1<<20)) // the second MiB holds data
	for name, mangle := range map[string]func(a *answer){
		"chunks of 1 MiB": func(a *answer) {
			binary.LittleEndian.PutUint64(a.payload[16:], 1<<20)
			clear(a.extra)
			a.extra[0] = 0b0010
		},
		"from 1 MiB on": func(a *answer) {
			binary.LittleEndian.PutUint64(a.payload[24:], 1<<20)
			clear(a.extra)
			a.extra[0], a.extra[1] = 0xff, 0xff
		},
		"another file": func(a *answer) {
			binary.LittleEndian.PutUint64(a.payload[0:], 0x99)
			clear(a.extra)
		},
	} {
		t.Run(name, func(t *testing.T) {
			h := newHost(t, disk)
			d := h.open(t, false, nil)
			h.mangle = func(a *answer) []answer {
				if a.kind == 13 {
					mangle(a)
				}
				return []answer{*a}
			}
			for e, err := range d.Extents(t.Context(), 0, d.Size()) {
				if err != nil {
					t.Log(err)
					return
				}
				if e.Kind == pipe.Zero && e.Off < 2<<20 && e.End() > 1<<20 {
					t.Errorf("%v is called zero, and holds data", e)
				}
			}
		})
	}
}
