package agent

import (
	"context"
	"errors"
	"fmt"
	"io/fs"

	"github.com/hikae/hikae/guest/agent/wire"
)

// Why a session ends by itself.
var (
	ErrLease  = errors.New("the client was not heard of for the time of its lease")
	ErrClosed = errors.New("the session was closed")
)

// failure is an error that the client gets as it is.
func failure(code wire.Code, format string, args ...any) *wire.Failure {
	return &wire.Failure{Code: code, Message: fmt.Sprintf(format, args...)}
}

// safely makes an error of a part's panic: the others go their way back all the same.
func safely(part func() error) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = failure(wire.CodeFailed, "internal error: %v", p)
		}
	}()
	return part()
}

// maxWords bounds an error's message, in bytes.
const maxWords = 8 << 10

// failed is what a client gets for an error.
func failed(err error) *wire.Failure {
	var f *wire.Failure
	if errors.As(err, &f) {
		return f
	}
	f = failure(wire.CodeFailed, "%v", err)
	switch {
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		f.Code = wire.CodeCancelled
	case errors.Is(err, fs.ErrPermission):
		f.Code = wire.CodeRights
	case errors.Is(err, fs.ErrNotExist):
		f.Code = wire.CodeMissing
	case errors.Is(err, wire.ErrMalformed):
		f.Code = wire.CodeInvalid
	}
	if len(f.Message) > maxWords {
		f.Message = f.Message[:maxWords]
	}
	return f
}
