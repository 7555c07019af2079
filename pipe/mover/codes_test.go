package mover

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"syscall"
	"testing"
	"unicode/utf8"

	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae/pipe"
	"github.com/hikae/hikae/pipe/mover/wire"
)

// What can be acted on on one side can be acted on on the other.
func TestErrorsKeepTheirMeaningOverTheWire(t *testing.T) {
	for _, s := range sentinels {
		f := toFail(fmt.Errorf("disk %q: %w", "d0", &pipe.RangeError{Op: "put", Off: 5, Len: 6, Err: s.is}))
		require.Equal(t, s.code, f.Code, "%v", s.is)
		m, err := recode(f)
		require.NoError(t, err)
		back := fromFail(m.(*wire.Fail))
		require.Contains(t, back.Error(), "d0")
		again := toFail(back)
		require.Equal(t, f.Code, again.Code)
	}
	for code, is := range map[wire.Code]error{
		wire.CodeNotFound: fs.ErrNotExist, wire.CodeForgotten: fs.ErrNotExist, wire.CodeExists: fs.ErrExist,
		wire.CodeNeedBlock: pipe.ErrNeedBlock, wire.CodeMismatch: pipe.ErrBlockMismatch, wire.CodeNoSpace: syscall.ENOSPC,
		wire.CodeReadOnly: syscall.EROFS, wire.CodeForbidden: fs.ErrPermission, wire.CodeUnsupported: errors.ErrUnsupported,
		wire.CodeCorrupt: ErrCorrupt, wire.CodeFenced: ErrFenced, wire.CodeNoBase: ErrNoBase, wire.CodeClosed: fs.ErrClosed,
	} {
		require.ErrorIs(t, fromFail(&wire.Fail{Code: code}), is)
		require.NotEmpty(t, fromFail(&wire.Fail{Code: code}).Error())
	}
	require.Equal(t, wire.CodeFailed, toFail(errors.New("x")).Code)
	require.NotErrorIs(t, fromFail(&wire.Fail{Code: wire.CodeFailed, Text: "x"}), context.DeadlineExceeded)
	require.Error(t, fromFail(&wire.Fail{Code: 60000}))
}

// An embedder's own errors travel as an Error that it makes of them.
func TestErrorOfAnEmbedderTravelsWithItsRange(t *testing.T) {
	f := toFail(fmt.Errorf("read: %w", &Error{Code: wire.CodeCorrupt, Object: "pack 7", Offset: 4096, Length: 64, Text: "it is damaged"}))
	e, ok := errors.AsType[*Error](fromFail(f))
	require.True(t, ok)
	require.Equal(t, Error{Code: wire.CodeCorrupt, Object: "pack 7", Offset: 4096, Length: 64, Text: "read: pack 7: it is damaged"}, *e)
	require.Equal(t, "read: pack 7: it is damaged", e.Error())
}

// Whatever an error says, it fits the wire; whatever a peer says, it does not steer a terminal.
func TestTextsOfErrorsAreTamed(t *testing.T) {
	for _, text := range []string{strings.Repeat("ü", 5000), "a\xffb", "", strings.Repeat("x", wire.MaxText) + "ü"} {
		f := toFail(&Error{Text: text, Object: text, Offset: -5, Length: -1, Code: wire.CodeCorrupt})
		_, err := recode(f)
		require.NoError(t, err)
		require.True(t, utf8.ValidString(f.Text))
	}
	require.NotContains(t, fromFail(&wire.Fail{Text: "\x1b[2J\r\nok\u009b"}).Error(), "\x1b")
	require.NotContains(t, fromFail(&wire.Fail{Object: "\x1b"}).Error(), "\x1b")
}
