package smbchannel

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae/guest"
	"github.com/hikae/hikae/guest/smbchannel/rpc"
	"github.com/hikae/hikae/guest/smbchannel/scm"
	"github.com/hikae/hikae/guest/smbchannel/smbtest"
)

// R121: whichever call of the service control manager fails, before or after it was carried out: nothing is left of the
// service, or ErrLeftover names it, and what the channel's Clean then does proves it gone.
func TestNthCall(t *testing.T) {
	g := smbtest.StartGuest(t, smbtest.Settings{}, echo)
	c := open(t, g.Samba)
	for _, failure := range []error{
		&scm.Error{Code: scm.AccessDenied}, &rpc.Fault{Status: rpc.FaultUnknownProcedure}, errors.New("the link breaks"),
	} {
		for _, after := range []bool{false, true} {
			for n, failed := 1, true; failed; n++ {
				failed = failNth(t, g, c, failure, n, after)
			}
		}
	}
	require.Empty(t, g.Left())
}

// failNth launches and closes with the nth call failing, and reports whether there was an nth.
func failNth(t *testing.T, g *smbtest.Guest, c *channel, failure error, n int, after bool) bool {
	what := fmt.Sprintf("call %d, after=%v: %v", n, after, failure)
	var calls atomic.Int64
	hook := func(uint16, string) error {
		if calls.Add(1) == int64(n) {
			return failure
		}
		return nil
	}
	p := program()
	bring(t, c, p)
	if after {
		g.Machine.Intercept(nil, hook)
	} else {
		g.Machine.Intercept(hook, nil)
	}
	stream, err := c.Launch(t.Context(), p)
	if err == nil {
		err = stream.Close()
	}
	g.Machine.Intercept(nil, nil)
	failed := calls.Load() >= int64(n)
	if !failed {
		require.NoError(t, err, what)
	} else if names := g.Machine.Names(); len(names) > 0 {
		// Gone, or said to be there. A handle of an association that broke keeps it for a moment.
		if !errors.Is(err, guest.ErrLeftover) {
			require.Eventually(t, func() bool { return len(g.Machine.Names()) == 0 }, 5*time.Second, time.Millisecond, what)
		}
	}
	clean, err := c.Clean(t.Context(), p)
	require.NoError(t, err, what)
	require.Empty(t, clean, what)
	require.Eventually(t, func() bool { return len(g.Left()) == 0 }, 5*time.Second, time.Millisecond, what)
	return failed
}

// A component that does not start, or ends at once, is told so, and nothing is left.
func TestStillborn(t *testing.T) {
	g := smbtest.StartGuest(t, smbtest.Settings{}, echo)
	c := open(t, g.Samba)
	p := program()
	require.NoError(t, c.MakeDir(t.Context(), folderOf(p.Path)))
	_, err := c.Launch(t.Context(), p) // it was never uploaded
	require.ErrorContains(t, err, "its program is not there")
	require.NotErrorIs(t, err, guest.ErrLeftover)
	require.Empty(t, g.Machine.Names())

	// It ends without a pipe: its answer is its exit code.
	require.NoError(t, c.Upload(t.Context(), p.Path, []byte("MZ"), 0o700))
	r, err := c.Run(t.Context(), p.Path, []string{"sweep", "--dir", folderOf(p.Path)}, nil)
	require.NoError(t, err)
	require.Equal(t, 7, r.ExitCode)
	require.Empty(t, g.Machine.Names())
	left, err := c.Clean(t.Context(), p)
	require.NoError(t, err)
	require.Empty(t, left)
	require.Empty(t, g.Left())
}

// A component that ends by itself ends the stream; the service goes at Close.
func TestComponentEnds(t *testing.T) {
	g := smbtest.StartGuest(t, smbtest.Settings{}, func(_ context.Context, _ string, _ []string, stream io.ReadWriteCloser) int {
		_, _ = io.ReadFull(stream, make([]byte, 2))
		_, _ = stream.Write([]byte("bye"))
		time.Sleep(300 * time.Millisecond) // Samba forgets what was not fetched yet, like a pipe that is not flushed
		return 5
	})
	c := open(t, g.Samba)
	p := program()
	bring(t, c, p)
	stream, err := c.Launch(t.Context(), p)
	require.NoError(t, err)
	_, err = stream.Write([]byte("hi"))
	require.NoError(t, err)
	said, err := io.ReadAll(stream)
	require.NoError(t, err, "its end is the end of the stream")
	require.Equal(t, "bye", string(said))
	require.NoError(t, stream.Close())
	require.ErrorContains(t, stream.(*launched).Err(), "exit code 5")
	require.Empty(t, g.Machine.Names())
	require.NoError(t, c.Remove(t.Context(), folderOf(p.Path)))
	require.Empty(t, g.Left())
}

