// Package show writes figures and tables for people: sizes in IEC units, times of the place where the reader is,
// columns that line up. Scripts read JSON instead.
package show

import (
	"fmt"
	"io"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/mattn/go-runewidth"

	"github.com/hikae/hikae/examples/hikae/internal/outcome"
)

// Size is a number of bytes as people say it.
func Size(n int64) string {
	if n > -1024 && n < 1024 {
		return fmt.Sprintf("%d B", n)
	}
	v, units := float64(n), []string{"KiB", "MiB", "GiB", "TiB", "PiB", "EiB"}
	unit := ""
	for _, unit = range units {
		if v /= 1024; v > -999.95 && v < 999.95 {
			break
		}
	}
	return fmt.Sprintf("%.1f %s", v, unit)
}

// Rate is bytes over seconds.
func Rate(n int64, seconds float64) string {
	if seconds <= 0 {
		return "-"
	}
	return Size(int64(float64(n)/seconds)) + "/s"
}

// Seconds is a duration as people say it.
func Seconds(s float64) string {
	d := time.Duration(s * float64(time.Second))
	switch {
	case d < 10*time.Second:
		return fmt.Sprintf("%.1f s", s)
	case d < time.Minute:
		return fmt.Sprintf("%.0f s", s)
	case d < time.Hour:
		return fmt.Sprintf("%d min %02d s", int(d.Minutes()), int(d.Seconds())%60)
	}
	return fmt.Sprintf("%d h %02d min", int(d.Hours()), int(d.Minutes())%60)
}

// Time is a moment on the reader's clock.
func Time(t time.Time) string { return t.Local().Format("2006-01-02 15:04:05") }

// Ratio is how many times smaller b is than a.
func Ratio(a, b int64) string {
	if b <= 0 || a <= 0 {
		return "-"
	}
	return fmt.Sprintf("%.2f×", float64(a)/float64(b))
}

// Printer writes for people. The zero colour is none.
type Printer struct {
	W      io.Writer
	Colour bool
}

func (p *Printer) paint(code, s string) string {
	if !p.Colour || s == "" {
		return s
	}
	return "\x1b[" + code + "m" + s + "\x1b[0m"
}

// Bold, Red, Yellow and Green are emphasis where the terminal has it.
func (p *Printer) Bold(s string) string   { return p.paint("1", s) }
func (p *Printer) Red(s string) string    { return p.paint("1;31", s) }
func (p *Printer) Yellow(s string) string { return p.paint("1;33", s) }
func (p *Printer) Green(s string) string  { return p.paint("1;32", s) }

// Printf writes text. Texts and errors among the arguments are cleaned: much of what is printed was said by another
// machine. In colour, emphasis stays; that is all that such a text could then do.
func (p *Printer) Printf(format string, args ...any) error {
	args = slices.Clone(args)
	for i, arg := range args {
		switch v := arg.(type) {
		case error:
			args[i] = p.clean(v.Error())
		case fmt.Stringer: // prints itself
		default:
			if text := reflect.ValueOf(arg); text.Kind() == reflect.String {
				args[i] = p.clean(text.String())
			}
		}
	}
	_, err := fmt.Fprintf(p.W, format, args...)
	return err
}

// Verbatim writes a text of this program's own as it is, with its lines.
func (p *Printer) Verbatim(text string) error {
	_, err := io.WriteString(p.W, text)
	return err
}

// emphasis is what paint writes.
var emphasis = regexp.MustCompile("\x1b\\[(?:0|1|1;3[123])m")

func (p *Printer) clean(s string) string {
	if !p.Colour {
		return outcome.Clean(s)
	}
	var b strings.Builder
	end := 0
	for _, at := range emphasis.FindAllStringIndex(s, -1) {
		b.WriteString(outcome.Clean(s[end:at[0]]) + s[at[0]:at[1]])
		end = at[1]
	}
	return b.String() + outcome.Clean(s[end:])
}

// Table is rows under a header. A column whose header starts with ">" is aligned right.
type Table struct {
	header []string
	right  []bool
	rows   [][]string
}

// NewTable starts a table.
func NewTable(header ...string) *Table {
	t := &Table{right: make([]bool, len(header))}
	for i, h := range header {
		t.right[i] = strings.HasPrefix(h, ">")
		t.header = append(t.header, strings.TrimPrefix(h, ">"))
	}
	return t
}

// Row adds a row.
func (t *Table) Row(cells ...string) {
	row := make([]string, len(t.header))
	for i := range min(len(cells), len(row)) {
		row[i] = outcome.Clean(cells[i])
	}
	t.rows = append(t.rows, row)
}

// Print writes the table.
func (t *Table) Print(p *Printer) error {
	width := make([]int, len(t.header))
	for _, row := range append([][]string{t.header}, t.rows...) {
		for i, cell := range row {
			width[i] = max(width[i], runewidth.StringWidth(cell))
		}
	}
	if err := p.Printf("%s\n", p.Bold(t.line(t.header, width))); err != nil {
		return err
	}
	for _, row := range t.rows {
		if err := p.Printf("%s\n", t.line(row, width)); err != nil {
			return err
		}
	}
	return nil
}

func (t *Table) line(cells []string, width []int) string {
	var b strings.Builder
	for i, cell := range cells {
		pad := strings.Repeat(" ", width[i]-runewidth.StringWidth(cell))
		if i > 0 {
			b.WriteString("  ")
		}
		if t.right[i] {
			b.WriteString(pad + cell)
		} else {
			b.WriteString(cell + pad)
		}
	}
	return strings.TrimRight(b.String(), " ")
}

// Facts writes "name: value" lines that line up; pairs are name, value, name, value ….
func (p *Printer) Facts(pairs ...string) error {
	width := 0
	for i := 0; i < len(pairs); i += 2 {
		width = max(width, len(pairs[i]))
	}
	for i := 0; i+1 < len(pairs); i += 2 {
		pad := strings.Repeat(" ", width-len(pairs[i]))
		if err := p.Printf("%s%s  %s\n", p.Bold(pairs[i]), pad, outcome.Clean(pairs[i+1])); err != nil {
			return err
		}
	}
	return nil
}

// Count is a number of things in words: 1 VM, 2 VMs.
func Count(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}
