package report

import (
	_ "embed"
	"fmt"
	"html/template"
	"io"
)

//go:embed page.html
var pageText string

var page = template.Must(template.New("page").Funcs(template.FuncMap{
	"numeric": numeric,
	"px":      func(share, width float64) string { return fmt.Sprintf("%.2f", share*width) },
	"at":      func(from, share, width float64) string { return fmt.Sprintf("%.2f", from+share*width) },
	"row":     func(i int, top, height float64) string { return fmt.Sprintf("%.1f", top+float64(i)*height) },
	"least":   func(share float64) float64 { return max(share, 0.003) }, // a line that can be seen
	"size":    size, "duration": duration, "stamp": stamp,
}).Parse(pageText))

// HTML writes the report as one page that needs nothing else.
func (r *Report) HTML(w io.Writer) error {
	v := r.view()
	return page.Execute(w, struct {
		*view
		Charts []*chart
	}{v, charts(v.Trend)})
}

//go:embed jobpage.html
var jobPageText string

var jobPage = template.Must(template.Must(page.Clone()).New("job").Parse(jobPageText))

// HTML writes the report as one page that needs nothing else. The sessions of its VMs are folded into it, two hundred of them: first
// those of VMs that are not simply done.
func (j *Job) HTML(w io.Writer) error { return jobPage.Execute(w, j.view()) }

// chart is a row of columns over a VM's points.
type chart struct {
	Title, Top, First, Last string
	Columns                 []column
}

// column is one point in a chart, in the chart's own units: the plot is 360 wide and 90 high.
type column struct {
	X, Width, Y, Height string
	Tip                 string
	Now                 bool
}

const plotWidth, plotHeight = 360.0, 90.0

// charts draw stored bytes and duration. One point is no trend.
func charts(points []Past) []*chart {
	if len(points) < 2 {
		return nil
	}
	stored := drawChart("Stored by each point", points, func(p Past) float64 { return float64(p.Stored) }, func(v float64) string { return size(int64(v)) })
	took := drawChart("Time taken", points, func(p Past) float64 { return p.Seconds }, duration)
	return []*chart{stored, took}
}

func drawChart(title string, points []Past, value func(Past) float64, words func(float64) string) *chart {
	top := 0.0
	for _, p := range points {
		top = max(top, value(p))
	}
	last := points[len(points)-1]
	c := &chart{Title: title, Top: words(top), First: points[0].Time.Format("2006-01-02"), Last: last.Time.Format("2006-01-02")}
	step := plotWidth / float64(max(len(points), 8))
	for i, p := range points {
		h := 0.0
		if top > 0 {
			h = max(value(p)/top*plotHeight, 1)
		}
		c.Columns = append(c.Columns, column{
			X: fmt.Sprintf("%.1f", float64(i)*step), Width: fmt.Sprintf("%.1f", max(2, step*0.72)),
			Y: fmt.Sprintf("%.1f", plotHeight-h), Height: fmt.Sprintf("%.1f", h),
			Tip: stamp(p.Time) + ": " + words(value(p)), Now: i == len(points)-1,
		})
	}
	return c
}
