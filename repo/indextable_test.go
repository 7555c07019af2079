package repo

import (
	"encoding/binary"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/hikae/hikae/pipe"
)

// A part of the table against lists by tag, through growth into mapped memory: every record is there, those of one tag in the order
// in which they came, also where runs go around the end.
func TestSlotPartAgainstLists(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var table slotTable
		defer table.free()
		p := table.part(pipe.ID{7})
		model := map[uint32][]uint32{}
		tags := rapid.SliceOfN(rapid.OneOf(rapid.Uint32(), rapid.Uint32Range(0xFFFFFF00, 0xFFFFFFFF)), 1, 40).Draw(t, "tags")
		step := rapid.Uint32().Draw(t, "step") | 1
		for n := range uint32(rapid.IntRange(1, 5000).Draw(t, "records")) {
			tag := n * step
			if n%100 == 0 { // long lists make long runs: few of them
				tag = tags[int(n/100)%len(tags)]
			}
			require.NoError(t, p.room())
			at := p.home(tag)
			for p.slots[at] != 0 {
				at = p.next(at)
			}
			p.take(at, tag, n)
			model[tag] = append(model[tag], n)
		}
		require.Equal(t, 8*len(p.slots), table.bytes())
		for tag, want := range model {
			var got []uint32
			for at := p.home(tag); p.slots[at] != 0; at = p.next(at) {
				if uint32(p.slots[at]>>32) == tag {
					got = append(got, p.record(at))
				}
			}
			require.Equal(t, want, got)
		}
	})
}

// Room that was made at once is as much as is needed, and no more than growing would have come to.
func TestSlotTableReserve(t *testing.T) {
	var grown, reserved slotTable
	defer grown.free()
	defer reserved.free()
	const n = 1_200_000 // its parts are mapped
	require.NoError(t, reserved.reserve(n))
	before := reserved.bytes()
	for i := range uint32(n) {
		var id pipe.ID
		binary.LittleEndian.PutUint64(id[:], uint64(i+1)*0x9E3779B97F4A7C15)
		for _, table := range []*slotTable{&grown, &reserved} {
			p := table.part(id)
			require.NoError(t, p.room())
			at := p.home(tagOf(id))
			for p.slots[at] != 0 {
				at = p.next(at)
			}
			p.take(at, tagOf(id), i)
		}
	}
	require.LessOrEqual(t, before, n*10)
	require.LessOrEqual(t, grown.bytes(), n*11)
	require.LessOrEqual(t, reserved.bytes(), n*11)
	grown.free()
	require.Zero(t, grown.bytes())
}
