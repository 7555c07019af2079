package guest

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"
	"unicode"
)

// Persistent is the way to a guest's installer service and persistent component. Package guest/install has one.
type Persistent interface {
	// Probe asks the installer service, within the context's deadline.
	Probe(ctx context.Context) PersistentFinding
	// Open connects to the component: a stream of the frames of guest/agent/wire. Close ends the session there.
	Open(ctx context.Context) (io.ReadWriteCloser, error)
	// Install has the installer service install what this side holds ready; what is installed already is no error.
	Install(ctx context.Context) error
}

// PersistentFinding is what a probe of the installer service found.
type PersistentFinding struct {
	Installer    bool   `json:"installer"`         // it answers: something that speaks its protocol is there
	Certificates bool   `json:"certificates"`      // both sides know each other
	Component    bool   `json:"component"`         // is installed, in a version that this side speaks with
	Version      string `json:"version,omitempty"` // of the component
	Problem      string `json:"problem,omitempty"`
	Hint         string `json:"hint,omitempty"`
	Millis       int64  `json:"millis"`
}

// ComponentSeer is an optional ability of a [Way]: it sees whether the persistent component is installed, where the
// installer service does not answer.
type ComponentSeer interface {
	SeesComponent(ctx context.Context) (bool, error)
}

// ProbeOptions change how ways are probed. Nil and zero fields are good defaults.
type ProbeOptions struct {
	// Timeout bounds each probe. Zero: 10 s.
	Timeout time.Duration
	// Persistent is probed too, where the guest may have a persistent component.
	Persistent Persistent
}

// Report is a preflight: every way into a guest, whether it is open, and what to change where it is not. It prints as a
// table.
type Report struct {
	Guest      string             `json:"guest"`
	Ways       []Finding          `json:"ways"`
	Persistent *PersistentFinding `json:"persistent,omitempty"`
	// Component says that a way other than the installer service saw the persistent component.
	Component bool `json:"component,omitempty"`
}

const (
	probeTime  = 10 * time.Second
	probeGrace = 2 * time.Second // for a way that does not end with its context
)

// Probe probes all ways at once, each within its own deadline. The findings are in the order of the ways. It returns
// when the slowest has answered or has run out of time.
func Probe(ctx context.Context, guest string, ways []Way, opts *ProbeOptions) *Report {
	o := ProbeOptions{}
	if opts != nil {
		o = *opts
	}
	o.Timeout = cmp.Or(o.Timeout, probeTime)
	r := &Report{Guest: guest, Ways: make([]Finding, len(ways))}

	found := make([]<-chan seen, len(ways))
	for i, w := range ways {
		found[i] = within(ctx, o.Timeout, func(ctx context.Context) seen { return look(ctx, w) })
	}
	if o.Persistent != nil {
		p := <-within(ctx, o.Timeout, o.Persistent.Probe)
		if p == (PersistentFinding{}) {
			p.Problem = "no answer in time"
		}
		r.Persistent = &p
	}
	for i := range found {
		s := <-found[i]
		if s.Kind == "" {
			s.Finding = Finding{Kind: ways[i].Kind(), Step: "probe", Problem: fmt.Sprintf("no answer within %v", o.Timeout),
				Millis: o.Timeout.Milliseconds()}
		}
		r.Ways[i], r.Component = s.Finding, r.Component || s.component
	}
	return r
}

// seen is what one way has found.
type seen struct {
	Finding
	component bool
}

func look(ctx context.Context, w Way) (s seen) {
	began := time.Now()
	s.Finding = w.Probe(ctx)
	s.Kind = w.Kind()
	if s.Millis == 0 {
		s.Millis = time.Since(began).Milliseconds()
	}
	if seer, ok := w.(ComponentSeer); ok && s.Open {
		s.component, _ = seer.SeesComponent(ctx) // what cannot be seen is taken for not there: the chart then deploys
	}
	return s
}

