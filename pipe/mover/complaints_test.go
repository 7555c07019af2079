package mover

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae/pipe"
	"github.com/hikae/hikae/pipe/mover/trust"
	"github.com/hikae/hikae/pipe/mover/wire"
	"github.com/hikae/hikae/repo"
	"github.com/hikae/hikae/repo/store/memstore"
)

// with are the lines that contain every one of the parts.
func (l *lines) with(parts ...string) (found []string) {
	for line := range strings.Lines(l.String()) {
		if !slices.ContainsFunc(parts, func(part string) bool { return !strings.Contains(line, part) }) {
			found = append(found, line)
		}
	}
	return found
}

func (l *lines) logger(level slog.Level) *slog.Logger {
	return slog.New(slog.NewTextHandler(l, &slog.HandlerOptions{Level: level}))
}

// The target's disk is full: its log has one error that says so, and no alarm about what follows from it.
func TestFullDiskIsNamedOnce(t *testing.T) {
	t.Parallel()
	said := &lines{}
	p := newPlace(t, func(h *host) {
		h.log = said.logger(slog.LevelDebug)
		r, err := repo.Init(t.Context(), memstore.New(&memstore.Options{Capacity: 24 << 20}), repo.KeyFile([32]byte{1}),
			&repo.InitOptions{BlockSize: testBlock}, repoOptions(t))
		require.NoError(t, err)
		t.Cleanup(func() { _ = r.Close() })
		h.backend = r
	})
	c := p.client("web-host", trust.Append)
	w, err := c.Begin(t.Context(), "web", nil)
	require.NoError(t, err)
	defer w.Close()
	img := dense(1, 64<<20)
	d, err := w.Disk(t.Context(), "disk0", img.Size())
	require.NoError(t, err)
	_, err = pipe.Copy(t.Context(), d, img, nil)
	if err == nil {
		err = d.Commit(t.Context())
	}
	require.ErrorIs(t, err, syscall.ENOSPC)
	require.NoError(t, w.Close())

	alarms := said.with("level=ERROR")
	require.Len(t, alarms, 1, "%q", alarms)
	require.Contains(t, alarms[0], "no space left")
	require.Contains(t, alarms[0], "web-host/web")
	require.Empty(t, said.with("level=WARN", "a call failed"))
	require.NotEmpty(t, said.with("level=DEBUG", "a call failed"), "the others are there for who asks")
}

// Whose fault a failure is: the target's own are errors, what a caller sent wrongly is a warning, and what somebody gave
// up is nobody's.
func TestLevelsOfFailures(t *testing.T) {
	for _, c := range []struct {
		err  error
		want slog.Level
	}{
		{syscall.ENOSPC, slog.LevelError}, {syscall.EDQUOT, slog.LevelError}, {syscall.EROFS, slog.LevelError}, {syscall.EIO, slog.LevelError},
		{ErrNotDurable, slog.LevelError}, {ErrCorrupt, slog.LevelError}, {pipe.ErrBlockMismatch, slog.LevelWarn}, {errors.New("x"), slog.LevelWarn},
		{context.Canceled, slog.LevelDebug}, {fmt.Errorf("%w: %w", context.Canceled, syscall.EIO), slog.LevelDebug}, {ErrBusy, slog.LevelDebug},
		{pipe.ErrNeedBlock, slog.LevelDebug},
	} {
		err := fmt.Errorf("put: %w", c.err)
		require.Equal(t, c.want, levelOf(toFail(err), err), "%v", c.err)
	}
}

// A peer does not fill the log, and what it was kept from is counted.
func TestComplaintsAreBounded(t *testing.T) {
	t.Parallel()
	said := &lines{}
	h := newPlace(t, func(h *host) { h.log = said.logger(slog.LevelWarn) }).session("web-host", trust.Append, nil)
	err := errors.New("x")
	for range 100 {
		h.complain(nil, wire.KindPoints, toFail(err), err)
	}
	require.Len(t, said.with("a call failed"), 10)
	h.complaints.pace.SetBurst(1000)
	h.complaints.pace.SetLimit(1e9)
	h.complain(nil, wire.KindPoints, toFail(err), err)
	require.Len(t, said.with("held_back=90"), 1)
	h.complain(nil, wire.KindPoints, toFail(err), err)
	require.Len(t, said.with("held_back"), 1)
}
