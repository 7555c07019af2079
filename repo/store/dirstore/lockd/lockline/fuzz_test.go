package lockline

import (
	"bufio"
	"errors"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// What the helper, which runs as root, takes for a request is written back as the same line.
func FuzzRequest(f *testing.F) {
	for _, line := range []string{"now", "locked data/x", "lock 1900000000 data/x", "lock -1 data/x", "lock 1 ../x", "lock 253402300800 a"} {
		f.Add(line)
	}
	f.Fuzz(func(t *testing.T, line string) {
		if q, err := ParseRequest(line); err == nil {
			require.Equal(t, line, q.String())
			require.LessOrEqual(t, q.Until, int64(maxSeconds))
		}
	})
}

// What a store takes for an answer is written back as the same, and every error has a kind or none.
func FuzzAnswer(f *testing.F) {
	f.Add("ok 7\n")
	f.Add("no busy somebody writes\n")
	f.Add("no \n")
	f.Add(strings.Repeat("x", MaxLine+1) + "\n")
	f.Fuzz(func(t *testing.T, raw string) {
		rd := bufio.NewReaderSize(strings.NewReader(raw), MaxLine)
		for range 8 {
			line, err := ReadLine(rd)
			if err != nil {
				return
			}
			require.LessOrEqual(t, len(line), MaxLine)
			at, err := ParseAnswer(line)
			if err == nil {
				require.Equal(t, line, Answer(at, nil))
				continue
			}
			again := Answer(0, err)
			require.LessOrEqual(t, len(again), MaxLine)
			_, same := ParseAnswer(again)
			for _, kind := range Kinds {
				require.Equal(t, errors.Is(err, kind), errors.Is(same, kind), "%q", line)
			}
		}
	})
}