// within runs f until its deadline. The zero value says that f did not end in time: a way is other people's code.
func within[T any](ctx context.Context, limit time.Duration, f func(context.Context) T) <-chan T {
	out, done := make(chan T, 1), make(chan T, 1)
	ctx, cancel := context.WithTimeout(ctx, limit)
	go func() { done <- f(ctx) }()
	go func() {
		defer cancel()
		late := make(chan struct{})
		defer context.AfterFunc(ctx, func() { time.AfterFunc(probeGrace, func() { close(late) }) })()
		select {
		case v := <-done:
			out <- v
		case <-late:
			var none T
			out <- none
		}
	}()
	return out
}

// Probed is what [Decide] wants to know.
func (r *Report) Probed() Probed {
	p := Probed{Component: r.Component}
	for _, f := range r.Ways {
		switch {
		case !f.Open:
		case f.Kind == SMB:
			p.AdminShare = true
		case f.Kind.Networkless():
			p.Hypervisor = true
		case f.Kind == SSH || f.Kind == WinRM:
			p.Network = true
		}
	}
	if r.Persistent != nil {
		p.Installer, p.Certificates = r.Persistent.Installer, r.Persistent.Certificates
		p.Component = p.Component || r.Persistent.Component
	}
	return p
}

// Windows reports what the guest said of itself, where anything answered.
func (r *Report) Windows() (windows, known bool) {
	for _, f := range r.Ways {
		if f.System.OS != "" {
			return f.System.OS == "windows", true
		}
	}
	return false, false
}

// Err is nil where a way is open or the persistent component can be used, and otherwise [ErrNoWay] with every reason.
func (r *Report) Err() error {
	if r.Persistent != nil && r.Persistent.Component && r.Persistent.Certificates {
		return nil
	}
	var why []string
	for _, f := range r.Ways {
		if f.Open {
			return nil
		}
		why = append(why, Printable(f.Err().Error(), maxShown))
	}
	if r.Persistent != nil && r.Persistent.Problem != "" {
		why = append(why, "installer service: "+Printable(r.Persistent.Problem, maxShown))
	}
	if len(why) == 0 {
		why = []string{"none is set up"}
	}
	return fmt.Errorf("%w %s: %s", ErrNoWay, Printable(r.Guest, maxName), strings.Join(why, "; "))
}

// String is the report as a table for people.
func (r *Report) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s\n", Printable(r.Guest, maxName))
	t := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "  WAY\tOPEN\tTIME\tFOUND")
	for _, f := range r.Ways {
		fmt.Fprintf(t, "  %s\t%s\t%d ms\t%s\n", f.Kind, yes(f.Open), f.Millis, f.words())
	}
	if p := r.Persistent; p != nil {
		fmt.Fprintf(t, "  installer\t%s\t%d ms\t%s\n", yes(p.Installer && p.Certificates), p.Millis, p.words())
	}
	_ = t.Flush() // into memory
	return b.String()
}

func yes(b bool) string {
	if b {
		return "yes"
	}
	return "no"
}

// words are what a person wants to know of a way: what is there, or why not and what to change.
func (f Finding) words() string {
	if f.Open {
		s := f.System
		text := strings.Trim(s.OS+"/"+s.Arch, "/") + " as " + s.User
		if len(s.Temp) > 0 {
			text += " in " + s.Temp[0]
		}
		if !s.Admin {
			text += ", without the rights to freeze"
		}
		return Printable(text, maxShown)
	}
	text := f.Step + ": " + f.Problem
	if f.Hint != "" {
		text += " → " + f.Hint
	}
	return Printable(text, maxShown)
}

func (p *PersistentFinding) words() string {
	text := p.Problem
	switch {
	case p.Problem == "" && p.Component:
		text = "persistent component " + p.Version
	case p.Problem == "" && p.Installer:
		text = "no persistent component is installed"
	}
	if p.Hint != "" {
		text += " → " + p.Hint
	}
	return Printable(text, maxShown)
}

const (
	maxName  = 255
	maxShown = 600
)

// Printable makes text from a guest fit to be shown: what would move a cursor, change the direction of writing or hide
// something becomes "�", and what is longer than max bytes is cut.
func Printable(text string, max int) string {
	cut := len(text) > max
	if cut {
		text = text[:max]
	}
	text = strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) {
			return r
		}
		return unicode.ReplacementChar
	}, text)
	if cut {
		text += "…"
	}
	return text
}
