package vmdk_test

import (
	"bytes"
	"compress/zlib"
	"encoding/binary"
	"fmt"
	"io"
	"math"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae/pipe"
	"github.com/hikae/hikae/pipe/pipetest"
	"github.com/hikae/hikae/vmware/vmdk"
)

// small is an extent of 40 sectors in 5 grains: data, absent, zero, data, data.
func small() piece {
	p := piece{sectors: 40, grain: 8, kinds: []int{filled, absent, zeroed, filled, filled}, content: make([]byte, 40*512)}
	for i, kind := range p.kinds {
		if kind == filled {
			copy(p.content[i*4096:], bytes.Repeat([]byte{byte('a' + i)}, 4096))
		}
	}
	return p
}

const embedded = "# Disk DescriptorFile\nversion=1\nCID=00000001\nparentCID=ffffffff\ncreateType=\"monolithicSparse\"\nRW 40 SPARSE \"d.vmdk\"\n"

// forms are the same small disk in every form, as the file d.vmdk and its extent e.
func forms() map[string]memoryFolder {
	p, unzeroed := small(), small()
	unzeroed.kinds[2] = absent
	withExtent := func(kind string, b []byte) memoryFolder {
		return memoryFolder{"d.vmdk": text("00000001", none, "", "RW 40 "+kind+" \"e\"\n"), "e": string(b)}
	}
	return map[string]memoryFolder{
		"hosted":   {"d.vmdk": string(p.hosted(newRand(2), 2, embedded))},
		"stream":   {"d.vmdk": string(unzeroed.stream(newRand(2), 4, embedded))},
		"sparse":   withExtent("SPARSE", p.hosted(newRand(2), 2, "")),
		"cowd":     withExtent("VMFSSPARSE", unzeroed.cowd(newRand(2))),
		"sesparse": withExtent("SESPARSE", p.sesparseAt(newRand(2), 3)),
		"flat":     withExtent("VMFS", p.content),
	}
}

// openAll opens and reads a whole disk of at most 64 MiB.
func openAll(t testing.TB, folder memoryFolder) ([]byte, error) {
	img, err := vmdk.OpenIn(t.Context(), folder, "d.vmdk", nil)
	if err != nil {
		return nil, err
	}
	defer img.Close()
	for _, err := range img.Extents(t.Context(), 0, min(img.Size(), 64<<20)) {
		if err != nil {
			return nil, err
		}
	}
	out := make([]byte, min(img.Size(), 64<<20))
	if _, err := img.ReadAt(t.Context(), out, 0); err != nil && err != io.EOF {
		return nil, err
	}
	return out, nil
}

// bounded holds f to a second and 128 MiB. Other work on the machine may make one run slow, not three.
func bounded(t *testing.T, f func()) {
	t.Helper()
	for try := 1; ; try++ {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		start := time.Now()
		f()
		took := time.Since(start)
		runtime.ReadMemStats(&after)
		require.Less(t, after.TotalAlloc-before.TotalAlloc, uint64(128<<20))
		if took < time.Second {
			return
		}
		require.Less(t, try, 3, "it took %v", took)
	}
}

func TestForms(t *testing.T) {
	for name, folder := range forms() {
		got, err := openAll(t, folder)
		require.NoError(t, err, name)
		require.Equal(t, -1, firstDifference(small().content, got), name)
	}
}

// TestCut: a file that ends anywhere gives a typed error or, where nothing that is needed is missing, the right bytes.
func TestCut(t *testing.T) {
	for name, folder := range forms() {
		t.Run(name, func(t *testing.T) {
			for part, whole := range folder {
				failed := 0
				for n := 0; n < len(whole); n += 1 + n%97*min(n/2000, 1) {
					cut := memoryFolder{}
					for k, v := range folder {
						cut[k] = v
					}
					cut[part] = whole[:n]
					got, err := openAll(t, cut)
					if err != nil {
						requireKnown(t, err)
						failed++
						continue
					}
					require.Equal(t, -1, firstDifference(small().content, got), "%s of %d bytes", part, n)
				}
				require.Positive(t, failed)
			}
		})
	}
}

