package main

import (
	"context"
	"encoding/json"
	"io"
	"net/url"
	"path/filepath"
	"testing"

	"github.com/hikae/hikae/vmware/vmwaretest"
	"github.com/stretchr/testify/require"
	"github.com/vmware/govmomi"
	"github.com/vmware/govmomi/session"
	"github.com/vmware/govmomi/vim25"
	"github.com/vmware/govmomi/vim25/soap"
)

func connect(ctx context.Context, u *url.URL, s *soap.Client) (*govmomi.Client, error) {
	vim, err := vim25.NewClient(ctx, s)
	if err != nil {
		return nil, err
	}
	c := &govmomi.Client{Client: vim, SessionManager: session.NewManager(vim)}
	return c, c.Login(ctx, u.User)
}

// TestProgram: it says where it is, lets in who has the password, is steered from outside, and ends when it is told to.
func TestProgram(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	t.Setenv("HIKAE_SOURCE_PASSWORD", "")
	out, in := io.Pipe()
	cmd := command()
	cmd.SetOut(in)
	cmd.SetArgs([]string{"--vms", "1", "--disks", "2", "--size", "1MiB", "--fill", "random", "--seed", "7", "--control", filepath.Join(t.TempDir(), "c")})
	ended := make(chan error, 1)
	go func() {
		err := cmd.ExecuteContext(ctx)
		in.CloseWithError(err)
		ended <- err
	}()
	var r ready
	require.NoError(t, json.NewDecoder(out).Decode(&r))
	require.Equal(t, []string{"web0"}, r.VMs)
	u, err := url.Parse(r.URL)
	require.NoError(t, err)
	u.User = url.UserPassword(r.User, r.Password)
	s := soap.NewClient(u, false)
	s.SetThumbprint(u.Host, r.Thumbprint)
	c, err := connect(ctx, u, s)
	require.NoError(t, err)
	require.NoError(t, c.Logout(ctx))
	c.Client.CloseIdleConnections()

	control, err := vmwaretest.DialControl(ctx, r.Control, r.Token)
	require.NoError(t, err)
	sum, err := control.Sum(ctx, "web0", 1)
	require.NoError(t, err)
	require.Len(t, sum, 64)
	left, err := control.Leftovers(ctx)
	require.NoError(t, err)
	require.Empty(t, left)
	require.NoError(t, control.Close())
	cancel()
	require.NoError(t, <-ended)
}

// TestSizes: lengths with and without units, and what is none.
func TestSizes(t *testing.T) {
	for text, want := range map[string]int64{"512": 512, "1KiB": 1024, "64MiB": 64 << 20, "2TiB": 2 << 40, "": 0, "x": 0, "-1": 0, "9999999TiB": 0, "1.5GiB": 0} {
		got, err := parseSize(text)
		require.Equal(t, want == 0, err != nil, text)
		require.Equal(t, want, got, text)
	}
}