// SMB is no shell.
func TestNoRun(t *testing.T) {
	g := smbtest.StartGuest(t, smbtest.Settings{}, echo)
	c := open(t, g.Samba)
	for _, path := range []string{`C:\Windows\System32\cmd.exe`, "powershell.exe", "/bin/sh", `C:\Windows\hikae-a\..\x.exe`} {
		_, err := c.Run(t.Context(), path, nil, nil)
		require.ErrorIs(t, err, ErrNoRun, path)
	}
	_, err := c.Run(t.Context(), program().Path, nil, []byte("input"))
	require.ErrorIs(t, err, ErrNoRun)
	require.Empty(t, g.Left())
}

// The connection breaks while a component runs: the stream ends with an error, what Close cannot take away it names, and
// another channel takes it away.
func TestLost(t *testing.T) {
	g := smbtest.StartGuest(t, smbtest.Settings{}, echo)
	c := open(t, g.Samba)
	p := program()
	bring(t, c, p)
	stream, err := c.Launch(t.Context(), p)
	require.NoError(t, err)
	c.link.line.Conn.Close()
	_, err = stream.Read(make([]byte, 1))
	require.ErrorIs(t, err, ErrLinkLost)
	err = stream.Close()
	require.ErrorIs(t, err, guest.ErrLeftover)
	require.ErrorContains(t, err, p.Name)
	_, err = c.Clean(t.Context(), p)
	require.ErrorIs(t, err, ErrLinkLost, "nobody could look")

	again := open(t, g.Samba)
	left, err := again.Clean(t.Context(), p)
	require.NoError(t, err)
	require.Empty(t, left)
	require.Eventually(t, func() bool { return len(g.Left()) == 0 }, 5*time.Second, time.Millisecond)
}

// Closing a channel under an open stream ends it.
func TestCloseUnder(t *testing.T) {
	g := smbtest.StartGuest(t, smbtest.Settings{}, echo)
	c := open(t, g.Samba)
	p := program()
	bring(t, c, p)
	stream, err := c.Launch(t.Context(), p)
	require.NoError(t, err)
	read := make(chan error, 1)
	go func() { _, err := stream.Read(make([]byte, 1)); read <- err }()
	time.Sleep(20 * time.Millisecond)
	require.NoError(t, c.Close())
	require.ErrorIs(t, <-read, ErrLinkLost)
	_, err = stream.Write([]byte("x"))
	require.Error(t, err)
	require.ErrorIs(t, stream.Close(), guest.ErrLeftover)
	left, err := open(t, g.Samba).Clean(t.Context(), p)
	require.NoError(t, err)
	require.Empty(t, left)
}

// A guest whose service control manager does not answer is waited for as long as the context lasts; what cannot be taken
// away then is named, and goes with Clean.
func TestStartHangs(t *testing.T) {
	g := smbtest.StartGuest(t, smbtest.Settings{}, echo)
	c := open(t, g.Samba)
	p := program()
	bring(t, c, p)
	release := make(chan struct{})
	g.Machine.Intercept(func(procedure uint16, _ string) error {
		if procedure == scm.StartServiceW {
			<-release
		}
		return nil
	}, nil)
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	began := time.Now()
	_, err := c.Launch(ctx, p)
	require.ErrorIs(t, err, context.DeadlineExceeded)
	require.ErrorIs(t, err, guest.ErrLeftover, "its handle is open there")
	require.ErrorContains(t, err, p.Name)
	require.Less(t, time.Since(began), 10*time.Second)
	close(release)
	left, err := c.Clean(t.Context(), p)
	require.NoError(t, err)
	require.Empty(t, left)
	require.Empty(t, g.Left())
}
