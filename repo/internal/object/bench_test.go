package object_test

import (
	"crypto/rand"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae/repo/internal/object"
)

const frameSize = 128 << 10 // a block of 256 KiB that compresses by half

func packOf(b *testing.B, builder *object.Builder, check bool) []byte {
	frame, scratch := make([]byte, frameSize), make([]byte, frameSize+object.Overhead)
	_, _ = rand.Read(frame)
	for builder.Len()+frameSize < 16<<20 {
		ref, err := builder.Append(object.TypeBlock, [32]byte{}, object.CodecPlain, frameSize, frame)
		require.NoError(b, err)
		if check {
			_, err = builder.Check(ref, scratch)
			require.NoError(b, err)
		}
	}
	file, err := builder.Seal()
	require.NoError(b, err)
	return file
}

// BenchmarkPack is a whole pack of 16 MiB: seal, (check,) table, parity at 3 %, trailers.
func BenchmarkPack(b *testing.B) {
	for _, s := range suites {
		for name, check := range map[string]bool{"": false, " checked": true} {
			b.Run(s.name+name, func(b *testing.B) {
				builder, err := object.NewBuilder(repo, s.suite, object.KindData, 30, 17<<20, s.wraps)
				require.NoError(b, err)
				b.SetBytes(16 << 20)
				b.ReportAllocs()
				for b.Loop() {
					require.NoError(b, builder.Reset())
					packOf(b, builder, check)
				}
			})
		}
	}
}

func BenchmarkOpenFrame(b *testing.B) {
	for _, s := range suites {
		b.Run(s.name, func(b *testing.B) {
			builder, err := object.NewBuilder(repo, s.suite, object.KindData, 30, 17<<20, s.wraps)
			require.NoError(b, err)
			o, _, err := object.OpenFile(packOf(b, builder, false), ident(builder), s.un)
			require.NoError(b, err)
			b.SetBytes(frameSize)
			for b.Loop() {
				_, err := o.Frame(3)
				require.NoError(b, err)
			}
		})
	}
}

// BenchmarkSmallObject is a log record: one frame, all of it.
func BenchmarkSmallObject(b *testing.B) {
	builder, err := object.NewBuilder(repo, object.SuiteAES, object.KindLog, 30, 4096, []object.Wrapper{master})
	require.NoError(b, err)
	record := make([]byte, 300)
	b.ReportAllocs()
	for b.Loop() {
		require.NoError(b, builder.Reset())
		_, err := builder.Append(object.TypeDocument, [32]byte{}, object.CodecPlain, len(record), record)
		require.NoError(b, err)
		file, err := builder.Seal()
		require.NoError(b, err)
		_, _, err = object.OpenFile(file, ident(builder), []object.Unwrapper{master})
		require.NoError(b, err)
	}
}
