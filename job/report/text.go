package report

import (
	"fmt"
	"io"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Text writes the report for a terminal, plain and without colours. Control characters in names are shown, not sent.
func (r *Report) Text(w io.Writer) error {
	p := &printer{}
	v := r.view()
	p.line("%s: %s", v.Title, strings.ToLower(v.Status))
	if v.Error != "" {
		p.line("  %s", v.Error)
	}
	p.line("")
	for _, f := range v.Facts {
		p.line("  %-14s %s", f.Name, f.Value)
	}
	for _, f := range v.Cards {
		p.line("  %-14s %-12s %s", f.Name, f.Value, f.More)
	}
	p.line("")
	p.line("%s", v.Bottleneck)
	p.bars("Busy share of the copying time", v.Stages)
	p.bars("Where the time went", v.Phases)
	p.bars("From the disks to the repository", v.Flow)
	p.table("Disks", v.Disks)
	p.table("Volumes: what of them need not be stored", v.Volumes)
	p.table("Fallbacks: the point is the same; something else had to do", v.Fallbacks)
	p.table("How the disks were reached", v.Routes)
	p.table("Holes", v.Holes)
	p.table("Checks", v.Checks)
	p.list("Worth a look", v.Remarks)
	p.list("Warnings", v.Warnings)
	p.list("Notes", v.Notes)
	p.trend(v.Trend)
	_, err := io.WriteString(w, p.b.String())
	return err
}

type printer struct{ b strings.Builder }

// line prints without trailing blanks.
func (p *printer) line(format string, args ...any) {
	for i, a := range args {
		if s, ok := a.(string); ok {
			args[i] = visible(s)
		}
	}
	p.b.WriteString(strings.TrimRight(fmt.Sprintf(format, args...), " "))
	p.b.WriteByte('\n')
}

// visible keeps what a name says from steering the terminal.
func visible(s string) string {
	return strings.Map(func(c rune) rune {
		if unicode.IsControl(c) || unicode.Is(unicode.Cf, c) || c == utf8.RuneError {
			return '?'
		}
		return c
	}, s)
}

const barWidth = 30

func (p *printer) bars(title string, bars []bar) {
	if len(bars) == 0 {
		return
	}
	p.line("")
	p.line("%s", title)
	for _, b := range bars {
		from := int(b.From*barWidth + 0.5)
		long := max(0, min(barWidth-from, int(b.Share*barWidth+0.5)))
		if long == 0 && b.Share > 0 {
			from, long = min(from, barWidth-1), 1
		}
		p.line("  %-26s %10s  %s", b.Name, b.Value, strings.Repeat("·", from)+strings.Repeat("█", long)+strings.Repeat("·", barWidth-from-long))
	}
}

func (p *printer) table(title string, t table) {
	if len(t.Rows) == 0 {
		return
	}
	p.line("")
	p.line("%s", title)
	width := make([]int, len(t.Head))
	for _, row := range append([][]string{t.Head}, t.Rows...) {
		for i, cell := range row {
			width[i] = max(width[i], utf8.RuneCountInString(visible(cell)))
		}
	}
	for _, row := range append([][]string{t.Head}, t.Rows...) {
		text := " "
		for i, cell := range row {
			cell = visible(cell)
			pad := strings.Repeat(" ", width[i]-utf8.RuneCountInString(cell))
			if numeric(t.Head[i]) {
				text += " " + pad + cell + " "
			} else {
				text += " " + cell + pad + " "
			}
		}
		p.line("%s", text)
	}
}

// numeric columns stand to the right.
func numeric(head string) bool {
	switch head {
	case "Check", "Outcome", "What was seen", "Disk", "Started", "Method", "From", "To", "Why", "File", "Read back",
		"Volume", "Kind", "Label", "On", "Stored whole because",
		"VM", "State", "Point", "Consistency", "What to do", "What", "Where", "Result", "When":
		return false
	}
	return true
}

func (p *printer) list(title string, items []string) {
	if len(items) == 0 {
		return
	}
	p.line("")
	p.line("%s", title)
	for _, item := range items {
		p.line("  - %s", item)
	}
}

func (p *printer) trend(points []Past) {
	if len(points) < 2 {
		return
	}
	t := table{Head: []string{"Started", "Read", "Stored", "Time"}}
	for _, x := range points {
		t.Rows = append(t.Rows, []string{stamp(x.Time), size(x.Read), size(x.Stored), duration(x.Seconds)})
	}
	p.table("This VM's last points", t)
}
