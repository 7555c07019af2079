package ntfs

import (
	"testing"

	"github.com/stretchr/testify/require"
)

// withShadow puts a catalog of shadow copies with the given entries, and one store, where the volume's end is free.
func withShadow(raw []byte, attributes uint32, entries ...uint64) []byte {
	raw = append([]byte(nil), raw...)
	const catalog, store = 4 << 20, 5 << 20
	block := func(at int64, kind uint32) []byte {
		p := raw[at:]
		clear(p[:shadowBlock])
		copy(p, shadowMark)
		le.PutUint32(p[16:], 1)
		le.PutUint32(p[20:], kind)
		le.PutUint64(p[32:], uint64(at))
		return p
	}
	h := raw[shadowAt:]
	clear(h[:512])
	copy(h, shadowMark)
	le.PutUint32(h[16:], 2)
	le.PutUint32(h[20:], 1)
	le.PutUint64(h[24:], shadowAt)
	if len(entries) > 0 {
		le.PutUint64(h[48:], catalog)
	}
	p := block(catalog, 2)
	for i, kind := range entries {
		e := p[128*(i+1):]
		le.PutUint64(e, kind)
		if kind == 3 {
			le.PutUint64(e[32:], store)
		}
	}
	s := block(store, 4)
	le.PutUint32(s[128+56:], attributes)
	return raw
}

// What of an old file was not overwritten since a shadow copy was made lies where the file was, in what the bitmap of
// today calls free: a volume with shadow copies that a restart keeps is stored whole.
func TestShadowCopiesNeedFreeSpace(t *testing.T) {
	raw := sample(t, "clean")
	const persistent, autoRecover = 1, 0x400000
	for name, c := range map[string]struct {
		attributes uint32
		entries    []uint64
		doubt      bool
	}{
		"enabled, none made": {persistent, nil, false},
		"all deleted":        {persistent, []uint64{1, 1, 0}, false},
		"one":                {persistent, []uint64{2, 3}, true},
		"in any order":       {persistent | autoRecover, []uint64{1, 3, 1, 2}, true},
		"of a backup":        {autoRecover, []uint64{2, 3}, false}, // it is gone when the machine starts
		"without a store":    {autoRecover, []uint64{2}, true},
		"unknown":            {autoRecover, []uint64{2, 3, 9}, true},
	} {
		f, err := Open(t.Context(), &edited{raw: withShadow(raw, c.attributes, c.entries...)})
		require.NoError(t, err, name)
		if c.doubt {
			require.Contains(t, f.Info().Doubt, "shadow", name)
		} else {
			require.Empty(t, f.Info().Doubt, name)
		}
	}
	// A catalog that is damaged, leads in a circle or outside may be that of shadow copies.
	good := withShadow(raw, autoRecover, 2, 3)
	for name, edit := range map[string]func(p []byte){
		"no mark":   func(p []byte) { p[4<<20] ^= 1 },
		"kind":      func(p []byte) { p[4<<20+20] = 7 },
		"store":     func(p []byte) { p[5<<20] ^= 1 },
		"outside":   func(p []byte) { le.PutUint64(p[shadowAt+48:], uint64(len(p))) },
		"negative":  func(p []byte) { le.PutUint64(p[shadowAt+48:], 1<<63) },
		"in itself": func(p []byte) { le.PutUint64(p[4<<20+40:], 4<<20) },
		"next":      func(p []byte) { le.PutUint64(p[4<<20+40:], 1<<62) },
		"header":    func(p []byte) { p[shadowAt+20] = 3 },
	} {
		p := append([]byte(nil), good...)
		edit(p)
		f, err := Open(t.Context(), &edited{raw: p})
		require.NoError(t, err, name)
		require.Contains(t, f.Info().Doubt, "shadow", name)
	}
}
