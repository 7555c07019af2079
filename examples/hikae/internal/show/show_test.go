package show

import (
	"bytes"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestSize(t *testing.T) {
	for n, want := range map[int64]string{
		0: "0 B", 1: "1 B", 1023: "1023 B", 1024: "1.0 KiB", 1536: "1.5 KiB", 1<<20 - 1: "1.0 MiB", 1 << 20: "1.0 MiB",
		999 << 30: "999.0 GiB", 1 << 62: "4.0 EiB", 1<<63 - 1: "8.0 EiB", -2048: "-2.0 KiB",
	} {
		assert.Equal(t, want, Size(n), "%d", n)
	}
}

func TestSecondsRateRatio(t *testing.T) {
	for s, want := range map[float64]string{0: "0.0 s", 9.94: "9.9 s", 59.4: "59 s", 61: "1 min 01 s", 3661: "1 h 01 min"} {
		assert.Equal(t, want, Seconds(s))
	}
	assert.Equal(t, "-", Rate(5, 0))
	assert.Equal(t, "2.0 KiB/s", Rate(4096, 2))
	assert.Equal(t, "-", Ratio(1, 0))
	assert.Equal(t, "2.50×", Ratio(5, 2))
}

func TestTable(t *testing.T) {
	table := NewTable("NAME", ">SIZE", "WHY")
	table.Row("web1", "5 B", "")
	table.Row("控え", "1.5 GiB", "a\x1b[31mb")
	table.Row("short")
	var b bytes.Buffer
	require.NoError(t, table.Print(&Printer{W: &b}))
	assert.Equal(t, "NAME      SIZE  WHY\nweb1       5 B\n控え   1.5 GiB  a\ufffd[31mb\nshort\n", b.String())
	b.Reset()
	require.NoError(t, table.Print(&Printer{W: &b, Colour: true}))
	assert.Contains(t, b.String(), "\x1b[1mNAME")
}

// What another machine says does not steer the terminal, whatever it comes as; our own emphasis stays.
func TestPrintfCleans(t *testing.T) {
	type word string
	evil := "\x1b]0;owned\x07a\nb\x9b2J"
	for _, colour := range []bool{false, true} {
		var b bytes.Buffer
		p := &Printer{W: &b, Colour: colour}
		require.NoError(t, p.Printf("%s %v %q %d %s\n", p.Bold(evil), errors.New(evil), word(evil), 7, time.Second))
		want := "\ufffd]0;owned\ufffda b\ufffd2J"
		bold := want
		if colour {
			bold = "\x1b[1m" + want + "\x1b[0m"
		}
		assert.Equal(t, fmt.Sprintf("%s %s %q 7 1s\n", bold, want, want), b.String())
	}
	var b bytes.Buffer
	require.NoError(t, (&Printer{W: &b}).Verbatim("a\nb\n"))
	assert.Equal(t, "a\nb\n", b.String())
}
