package hyperv

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/hikae/hikae"
	"github.com/hikae/hikae/pipe"
)

func someMoment() moment {
	return moment{build: 20348, data: "d1a7a000-0000-4000-8000-000000000001", disk: "0c5d9a1e-7a77-4c5e-9c0b-6b8d1c5a0001", file: "web 1&=_A.avhdx",
		id: "0c5d9a1e-7a77-4c5e-9c0b-6b8d1c5a0001", rct: "rctX:1:2", ref: `Microsoft:A0A`, sector: 512, seq: 40, size: 1 << 30, vm: "a0a00000-0000-4000-8000-000000000001"}
}

// A change id is strict: what this program did not write is not read as one.
func TestMomentIsStrict(t *testing.T) {
	good := someMoment().change()
	got, err := parseMoment(good)
	require.NoError(t, err)
	require.Equal(t, someMoment(), got)
	for _, bad := range []string{"", "hyperv1:", "vmware2:" + string(good[8:]), string(good) + "&x=1", strings.Replace(string(good), "size=1073741824", "size=-1", 1),
		strings.Replace(string(good), "size=1073741824", "size=01073741824", 1), strings.Replace(string(good), "build=20348", "build=0", 1),
		strings.Replace(string(good), "rct=rctX%3A1%3A2", "rct=", 1), string(good) + strings.Repeat("x", maxMoment), strings.Replace(string(good), "&", ";", 1),
		strings.Replace(string(good), "disk=", "disk=a&disk=", 1)} {
		_, err := parseMoment(hikae.ChangeID(bad))
		require.Error(t, err, bad)
	}
	rapid.Check(t, func(t *rapid.T) {
		_, _ = parseMoment(hikae.ChangeID("hyperv1:" + rapid.String().Draw(t, "text")))
	})
}

// Trap 4: what a host's id alone does not tell.
func TestMomentFollows(t *testing.T) {
	data := someMoment().data
	chain := []link{{`C:\VMs\web1\later_B.avhdx`, 1, ""}, {`C:\elsewhere\WEB 1&=_a.avhdx`, 40, data}, {`C:\VMs\web1\base.vhdx`, 2, ""}}
	require.NoError(t, someMoment().follows(someMoment(), chain))
	for what, change := range map[string]func(*moment){
		"another VM":                  func(m *moment) { m.vm = "b" },
		"was replaced":                func(m *moment) { m.id = "another" },
		"resized":                     func(m *moment) { m.size++ },
		"sectors":                     func(m *moment) { m.sector = 4096 },
		"was taken away":              func(m *moment) { m.restored = "2026-01-01T00:00:00Z" },
		"was reverted":                func(m *moment) { m.file = "gone_C.avhdx" },
		"not what became of":          func(m *moment) { m.seq++ },
		"a copy was put in its place": func(m *moment) { m.data = "of another state with the same count" },
	} {
		past := someMoment()
		change(&past)
		err := someMoment().follows(past, chain)
		require.ErrorIs(t, err, hikae.ErrTrackingLost)
		require.ErrorContains(t, err, what)
	}
	now := someMoment()
	now.restored = "2026-01-01T00:00:00Z"
	err := now.follows(someMoment(), chain)
	require.ErrorIs(t, err, hikae.ErrTrackingLost)
	require.EqualError(t, err, "restored in place since the last backup: read in full", "nothing was lost: it is how it is")
}

func TestRestoredWord(t *testing.T) {
	require.Empty(t, restoredWord([]string{"of a person", "not hikae restored x"}))
	require.Equal(t, "2026-11-22T10:00:00Z", restoredWord([]string{"a\nhikae restored 2026-11-22T10:00:00Z\nb"}))
}

func TestRangesAreAlignedAndJoined(t *testing.T) {
	const size = 10*changeGrain + 512
	list := joinRanges([]pipe.Extent{{Off: 1, Len: 2}, {Off: changeGrain + 5, Len: 1}, {Off: 5 * changeGrain, Len: changeGrain}, {Off: size - 1, Len: 1}}, size)
	require.Equal(t, []pipe.Extent{{Len: 2 * changeGrain, Kind: pipe.Data}, {Off: 5 * changeGrain, Len: changeGrain, Kind: pipe.Data}, {Off: 10 * changeGrain, Len: 512, Kind: pipe.Data}}, list)
	pos := int64(0)
	cover(list, size, func(e pipe.Extent, err error) bool {
		require.Equal(t, pos, e.Off)
		pos = e.End()
		return true
	})
	require.EqualValues(t, size, pos)
}
