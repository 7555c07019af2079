package requester

import (
	"context"
	"errors"
	"io/fs"
	"strings"
	"unicode"

	"github.com/hikae/hikae/hyperv/helper/wire"
)

// errOrder says that a call came when it had no place.
var errOrder = errors.New("not in this order")

// maxMessage is how long an error may be that is told, in characters.
const maxMessage = 2000

// failure is an error as the client gets it.
func failure(err error) *wire.Failure {
	f := &wire.Failure{Code: kindOf(err), Message: shown(err.Error())}
	var e *Error
	if errors.As(err, &e) {
		f.Hint, f.Again, f.Operation = shown(e.Hint), e.Again, shown(e.Op)
	}
	return f
}

func kindOf(err error) wire.Code {
	switch {
	case errors.Is(err, errWriter):
		return wire.Writer
	case errors.Is(err, errOrder), codeOf(err) == BadState:
		return wire.State
	case codeOf(err) == SetInProgress:
		return wire.Busy
	case errors.Is(err, fs.ErrInvalid), errors.Is(err, wire.ErrMalformed):
		return wire.Invalid
	case errors.Is(err, fs.ErrPermission):
		return wire.Denied
	case errors.Is(err, fs.ErrNotExist):
		return wire.Missing
	case errors.Is(err, errors.ErrUnsupported):
		return wire.Unsupported
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return wire.Late
	}
	switch codeOf(err) {
	case WriterTimeout, WriterRetryable, WriterNonRetryable, AutorecoveryFailed:
		return wire.Writer
	}
	return wire.Failed
}

// shown makes text fit for a line: no control characters, and an end.
func shown(s string) string {
	n := 0
	return strings.ToValidUTF8(strings.Map(func(r rune) rune {
		if n++; n > maxMessage {
			return -1
		}
		if r == '\n' {
			return ';'
		}
		if !unicode.IsPrint(r) {
			return '·'
		}
		return r
	}, s), "·")
}