// TestHostile: what was made to deceive is told from what is not, at no cost (RELIABILITY 1.6).
func TestHostile(t *testing.T) {
	edit := func(form, part string, change func(b []byte)) memoryFolder {
		f := forms()[form]
		b := []byte(f[part])
		change(b)
		f[part] = string(b)
		return f
	}
	hosted := func(change func(b []byte)) memoryFolder { return edit("hosted", "d.vmdk", change) }
	plain := func(extents string) memoryFolder {
		return memoryFolder{"d.vmdk": text("00000001", none, "", extents), "e": "x"}
	}
	u32 := binary.LittleEndian.Uint32
	corrupt, unsupported, reference := new(*vmdk.CorruptError), new(*vmdk.UnsupportedError), new(*vmdk.ReferenceError)
	for name, test := range map[string]struct {
		folder memoryFolder
		want   any
	}{
		"many extents":             {plain(strings.Repeat("RW 1 ZERO\n", 8193)), corrupt},
		"descriptor of 2 MiB":      {plain(strings.Repeat("RW 1 ZERO\n", 200_000)), corrupt},
		"sectors overflow":         {plain("RW 9223372036854775807 ZERO\n"), corrupt},
		"sectors beyond 64 bits":   {plain("RW 9999999999999999999 ZERO\n"), corrupt},
		"sum overflows":            {plain(strings.Repeat("RW 4503599627370000 ZERO\n", 2)), corrupt},
		"negative sectors":         {plain("RW -5 ZERO\n"), corrupt},
		"offset overflows":         {plain("RW 1 FLAT \"e\" 9223372036854775807\n"), corrupt},
		"flat too short":           {plain("RW 1 FLAT \"e\" 0\n"), corrupt},
		"flat of 2^61 bytes":       {plain("RW 4503599627370000 FLAT \"e\" 1\n"), corrupt},
		"name with a zero byte":    {plain("RW 1 FLAT \"e\x00\" 0\n"), corrupt},
		"unknown type":             {plain("RW 1 VMFSRDM \"e\"\n"), unsupported},
		"no CID":                   {memoryFolder{"d.vmdk": "# Disk DescriptorFile\nRW 1 ZERO\n"}, corrupt},
		"CID twice":                {plain("CID=00000002\nRW 1 ZERO\n"), corrupt},
		"CID is no number":         {memoryFolder{"d.vmdk": text("xyz", none, "", "RW 1 ZERO")}, corrupt},
		"no extents":               {plain(""), corrupt},
		"extent is missing":        {plain("RW 1 FLAT \"gone\" 0\n"), reference},
		"descriptor as its extent": {plain("RW 1 SPARSE \"d.vmdk\"\n"), corrupt},
		"cowd alone":               {memoryFolder{"d.vmdk": forms()["cowd"]["e"]}, unsupported},
		"sesparse alone":           {memoryFolder{"d.vmdk": forms()["sesparse"]["e"]}, unsupported},
		"sparse alone":             {memoryFolder{"d.vmdk": forms()["sparse"]["e"]}, unsupported},

		"capacity overflows":      {hosted(func(b []byte) { le64(b, 12, math.MaxInt64) }), corrupt},
		"capacity of 2^61 bytes":  {hosted(func(b []byte) { le64(b, 12, 1<<52) }), corrupt},
		"grains of none":          {hosted(func(b []byte) { le64(b, 20, 0) }), corrupt},
		"grains of 2^62":          {hosted(func(b []byte) { le64(b, 20, 1<<62) }), corrupt},
		"grains overflow int64":   {hosted(func(b []byte) { le64(b, 20, 1<<52) }), corrupt},
		"tables of none":          {hosted(func(b []byte) { le32(b, 44, 0) }), corrupt},
		"tables of 2^32-1":        {hosted(func(b []byte) { le32(b, 44, math.MaxUint32) }), corrupt},
		"directory is the header": {hosted(func(b []byte) { le64(b, 56, 0) }), corrupt},
		"directory beyond":        {hosted(func(b []byte) { le64(b, 56, 1<<51) }), corrupt},
		"directory overflows":     {hosted(func(b []byte) { le64(b, 56, math.MaxInt64) }), corrupt},
		"descriptor beyond":       {hosted(func(b []byte) { le64(b, 28, 1<<51) }), corrupt},
		"descriptor of 2^61":      {hosted(func(b []byte) { le64(b, 36, 1<<52) }), corrupt},
		"sent as text":            {hosted(func(b []byte) { copy(b[73:], "\r\n \r") }), corrupt},
		"version 4":               {hosted(func(b []byte) { le32(b, 4, 4) }), unsupported},
		"unknown flag":            {hosted(func(b []byte) { le32(b, 8, 1<<20|7) }), unsupported},
		"directory entry to itself": {hosted(func(b []byte) {
			dir := int64(binary.LittleEndian.Uint64(b[56:]))
			le32(b, dir*512, dir)
			le32(b, int64(binary.LittleEndian.Uint64(b[48:]))*512, dir)
		}), corrupt},
		"table to itself": {hosted(func(b []byte) {
			table := int64(u32(b[binary.LittleEndian.Uint64(b[56:])*512:]))
			le32(b, table*512, table)
		}), corrupt},
		"grain beyond": {hosted(func(b []byte) {
			le32(b, int64(u32(b[binary.LittleEndian.Uint64(b[56:])*512:]))*512, math.MaxUint32)
		}), corrupt},

		"cowd: grains of 2^32-1":   {edit("cowd", "e", func(b []byte) { le32(b, 16, math.MaxUint32) }), corrupt},
		"cowd: directory too few":  {edit("cowd", "e", func(b []byte) { le32(b, 24, 0) }), corrupt},
		"cowd: directory beyond":   {edit("cowd", "e", func(b []byte) { le32(b, 20, math.MaxUint32) }), corrupt},
		"cowd: less than said":     {edit("cowd", "e", func(b []byte) { le32(b, 12, 39) }), corrupt},
		"cowd: version 2":          {edit("cowd", "e", func(b []byte) { le32(b, 4, 2) }), unsupported},
		"sesparse: journal":        {edit("sesparse", "e", func(b []byte) { b[512+24] = 1 }), unsupported},
		"sesparse: no volatile":    {edit("sesparse", "e", func(b []byte) { le64(b, 80, 1<<50) }), corrupt},
		"sesparse: capacity 2^63":  {edit("sesparse", "e", func(b []byte) { b[23] = 0x80 }), corrupt},
		"sesparse: table too far":  {edit("sesparse", "e", func(b []byte) { le64(b, 3*512, 1<<60|9) }), corrupt},
		"sesparse: directory kind": {edit("sesparse", "e", func(b []byte) { le64(b, 3*512, 2<<60) }), corrupt},
		"sesparse: grain kind":     {edit("sesparse", "e", func(b []byte) { b[64*512+7] = 0x70 }), corrupt},
		"sesparse: absent and not": {edit("sesparse", "e", func(b []byte) { le64(b, 64*512, 5) }), corrupt},
		"sesparse: grain too far":  {edit("sesparse", "e", func(b []byte) { le64(b, 64*512, 3<<60|1<<40) }), corrupt},
		"sesparse: version 3":      {edit("sesparse", "e", func(b []byte) { le64(b, 8, 0x300000000) }), unsupported},

		"stream: bomb":               {bomb(1 << 20), corrupt},
		"stream: grains of 2^30":     {edit("stream", "d.vmdk", func(b []byte) { le64(b, 20, 1<<21); le64(b, int64(len(b))-1024+20, 1<<21) }), corrupt},
		"stream: another sector":     {edit("stream", "d.vmdk", func(b []byte) { b[32*512]++ }), corrupt},
		"stream: grain of 2^32-1":    {edit("stream", "d.vmdk", func(b []byte) { le32(b, 32*512+8, math.MaxUint32) }), corrupt},
		"stream: no compression":     {edit("stream", "d.vmdk", func(b []byte) { b[77] = 9 }), unsupported},
		"stream: one byte of data":   {edit("stream", "d.vmdk", func(b []byte) { b[32*512+20] ^= 1 }), corrupt},
		"stream: footer to a footer": {edit("stream", "d.vmdk", func(b []byte) { le64(b, int64(len(b))-1024+56, -1) }), corrupt},
	} {
		t.Run(name, func(t *testing.T) {
			bounded(t, func() {
				_, err := openAll(t, test.folder)
				require.ErrorAs(t, err, test.want)
				require.NotEmpty(t, err.Error())
			})
		})
	}
}

