package remote

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"strings"

	"github.com/hikae/hikae/guest"
)

// ErrTaskLost says that a proxy does not know a task any more: it was started anew, or the lease ended.
var ErrTaskLost = errors.New("the proxy does not know this task any more")

// ErrBusy says that a proxy has as many tasks as it may.
var ErrBusy = errors.New("the proxy has as many tasks as it may")

// TaskError says that a guest's task failed because a link did: the reconnects of its kind are used up. What becomes of
// the job is its policy's to say (R192, R193).
type TaskError struct {
	Guest      string
	Proxy      string
	Link       Link
	Reconnects int // that were tried
	Err        error
}

func (e *TaskError) Error() string {
	return fmt.Sprintf("guest %s: the guest task failed: the link between %s was lost, reconnects tried: %d: %v", e.Guest, e.Link.between(e.Proxy), e.Reconnects, e.Err)
}

func (e *TaskError) Unwrap() error { return e.Err }

// StreamError says why the stream of a component ended on the proxy's side.
type StreamError struct{ Reason string }

func (e *StreamError) Error() string { return "the component's stream ended: " + e.Reason }

// Failure is what a proxy tells of a request that failed, where there is no error of its own for it.
type Failure struct {
	Code Code
	Text string
}

func (e *Failure) Error() string { return string(e.Code) + ": " + e.Text }

// Code says what kind of failure it is.
type Code string

// The codes.
const (
	CodeInvalid   Code = "invalid"   // arguments out of their bounds
	CodeForbidden Code = "forbidden" // the peer's role does not allow it
	CodeVersion   Code = "version"   // another version of this protocol
	CodeBusy      Code = "busy"      // as many tasks as there may be
	CodeLost      Code = "lost"      // no such task
	CodeState     Code = "state"     // not now: deployed already, nothing deployed …
	CodeWay       Code = "way"       // a way into the guest is closed
	CodeNoWay     Code = "noway"     // all of them
	CodeLink      Code = "link"      // the link to the guest broke, and its reconnect did not help
	CodeLeftover  Code = "leftover"  // something could not be removed from the guest
	CodeCancelled Code = "cancelled" // the limit, the client or the end of the proxy ended it
	CodeFailed    Code = "failed"    // anything else
)

// failure is the payload of Failure and Refuse.
type failure struct {
	Code       Code       `json:"code"`
	Text       string     `json:"text"`
	Kind       guest.Kind `json:"kind"` // of the way
	Step       string     `json:"step"`
	Hint       string     `json:"hint"`
	Reconnects int        `json:"reconnects"`
}

// failureOf is an error as it goes over the wire. hide are secrets that must not be in it, whoever wrote it.
func failureOf(err error, hide []string) *failure {
	f := &failure{Code: CodeFailed, Text: err.Error()}
	if way, ok := errors.AsType[*guest.WayError](err); ok {
		f.Code, f.Kind, f.Step, f.Text, f.Hint = CodeWay, way.Kind, way.Step, way.Problem, way.Hint
		if f.Text == "" && way.Err != nil {
			f.Text = way.Err.Error()
		}
	}
	if own, ok := errors.AsType[*Failure](err); ok {
		f.Code, f.Text = own.Code, own.Text
	}
	task, isTask := errors.AsType[*TaskError](err)
	switch {
	case errors.Is(err, guest.ErrLeftover):
		f.Code, f.Text = CodeLeftover, err.Error()
	case isTask:
		f.Code, f.Text, f.Reconnects = CodeLink, task.Err.Error(), task.Reconnects
	case errors.Is(err, guest.ErrNoWay):
		f.Code, f.Text = CodeNoWay, err.Error()
	case errors.Is(err, ErrBusy):
		f.Code = CodeBusy
	case errors.Is(err, fs.ErrInvalid), errors.Is(err, ErrMalformed):
		f.Code = CodeInvalid
	case f.Code == CodeFailed && (errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded)):
		f.Code = CodeCancelled
	}
	f.clean(hide)
	return f
}

const maxWords = 4 << 10

// clean cuts what is too long, and takes out what is secret or would steer a terminal.
func (f *failure) clean(hide []string) {
	words := func(s string, most int) string {
		for _, h := range hide {
			if len(h) > 3 {
				s = strings.ReplaceAll(s, h, "…")
			}
		}
		return guest.Printable(s, most)
	}
	f.Text, f.Hint, f.Step = words(f.Text, maxWords), words(f.Hint, maxWords), words(f.Step, maxName)
	f.Kind, f.Code = guest.Kind(words(string(f.Kind), 32)), Code(words(string(f.Code), 32))
	f.Reconnects = max(0, min(f.Reconnects, 1000))
}

// error is a failure as an error of its kind, told of a guest by a proxy.
func (f *failure) error(name, proxy string) error {
	f.clean(nil)
	switch f.Code {
	case CodeWay:
		return &guest.WayError{Kind: f.Kind, Step: f.Step, Problem: f.Text, Hint: f.Hint}
	case CodeNoWay:
		return marked{guest.ErrNoWay, f.Text}
	case CodeLeftover:
		return marked{guest.ErrLeftover, f.Text}
	case CodeLink:
		return &TaskError{Guest: name, Proxy: proxy, Link: ToGuest, Reconnects: f.Reconnects, Err: errors.New(f.Text)}
	case CodeBusy:
		return marked{ErrBusy, f.Text}
	case CodeLost:
		return marked{ErrTaskLost, f.Text}
	case CodeInvalid:
		return marked{fs.ErrInvalid, f.Text}
	case CodeForbidden:
		return marked{fs.ErrPermission, f.Text}
	}
	return &Failure{Code: f.Code, Text: f.Text}
}

// marked is an error of a kind that is known, in the words of the other side, which has named the kind in them.
type marked struct {
	kind error
	text string
}

func (e marked) Error() string { return e.text }
func (e marked) Unwrap() error { return e.kind }
