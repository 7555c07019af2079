package cell_test

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/zeebo/blake3"

	"github.com/hikae/hikae/repo/internal/cell"
)

var update = flag.Bool("update", false, "write testdata/cells again")

const vectorDir = "../../testdata/cells"

// vector is one file of testdata/cells; README.md there says it in words for other languages.
type vector struct {
	Name     string   `json:"name"`
	Kind     uint8    `json:"kind"`
	Object   string   `json:"object"`
	Repo     string   `json:"repository"`
	Permille int      `json:"parityPermille"`
	Length   int      `json:"streamLength"` // of BLAKE3's extended output of the name
	N        int      `json:"n"`
	M        int      `json:"m"`
	Code     uint8    `json:"code"`
	Parity   []string `json:"parityPayloads"` // BLAKE3 of each
	File     string   `json:"file"`           // BLAKE3 of the whole
	Trailers []string `json:"trailers,omitempty"`
	Damage   []hurt   `json:"damage"`
}

// hurt is one way to damage the file, and what a reader must make of it.
type hurt struct {
	Zero     [][2]int `json:"zero,omitempty"` // offset, length
	Flip     []int    `json:"flip,omitempty"` // bit 0 of these bytes
	Truncate *int     `json:"truncate,omitempty"`
	Swap     [][2]int `json:"swap,omitempty"` // places of cells
	Append   string   `json:"append,omitempty"`

	Damaged []int  `json:"damaged"`
	Error   string `json:"error,omitempty"` // "damage"; none: the stream comes back whole
}

func (h *hurt) apply(file []byte) []byte {
	file = bytes.Clone(file)
	for _, z := range h.Zero {
		clear(file[z[0] : z[0]+z[1]])
	}
	for _, at := range h.Flip {
		file[at] ^= 1
	}
	for _, s := range h.Swap {
		a, b := file[s[0]*cell.Size:][:cell.Size], file[s[1]*cell.Size:][:cell.Size]
		keep := bytes.Clone(a)
		copy(a, b)
		copy(b, keep)
	}
	if h.Truncate != nil {
		file = file[:*h.Truncate]
	}
	more, _ := hex.DecodeString(h.Append)
	return append(file, more...)
}

func digest(p []byte) string {
	sum := blake3.Sum256(p)
	return hex.EncodeToString(sum[:])
}

func at(n int) *int { return &n }

// plans are what the vectors are made from; everything else in them is computed.
var plans = []vector{
	{Name: "code1-empty", Length: 0, Permille: 30, Damage: []hurt{
		{Zero: [][2]int{{0, 8192}}, Damaged: []int{0, 1}},
	}},
	{Name: "code1-one-byte", Length: 1, Permille: 500, Damage: []hurt{
		{Truncate: at(4096), Damaged: []int{1, 2}},
		{Flip: []int{0, 4096, 8192}, Damaged: []int{}, Error: "damage"},
	}},
	{Name: "code1-full", Length: 4032, Permille: 0, Damage: []hurt{
		{Flip: []int{4095, 4096 + 4032}, Damaged: []int{0, 1}},
	}},
	{Name: "code2-2+2", Length: 4033, Permille: 30, Damage: []hurt{
		{Truncate: at(8192), Damaged: []int{2, 3}},
		{Zero: [][2]int{{0, 8192}}, Damaged: []int{0, 1}},
		{Flip: []int{1, 5000, 9000}, Damaged: []int{0, 1, 2}, Error: "damage"},
		{Swap: [][2]int{{0, 3}}, Damaged: []int{0, 3}},
		{Append: "00", Damaged: []int{4}},
	}},
	{Name: "code2-5+3", Length: 20000, Permille: 500, Damage: []hurt{
		{Zero: [][2]int{{4000, 8200}}, Damaged: []int{0, 1, 2}},
		{Truncate: at(5*4096 - 1), Damaged: []int{4, 5, 6, 7}, Error: "damage"},
	}},
	{Name: "code2-20+2", Length: 20 * 4032, Permille: 100, Damage: []hurt{
		{Flip: []int{0, 21*4096 + 17}, Damaged: []int{0, 21}},
	}},
	{Name: "code2-248+8", Length: 248 * 4032, Permille: 30, Damage: []hurt{
		{Zero: [][2]int{{100 * 4096, 8 * 4096}}, Damaged: []int{100, 101, 102, 103, 104, 105, 106, 107}},
	}},
	{Name: "code3-249+8", Length: 248*4032 + 1, Permille: 30, Damage: []hurt{
		{Zero: [][2]int{{100 * 4096, 8 * 4096}}, Damaged: []int{100, 101, 102, 103, 104, 105, 106, 107}},
		{Zero: [][2]int{{100 * 4096, 8*4096 + 1}}, Damaged: []int{100, 101, 102, 103, 104, 105, 106, 107, 108}, Error: "damage"},
	}},
	{Name: "code3-200+100", Length: 200 * 4032, Permille: 500, Damage: []hurt{
		{Zero: [][2]int{{0, 100 * 4096}}, Damaged: upTo(100)},
	}},
	{Name: "code3-1000+30", Length: 1000*4032 - 11, Permille: 30, Damage: []hurt{
		{Truncate: at(1000 * 4096), Damaged: from(1000, 1030)},
	}},
}

func upTo(n int) []int { return from(0, n) }

func from(a, b int) (s []int) {
	for i := a; i < b; i++ {
		s = append(s, i)
	}
	return s
}

func (v *vector) ident(t *testing.T) cell.Ident {
	object, err := hex.DecodeString(v.Object)
	require.NoError(t, err)
	repo, err := hex.DecodeString(v.Repo)
	require.NoError(t, err)
	return cell.Ident{Kind: v.Kind, Object: [16]byte(object), Repo: [16]byte(repo)}
}

