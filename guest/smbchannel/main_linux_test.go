package smbchannel

import (
	"context"
	"crypto/rand"
	"io"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/hikae/hikae/guest"
	"github.com/hikae/hikae/guest/guesttest"
	"github.com/hikae/hikae/guest/smbchannel/smbtest"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m, goleak.Cleanup(func(code int) {
		guesttest.RemoveAgents()
		os.Exit(code)
	}))
}

// echo is a component that says everything again, until its input ends.
func echo(_ context.Context, _ string, _ []string, stream io.ReadWriteCloser) int {
	if stream == nil {
		return 7
	}
	_, _ = io.Copy(stream, stream)
	return 0
}

func wayTo(s *smbtest.Samba, opts *Options) *Way {
	return New(s.HostPort(), guest.Credential{User: s.User, Password: smbtest.Password}, opts)
}

func open(t testing.TB, s *smbtest.Samba) *channel {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	c, err := wayTo(s, nil).open(ctx)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, c.Close()) })
	return c
}

// program names a component in a folder of its own.
func program() guest.Program {
	name := "hikae-" + strings.ToLower(rand.Text())
	return guest.Program{Name: name, Path: smbtest.Root + `\` + name + `\hikae-agent.exe`}
}

// bring makes the folder and brings the program.
func bring(t testing.TB, c *channel, p guest.Program) {
	t.Helper()
	require.NoError(t, c.MakeDir(t.Context(), folderOf(p.Path)))
	require.NoError(t, c.Upload(t.Context(), p.Path, []byte("MZ component"), 0o700))
}
