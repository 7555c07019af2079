package bandwidth

import "time"

// Sizes in bytes.
const (
	maxPiece  = 16 << 10  // what is granted at once: what others wait for
	minPiece  = 512       // below that, headers would outweigh what is carried
	freePiece = 256 << 10 // carried at once without a limit: so soon is a new limit taken up
)

// bucket holds bytes that may pass. Its rate is told with each use, for it may change at any time.
type bucket struct {
	level float64
	last  time.Time
}

// fill adds what has accrued since the last time.
func (b *bucket) fill(now time.Time, rate int64) {
	if d := now.Sub(b.last); !b.last.IsZero() && d > 0 {
		b.level += d.Seconds() * float64(rate)
	}
	b.last = now
	b.level = min(b.level, burst(rate))
}

// lacks is how long n bytes have to wait. Without a limit they do not, and the bucket is kept at what they need.
func (b *bucket) lacks(now time.Time, n int, rate int64) time.Duration {
	if rate <= 0 {
		b.level = float64(n)
		return 0
	}
	b.fill(now, rate)
	return timeFor(float64(n)-b.level, float64(rate))
}

// burst is what a bucket holds at most: a tenth of a second, and one piece.
func burst(rate int64) float64 { return max(float64(rate)/10, minPiece) }

// pieceOf is what is granted at once at a rate: 40 ms of it, so that a wait is short and the bucket can hold it.
func pieceOf(rate float64) int { return int(min(max(rate/25, minPiece), maxPiece)) }

func timeFor(bytes, rate float64) time.Duration {
	if bytes <= 0 {
		return 0
	}
	return time.Duration(bytes / rate * float64(time.Second))
}
