package cell_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae/repo/internal/cell"
)

const packSize = 16 << 20

func BenchmarkWrite(b *testing.B) {
	stream, w := content("bench", packSize), cell.NewWriter(ident, 30, packSize)
	b.SetBytes(packSize)
	b.ReportAllocs()
	for b.Loop() {
		w.Reset(ident)
		_, _ = w.Write(stream)
	}
}

// BenchmarkFinish is what cells cost beyond the copy: padding, parity at 3 % and trailers.
func BenchmarkFinish(b *testing.B) {
	stream, w := content("bench", packSize), cell.NewWriter(ident, 30, packSize)
	b.SetBytes(packSize)
	b.ReportAllocs()
	for b.Loop() {
		w.Reset(ident)
		_, _ = w.Write(stream)
		_, err := w.Finish()
		require.NoError(b, err)
	}
}

func BenchmarkCheck(b *testing.B) {
	file := build(b, 30, content("bench", packSize))
	b.SetBytes(int64(len(file)))
	b.ReportAllocs()
	for b.Loop() {
		_, _, err := cell.Check(file)
		require.NoError(b, err)
	}
}

func BenchmarkDecode(b *testing.B) {
	file := build(b, 30, content("bench", packSize))
	b.SetBytes(int64(len(file)))
	for b.Loop() {
		_, _, _, err := cell.Decode(file)
		require.NoError(b, err)
	}
}

func BenchmarkRepairAllBudget(b *testing.B) {
	file := build(b, 30, content("bench", packSize))
	g, _, err := cell.ParseTrailer(file[:cell.Size])
	require.NoError(b, err)
	clear(file[:g.M*cell.Size])
	for b.Loop() {
		_, _, err := cell.Repair(file)
		require.NoError(b, err)
	}
}

func BenchmarkSmall(b *testing.B) {
	stream, w := content("bench", 3000), cell.NewWriter(ident, 30, 3000)
	b.ReportAllocs()
	for b.Loop() {
		w.Reset(ident)
		_, _ = w.Write(stream)
		_, err := w.Finish()
		require.NoError(b, err)
	}
}
