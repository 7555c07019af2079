package pipe

import (
	"fmt"
	"os"
	"syscall"
	"testing"
	"time"

	"github.com/klauspost/compress"
	"github.com/klauspost/compress/s2"
	"github.com/klauspost/compress/zstd"
)

func cpu() time.Duration {
	var u syscall.Rusage
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &u)
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

func s2sample(sample, count int, lim float64) func(b []byte) bool {
	buf := make([]byte, 2*sample+100)
	return func(b []byte) bool {
		if len(b) < 4*sample*count { return false }
		t := 0
		for i := range count {
			off := (len(b) - sample) / (count - 1) * i
			t += len(s2.Encode(buf, b[off:off+sample]))
		}
		return float64(t) >= lim*float64(sample*count)
	}
}
func est(lim float64, sample, count int) func(b []byte) bool {
	return func(b []byte) bool {
		if len(b) < 4*sample*count { return false }
		for i := range count {
			off := 0
			if count > 1 { off = (len(b) - sample) / (count - 1) * i }
			if compress.Estimate(b[off:off+sample]) > lim { return false }
		}
		return true
	}
}

func hist(sample, count int, lim float64) func(b []byte) bool {
	return func(b []byte) bool {
		if len(b) < 4*sample*count { return false }
		var h [256]uint32
		for i := range count {
			off := 0
			if count > 1 { off = (len(b) - sample) / (count - 1) * i }
			for _, c := range b[off:off+sample] { h[c]++ }
		}
		n := float64(sample*count)
		var sq float64
		for _, c := range h { sq += float64(c)*float64(c) }
		// expected sum of squares for uniform: n^2/256 + n(1-1/256)
		return sq < lim*(n*n/256+n)
	}
}

func TestEval(t *testing.T) {
	data, err := os.ReadFile("/tmp/corpus")
	if err != nil { t.Skip() }
	for _, lv := range []zstd.EncoderLevel{0, zstd.SpeedFastest, zstd.SpeedDefault} {
		var enc *zstd.Encoder
		if lv != 0 { enc, _ = zstd.NewWriter(nil, zstd.WithEncoderLevel(lv), zstd.WithEncoderConcurrency(1), zstd.WithWindowSize(256<<10), zstd.WithEncoderCRC(false), zstd.WithSingleSegment(true), zstd.WithLowerEncoderMem(true)) }
		for _, v := range []struct{ name string; f func([]byte) bool }{
			{"never", func([]byte) bool { return false }},
			{"s2 4x4K 98%", s2sample(4<<10, 4, 0.98)},
			{"s2 8x4K 98%", s2sample(4<<10, 8, 0.98)},
			{"s2 16x2K 98%", s2sample(2<<10, 16, 0.98)},
			{"s2 8x8K 98%", s2sample(8<<10, 8, 0.98)},
			{"s2 8x8K 99.5%", s2sample(8<<10, 8, 0.995)},
			{"hist 8x1K 1.02", hist(1<<10, 8, 1.02)},
			{"hist 16x1K 1.02", hist(1<<10, 16, 1.02)},
			{"hist 16x1K 1.1", hist(1<<10, 16, 1.1)},
			{"est 8x4K .02", est(0.02, 4<<10, 8)},
		} {
			var size, skipped, wasted int64
			var test time.Duration
			out := make([]byte, 0, 400<<10)
			start := cpu()
			for off := 0; off+256<<10 <= len(data); off += 256 << 10 {
				b := data[off : off+256<<10]
				s := time.Now()
				inc := v.f(b)
				test += time.Since(s)
				if inc { size += int64(len(b)); skipped++; continue }
				var o []byte
				if enc != nil { o = enc.EncodeAll(b, out) } else { o = s2.Encode(out[:cap(out)], b) }
				if worthIt(o, b) { size += int64(len(o)) } else { size += int64(len(b)); wasted++ }
			}
			fmt.Printf("level %d %-16s size %d skipped %d wasted %d cpu %v test %v\n", lv, v.name, size, skipped, wasted, cpu()-start, test)
		}
	}
}
