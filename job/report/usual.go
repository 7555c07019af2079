package report

import (
	"fmt"
	"math"
	"slices"
)

// Usual is what earlier runs of the same VM and kind came to, on average: increments are held against increments, and runs without a
// base against such.
type Usual struct {
	Runs    int     `json:"runs"` // that the averages are over; at most 10
	Read    float64 `json:"read"` // bytes
	Moved   float64 `json:"moved"`
	Stored  float64 `json:"stored"`
	Seconds float64 `json:"seconds"`
}

// Remark is something about a session that is out of the ordinary for its VM. It is a hint for a person, and never a failure.
type Remark struct {
	Kind  string  `json:"kind"` // "encryption", "time", "moved", "stored"
	Text  string  `json:"text"`
	Value float64 `json:"value"` // what it was: bytes, seconds
	Usual float64 `json:"usual"` // what it is otherwise
}

const (
	usualRuns = 10 // that an average is over
	leastRuns = 3  // below that nothing is called unusual
)

// alike are the runs before the last one that it can be held against, newest first.
func alike(trend []Past) (now Past, before []Past) {
	if len(trend) == 0 {
		return Past{}, nil
	}
	now = trend[len(trend)-1]
	for _, p := range slices.Backward(trend[:len(trend)-1]) {
		if p.Increment == now.Increment && len(before) < usualRuns {
			before = append(before, p)
		}
	}
	return now, before
}

func usualOf(before []Past) *Usual {
	if len(before) == 0 {
		return nil
	}
	mean := func(value func(Past) float64) float64 { m, _ := spread(before, value); return m }
	return &Usual{Runs: len(before), Read: mean(func(p Past) float64 { return float64(p.Read) }), Moved: mean(func(p Past) float64 { return float64(p.Moved) }),
		Stored: mean(func(p Past) float64 { return float64(p.Stored) }), Seconds: mean(func(p Past) float64 { return p.Seconds })}
}

// spread is the mean and the standard deviation.
func spread(runs []Past, value func(Past) float64) (mean, deviation float64) {
	for _, p := range runs {
		mean += value(p) / float64(len(runs))
	}
	for _, p := range runs {
		d := value(p) - mean
		deviation += d * d / float64(len(runs))
	}
	return mean, math.Sqrt(deviation)
}

// remarks are what a person should look at.
func remarks(now Past, before []Past) (out []Remark) {
	if len(before) < leastRuns {
		return nil
	}
	if r := encryption(now, before); r != nil {
		out = append(out, *r)
	}
	for _, m := range measures {
		if r := m.remark(now, before); r != nil {
			out = append(out, *r)
		}
	}
	return out
}

// measure is a figure that is held against what it usually is.
type measure struct {
	kind  string
	value func(Past) float64
	least float64 // what is below it is never remarkable
	words func(now, usual string) string
	show  func(float64) string
}

var measures = []measure{
	{"time", func(p Past) float64 { return p.Seconds }, 60, func(now, usual string) string {
		return "It took " + now + ", and usually " + usual + ". The line on where the time went says what it waited for."
	}, duration},
	{"moved", func(p Past) float64 { return float64(p.Moved) }, 1 << 30, func(now, usual string) string {
		return now + " of new data were moved, and usually " + usual + ". Something in the VM writes more than it did."
	}, func(v float64) string { return size(int64(v)) }},
	{"stored", func(p Past) float64 { return float64(p.Stored) }, 1 << 30, func(now, usual string) string {
		return now + " were stored, and usually " + usual + ". See that the repository's room lasts."
	}, func(v float64) string { return size(int64(v)) }},
}

// remark: twice what is usual, and further from it than the runs differ among themselves: three deviations.
func (m *measure) remark(now Past, before []Past) *Remark {
	mean, deviation := spread(before, m.value)
	v := m.value(now)
	if v < m.least || v < 2*mean || v < mean+3*deviation {
		return nil
	}
	return &Remark{Kind: m.kind, Text: m.words(m.show(v), m.show(mean)), Value: v, Usual: mean}
}

// Bounds of the hint at encryption.
const (
	leastRandomized = 256 << 20 // bytes that were written over by what looks like chance
	leastRandom     = 1 << 30   // bytes of new data that look like chance, where the target does not tell what was there before
)

// encryption hints at files that are being encrypted in place. Two things come together then: much of what held data before holds
// other data now, and nearly all of that looks like chance, which compressed files do too. What only adds compressed files fills
// space that held nothing, where free space is left out; a database that grows, and an update, are compressible for the most part.
// A VM whose disks are encrypted by its guest looks like chance every day, and so there is no jump.
//
// The rule, over at least three earlier increments: at least 256 MiB were written over by chance, which is six tenths of all that was
// written over, half of all that is new and looks like chance, and four times the most that any earlier increment had; and on other days
// chance is at most half of what is written over. Where the
// target cannot tell what was there before, the same of all new data, with 1 GiB, eight tenths and six times.
func encryption(now Past, before []Past) *Remark {
	if !now.Increment {
		return nil
	}
	told := now.Overwritten > 0
	for _, p := range before {
		told = told && p.tells()
	}
	if told {
		if part(now.Randomized, now.Random) < 0.5 {
			return nil
		}
		return jump(now, before, leastRandomized, 0.6, 4, func(p Past) (int64, int64) { return p.Randomized, p.Overwritten },
			"%s of data were written over by what looks like chance, which is %s of all that was written over; the most until now was %s. "+
				"Files that are encrypted in place look so. If nobody encrypts or compresses files in this VM, look at it before the older points go: hold one.")
	}
	return jump(now, before, leastRandom, 0.8, 6, func(p Past) (int64, int64) { return p.Random, p.Moved },
		"%s of new data look like chance, which is %s of all that is new; the most until now was %s. A large upload of compressed files looks so, "+
			"and files that are encrypted in place do. If neither is known of, look at this VM before the older points go: hold one.")
}

func jump(now Past, before []Past, least int64, share, times float64, of func(Past) (int64, int64), words string) *Remark {
	chance, all := of(now)
	if chance < least || part(chance, all) < share {
		return nil
	}
	var most, sum, sumAll int64
	for _, p := range before {
		c, a := of(p)
		most, sum, sumAll = max(most, c), sum+c, sumAll+a
	}
	if float64(chance) < times*float64(most) || part(sum, sumAll) > 0.5 {
		return nil
	}
	return &Remark{Kind: "encryption", Text: fmt.Sprintf(words, size(chance), percent(part(chance, all)), size(most)), Value: float64(chance), Usual: float64(most)}
}

// tells reports whether a run says what was written over: nothing is said where nothing was moved.
func (p Past) tells() bool { return p.Overwritten > 0 || p.Moved == 0 || p.Random == 0 }

// beside says of a figure what it usually is.
func (r *Report) beside(more string, usual func(*Usual) string) string {
	if r.Usual == nil || r.Usual.Runs < leastRuns {
		return more
	}
	return more + "; usually " + usual(r.Usual)
}
