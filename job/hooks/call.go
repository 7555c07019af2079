package hooks

import (
	"encoding/json"
	"strconv"
	"strings"
	"time"
)

// When is the moment of a hook.
type When string

// Moments of a job.
const (
	BeforeJob When = "before-job"
	AfterJob  When = "after-job"
	BeforeVM  When = "before-vm"
	AfterVM   When = "after-vm"
)

// Call is what a hook is told. Its JSON names are a contract with whoever receives it.
type Call struct {
	Hook     When      `json:"hook"`
	Job      string    `json:"job"`
	Run      string    `json:"run"`
	VM       string    `json:"vm,omitempty"`
	Time     time.Time `json:"time"`
	State    string    `json:"state,omitempty"` // done, warned, failed, cancelled; empty before the work
	Point    string    `json:"point,omitempty"` // that was made
	Error    string    `json:"error,omitempty"`
	Warnings []string  `json:"warnings,omitempty"`
	Seconds  float64   `json:"seconds,omitempty"`
	VMs      []VM      `json:"vms,omitempty"` // after a job: what became of each
}

// VM is what became of one VM of a job.
type VM struct {
	Name  string `json:"name"`
	State string `json:"state"`
	Point string `json:"point,omitempty"`
	Error string `json:"error,omitempty"`
}

// Bounds of what is told: a job of ten thousand VMs that all failed is told too.
const (
	maxVMs   = 10_000
	maxText  = 2000
	maxLines = 100
)

// Bounded is the call with its texts and lists cut to what a hook can be expected to take.
func (c Call) Bounded() Call {
	c.Error = cut(c.Error)
	c.Warnings = append([]string(nil), c.Warnings[:min(len(c.Warnings), maxLines)]...)
	for i, text := range c.Warnings {
		c.Warnings[i] = cut(text)
	}
	c.VMs = append([]VM(nil), c.VMs[:min(len(c.VMs), maxVMs)]...)
	for i := range c.VMs {
		c.VMs[i].Error = cut(c.VMs[i].Error)
	}
	c.Time = c.Time.UTC()
	return c
}

func cut(s string) string {
	if len(s) > maxText {
		s = s[:maxText] + "…"
	}
	return strings.ToValidUTF8(s, "\uFFFD")
}

// JSON is the document that hooks get.
func (c Call) JSON() []byte {
	data, err := json.Marshal(c.Bounded())
	if err != nil {
		panic(err) // texts, numbers and a time
	}
	return append(data, '\n')
}

// env is the call as variables.
func (c Call) env() []string {
	c = c.Bounded()
	var out []string
	for _, v := range [][2]string{
		{"HOOK", string(c.Hook)}, {"JOB", c.Job}, {"RUN", c.Run}, {"VM", c.VM}, {"STATE", c.State}, {"POINT", c.Point}, {"ERROR", c.Error},
		{"WARNINGS", strconv.Itoa(len(c.Warnings))}, {"SECONDS", strconv.FormatFloat(c.Seconds, 'f', 3, 64)},
	} {
		out = append(out, "HIKAE_"+v[0]+"="+oneLine(v[1]))
	}
	return out
}

// oneLine keeps a variable from having lines and bytes that a program would not expect.
func oneLine(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7F {
			return ' '
		}
		return r
	}, s)
}

// Record is what became of one hook, for a report.
type Record struct {
	Hook      When    `json:"hook"`
	What      string  `json:"what"` // the program, or the address without what follows its path
	VM        string  `json:"vm,omitempty"`
	Seconds   float64 `json:"seconds"`
	Attempts  int     `json:"attempts"`
	Exit      int     `json:"exit"`             // of a program: its exit status, -1 where it has none; of a post: the answer's status
	Output    string  `json:"output,omitempty"` // what a program printed, or what an address answered with an error
	Truncated bool    `json:"truncated,omitempty"`
	Error     string  `json:"error,omitempty"` // empty: it went well
}

func seconds(since time.Time) float64 { return float64(time.Since(since).Milliseconds()) / 1000 }