// bomb is a stream whose first grain unpacks to n bytes and more, of which it admits 4 KiB.
func bomb(n int) memoryFolder {
	var z bytes.Buffer
	w := zlib.NewWriter(&z)
	w.Write(make([]byte, n))
	w.Close()
	p := small()
	b := p.stream(newRand(2), 4, embedded)
	le32(b, 32*512+8, int64(z.Len()))
	copy(b[32*512+12:], z.Bytes())
	return memoryFolder{"d.vmdk": string(b)}
}

// TestBombStream: the same in one pass.
func TestBombStream(t *testing.T) {
	b := []byte(bomb(1 << 20)["d.vmdk"])
	bounded(t, func() {
		_, err := streamed(t, b)
		require.ErrorIs(t, err, vmdk.ErrCorrupt)
	})
}

// frontTables is a stream with its tables in front, all of them the same one: 2^38 entries in 2 MiB.
func frontTables() string {
	f := &file{}
	copy(f.at(1, 20), embedded)
	hostedHeader(f, 0x30001, 1<<35, 1, 1, 20, 1<<16, 0, 21, 21+4096, 3)
	for i := range int64(16) {
		le32(f.at(21, 1), i*4, 21)
	}
	return string(f.b)
}

// TestFrontTables: counting what the tables in front know of takes no longer than reading them.
func TestFrontTables(t *testing.T) {
	b := append([]byte(frontTables()), make([]byte, 4096*512)...)
	for i := range int64(4096 * 128) {
		le32(b, 21*512+i*4, 21)
	}
	bounded(t, func() {
		_, err := streamed(t, b)
		require.ErrorIs(t, err, vmdk.ErrCorrupt)
	})
}