// complete computes what follows from the plan.
func (v *vector) complete(t *testing.T) {
	w := cell.NewWriter(v.ident(t), v.Permille, v.Length)
	_, err := w.Write(content(v.Name, v.Length))
	require.NoError(t, err)
	file, err := w.Finish()
	require.NoError(t, err)
	g, _, err := cell.ParseTrailer(file[:cell.Size])
	require.NoError(t, err)
	v.N, v.M, v.Code, v.File = g.N, g.M, g.Code, digest(file)
	v.Parity, v.Trailers = nil, nil
	for i := range g.Cells() {
		c := file[i*cell.Size : (i+1)*cell.Size]
		if i >= g.N {
			v.Parity = append(v.Parity, digest(c[:cell.Payload]))
		}
		if g.Cells() <= 8 {
			v.Trailers = append(v.Trailers, hex.EncodeToString(c[cell.Payload:]))
		}
	}
}

func writeVectors(t *testing.T) {
	require.NoError(t, os.MkdirAll(vectorDir, 0o755))
	for _, v := range plans {
		v.Kind, v.Object, v.Repo = ident.Kind, hex.EncodeToString(ident.Object[:]), hex.EncodeToString(ident.Repo[:])
		v.complete(t)
		p, err := json.MarshalIndent(v, "", "  ")
		require.NoError(t, err)
		require.NoError(t, os.WriteFile(filepath.Join(vectorDir, v.Name+".json"), append(p, '\n'), 0o644))
	}
}

func TestVectors(t *testing.T) {
	if *update {
		writeVectors(t)
	}
	names, err := filepath.Glob(filepath.Join(vectorDir, "*.json"))
	require.NoError(t, err)
	require.GreaterOrEqual(t, len(names), len(plans))
	for _, name := range names {
		t.Run(filepath.Base(name), func(t *testing.T) {
			p, err := os.ReadFile(name)
			require.NoError(t, err)
			var v vector
			require.NoError(t, json.Unmarshal(p, &v))
			again := v
			again.complete(t)
			require.Equal(t, v, again)
			v.checkDamage(t)
		})
	}
}

func (v *vector) checkDamage(t *testing.T) {
	stream := content(v.Name, v.Length)
	w := cell.NewWriter(v.ident(t), v.Permille, 0)
	_, _ = w.Write(stream)
	file, err := w.Finish()
	require.NoError(t, err)
	for i, h := range v.Damage {
		got, _, damaged, err := cell.Decode(h.apply(file))
		require.True(t, slices.Equal(h.Damaged, damaged), "damage %d: %v", i, damaged)
		if h.Error != "" {
			var damage *cell.DamageError
			require.ErrorAs(t, err, &damage)
			continue
		}
		require.NoError(t, err)
		require.True(t, bytes.Equal(stream, got))
		fixed, _, err := cell.Repair(h.apply(file))
		require.NoError(t, err)
		require.True(t, bytes.Equal(file, fixed))
	}
}

// An independent code 2, written from FORMAT.md's words alone: GF(2⁸) by long multiplication, the matrix by Gauss and
// Jordan. It shares nothing with the library behind package cell.
func TestCode2AgainstTheWords(t *testing.T) {
	for _, c := range []struct{ size, permille int }{
		{4033, 30}, {20000, 500}, {20 * 4032, 100}, {60*4032 - 1, 250}, {248 * 4032, 30},
	} {
		file := build(t, c.permille, content("words", c.size))
		g, _, err := cell.ParseTrailer(file[:cell.Size])
		require.NoError(t, err)
		require.Equal(t, cell.CodeGF8, g.Code)
		matrix := systematic(g.N, g.M)
		for row := g.N; row < g.Cells(); row++ {
			want := make([]byte, cell.Payload)
			for col := range g.N {
				var times [256]byte
				for x := range times {
					times[x] = mul(matrix[row][col], byte(x))
				}
				for k, b := range file[col*cell.Size:][:cell.Payload] {
					want[k] ^= times[b]
				}
			}
			require.True(t, bytes.Equal(want, file[row*cell.Size:][:cell.Payload]), "%d+%d, row %d", g.N, g.M, row)
		}
	}
}

func mul(a, b byte) (p byte) {
	for ; b > 0; b >>= 1 {
		if b&1 == 1 {
			p ^= a
		}
		carry := a & 0x80
		if a <<= 1; carry != 0 {
			a ^= 0x1D // 0x11D without the bit that fell out
		}
	}
	return p
}

func inverse(a byte) byte {
	for b := 1; b < 256; b++ {
		if mul(a, byte(b)) == 1 {
			return byte(b)
		}
	}
	panic("zero has no inverse")
}

func vandermonde(rows, cols int) [][]byte {
	v := make([][]byte, rows)
	for r := range v {
		v[r] = make([]byte, cols)
		for c, power := 0, byte(1); c < cols; c, power = c+1, mul(power, byte(r)) {
			v[r][c] = power
		}
	}
	return v
}

// systematic is the Vandermonde matrix times the inverse of its top square: found by column operations that turn the
// top into the identity, carried out on all rows.
func systematic(n, m int) [][]byte {
	v := vandermonde(n+m, n)
	for k := range n {
		pivot := k
		for v[k][pivot] == 0 {
			pivot++
		}
		for _, row := range v {
			row[k], row[pivot] = row[pivot], row[k]
		}
		scale := inverse(v[k][k])
		for _, row := range v {
			row[k] = mul(row[k], scale)
		}
		for c := range n {
			if f := v[k][c]; c != k && f != 0 {
				for _, row := range v {
					row[c] ^= mul(row[k], f)
				}
			}
		}
	}
	return v
}
