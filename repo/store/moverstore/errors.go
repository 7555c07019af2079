package moverstore

import (
	"errors"
	"fmt"
	"io/fs"
	"syscall"

	"github.com/hikae/hikae/pipe/mover/wire"
	"github.com/hikae/hikae/repo/store"
)

var errNotTold = fmt.Errorf("the other side does not say: %w", errors.ErrUnsupported)

// meanings are the errors of a store by what the other side answers.
var meanings = map[wire.Code]error{
	wire.CodeNotFound:    fs.ErrNotExist,
	wire.CodeExists:      fs.ErrExist,
	wire.CodeInvalid:     fs.ErrInvalid,
	wire.CodeForbidden:   fs.ErrPermission,
	wire.CodeForeign:     store.ErrForeign,
	wire.CodeNotDurable:  store.ErrNotDurable,
	wire.CodeNoSpace:     syscall.ENOSPC,
	wire.CodeReadOnly:    syscall.EROFS,
	wire.CodeUnsupported: errors.ErrUnsupported,
}

// answered is a failure that the other side told, as the error of a store that it means.
type answered struct {
	fail    *wire.Fail
	meaning error
}

func (a *answered) Error() string   { return fmt.Sprintf("%v: %s", a.meaning, a.fail.Text) }
func (a *answered) Unwrap() []error { return []error{a.meaning, a.fail} }

// failed makes an error of a store from what a call gave.
func failed(op, name string, err error) error {
	if err == nil {
		return nil
	}
	if fail, ok := errors.AsType[*wire.Fail](err); ok {
		if meaning, known := meanings[fail.Code]; known {
			err = &answered{fail, meaning}
		}
	}
	return &fs.PathError{Op: op, Path: name, Err: err}
}
