package mover

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"syscall"
	"unicode/utf8"

	"github.com/hikae/hikae/pipe"
	"github.com/hikae/hikae/pipe/mover/wire"
)

// What an [Error] may be besides the sentinels of the standard library and of package pipe.
var (
	// ErrVersion says that the two movers speak different versions of the protocol.
	ErrVersion = errors.New("the other mover speaks another version")
	// ErrFenced says that another session has taken this one's place, so that nothing it still does may count.
	ErrFenced = errors.New("another session has taken this one's place")
	// ErrBusy says that there is no room now.
	ErrBusy = errors.New("the mover has no room now; come back later")
	// ErrCorrupt says that what is stored there is damaged; the [Error] names object and range.
	ErrCorrupt = errors.New("what is stored is damaged")
	// ErrForgotten says that a point is no longer there.
	ErrForgotten = fmt.Errorf("the point was forgotten: %w", fs.ErrNotExist)
	// ErrRevoked says that the target's own lease was taken away: nothing that was written counts.
	ErrRevoked = errors.New("the lease of this session was revoked: nothing it wrote counts; run it again")
	// ErrNotDurable says that something was stored and could not be made durable.
	ErrNotDurable = errors.New("it could not be made durable")
	// ErrNoBase says that a range was marked Unchanged on a disk that has no base.
	ErrNoBase = errors.New("the disk has no base")
	// ErrIncomplete says that a disk was sealed, or a point committed, with something missing.
	ErrIncomplete = errors.New("something is missing")
	// ErrForeign says that something else sits at an object's name.
	ErrForeign = errors.New("something else sits at that name")
	// ErrLostSession says that the other side does not know the session, and that what it held is gone with it.
	ErrLostSession = errors.New("the session is not known there any more")
)

// sentinels is what each code is on this side, and in which order an error of this side is looked for: what is more
// special stands first. CodeFailed is everything else.
var sentinels = []struct {
	code wire.Code
	is   error
}{
	{wire.CodeNeedBlock, pipe.ErrNeedBlock},
	{wire.CodeMismatch, pipe.ErrBlockMismatch},
	{wire.CodeMismatch, pipe.ErrDecode},
	{wire.CodeForgotten, ErrForgotten},
	{wire.CodeCorrupt, ErrCorrupt},
	{wire.CodeRevoked, ErrRevoked},
	{wire.CodeFenced, ErrFenced},
	{wire.CodeBusy, ErrBusy},
	{wire.CodeNotDurable, ErrNotDurable},
	{wire.CodeNoBase, ErrNoBase},
	{wire.CodeIncomplete, ErrIncomplete},
	{wire.CodeForeign, ErrForeign},
	{wire.CodeVersion, ErrVersion},
	{wire.CodeLost, ErrLostSession},
	{wire.CodeNoSpace, syscall.ENOSPC},
	{wire.CodeNoSpace, syscall.EDQUOT},
	{wire.CodeReadOnly, syscall.EROFS},
	{wire.CodeNotFound, fs.ErrNotExist},
	{wire.CodeExists, fs.ErrExist},
	{wire.CodeInvalid, fs.ErrInvalid},
	{wire.CodeForbidden, fs.ErrPermission},
	{wire.CodeClosed, fs.ErrClosed},
	{wire.CodeUnsupported, errors.ErrUnsupported},
	{wire.CodeDeadline, os.ErrDeadlineExceeded},
	{wire.CodeDeadline, context.DeadlineExceeded},
}

// Error is a failure that the other mover answered.
//
// errors.Is finds what it is: [fs.ErrNotExist], [fs.ErrExist], [fs.ErrInvalid], [fs.ErrPermission], [fs.ErrClosed],
// [errors.ErrUnsupported], [os.ErrDeadlineExceeded], [syscall.ENOSPC], [syscall.EROFS], [pipe.ErrNeedBlock],
// [pipe.ErrBlockMismatch], or one of this package's own.
//
// The same type goes the other way: an error of a backend that this package cannot know is given its code by wrapping
// it in an Error, see ServerOptions.
type Error struct {
	Code   wire.Code
	Text   string
	Object string // what it is about: a point, an object of the store; may be empty
	Offset int64  // bytes in the object
	Length int64  // bytes; 0: the whole object, or no range
}

func (e *Error) Error() string {
	text := e.Text
	if text == "" {
		text = fmt.Sprintf("the mover failed with code %d", e.Code)
		if is := e.Unwrap(); is != nil {
			text = is.Error()
		}
	}
	if e.Object != "" && !strings.Contains(text, e.Object) {
		return e.Object + ": " + text
	}
	return text
}

// Unwrap returns the sentinel that the code stands for, nil for one that has none.
func (e *Error) Unwrap() error {
	for _, s := range sentinels {
		if s.code == e.Code {
			return s.is
		}
	}
	return nil
}

// fromFail is an answered failure as an error of this side.
func fromFail(f *wire.Fail) error {
	return &Error{Code: f.Code, Text: printable(f.Text), Object: printable(f.Object), Offset: f.Offset, Length: f.Length}
}

// toFail is an error of this side as an answer. What is too long for the wire is cut.
func toFail(err error) *wire.Fail {
	if f, ok := errors.AsType[*wire.Fail](err); ok {
		return f
	}
	f := &wire.Fail{Code: wire.CodeFailed, Text: clip(err.Error(), wire.MaxText)}
	if e, ok := errors.AsType[*Error](err); ok {
		f.Code, f.Object = e.Code, clip(e.Object, wire.MaxName)
		f.Offset, f.Length = max(0, e.Offset), max(0, e.Length)
		return f
	}
	for _, s := range sentinels {
		if errors.Is(err, s.is) {
			f.Code = s.code
			break
		}
	}
	return f
}

// clip makes s valid UTF-8 of at most n bytes.
func clip(s string, n int) string {
	s = strings.ToValidUTF8(s, "\uFFFD")
	if len(s) <= n {
		return s
	}
	for n > 0 && !utf8.RuneStart(s[n]) {
		n--
	}
	return s[:n]
}

// printable keeps a peer's words from steering a terminal or breaking a line of a log.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f || 0x80 <= r && r < 0xa0 {
			return ' '
		}
		return r
	}, s)
}