// TestSpareDirectory: where the directory is lost, its copy is read.
func TestSpareDirectory(t *testing.T) {
	f := forms()["hosted"]
	b := []byte(f["d.vmdk"])
	dir := int64(binary.LittleEndian.Uint64(b[56:]))
	for i := range int64(3) {
		le32(b, dir*512+i*4, math.MaxUint32-i)
	}
	got, err := openAll(t, memoryFolder{"d.vmdk": string(b)})
	require.NoError(t, err)
	require.Equal(t, -1, firstDifference(small().content, got))
}

// TestReadErrors: an error of a file comes back with its place, and no later read is the worse for it.
func TestReadErrors(t *testing.T) {
	p := small()
	b := p.hosted(newRand(2), 2, embedded)
	for n := int64(1); ; n++ {
		fault := pipetest.FailNth(n, false, "readat")
		img, err := vmdk.OpenIn(t.Context(), hooked{b, fault.Hook}, "d.vmdk", nil)
		if err == nil {
			out := make([]byte, img.Size())
			_, err = img.ReadAt(t.Context(), out, 0)
			if err == nil {
				require.Greater(t, n, int64(3))
				return
			}
			_, again := img.ReadAt(t.Context(), out, 0)
			require.NoError(t, again)
			require.Equal(t, -1, firstDifference(p.content, out))
		}
		require.ErrorIs(t, err, pipetest.ErrFault, fmt.Sprint(n))
	}
}

var _ pipe.Image = (*vmdk.Image)(nil)
