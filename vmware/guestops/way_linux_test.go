package guestops

import (
	"context"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/hikae/hikae/guest"
	"github.com/stretchr/testify/require"
	"github.com/vmware/govmomi/vim25/types"
)

// A way that is closed says at which step, and what to change.
func TestProbeClosed(t *testing.T) {
	h := newHost(t, small())
	auth := &types.NamePasswordAuthentication{Username: "root"}
	f := New(h.client, h.vm.Reference(), auth, nil).Probe(soon(t))
	require.Equal(t, "login", f.Step, f)
	require.True(t, f.Reached)
	require.False(t, f.Open)

	f = New(h.client, types.ManagedObjectReference{Type: "VirtualMachine", Value: "vm-none"}, Password(cred), nil).Probe(soon(t))
	require.Equal(t, "connect", f.Step, f)

	task, err := h.vm.PowerOff(soon(t))
	require.NoError(t, err)
	require.NoError(t, task.Wait(soon(t)))
	f = h.way().Probe(soon(t))
	require.Equal(t, "power", f.Step, f)
	require.NotEmpty(t, f.Hint)
	require.NotContains(t, f.Err().Error(), secret)

	ctx, cancel := context.WithTimeout(t.Context(), time.Nanosecond)
	defer cancel()
	f = h.way().Probe(ctx)
	require.False(t, f.Open)
}

// A machine without VMware Tools is told from one whose guest does not answer.
func TestProbeTools(t *testing.T) {
	h := newHost(t, small())
	h.reconfigure(t, map[string]string{"SET.guest.toolsRunningStatus": string(types.VirtualMachineToolsRunningStatusGuestToolsNotRunning)})
	f := h.way().Probe(soon(t))
	require.Equal(t, "tools", f.Step, f)
	require.Equal(t, guest.VSphere, f.Kind)
	require.NotEmpty(t, f.Hint)
}

// Addresses of transfers: "*" is our own connection's host; none without TLS is taken, none with an account in it, and a
// host that sends us elsewhere is not followed.
func TestTransferURL(t *testing.T) {
	h := newHost(t, small())
	c := h.open(t)
	u, err := c.transferURL(soon(t), "https://*/guestFile?id=1&token=ticket")
	require.NoError(t, err)
	require.NotEqual(t, "*", u.Hostname())
	for _, bad := range []string{"", "/x", "ftp://h/x", "https://user:pw@h/x", "http://h/x", "https://%zz?token=ticket", "://"} {
		_, err := c.transferURL(soon(t), bad)
		require.Error(t, err, bad)
		require.NotContains(t, err.Error(), "ticket")
	}

	for name, handle := range map[string]http.HandlerFunc{
		"moved":  func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, "/elsewhere", http.StatusFound) },
		"broken": func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(http.StatusInternalServerError) },
		"short": func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Length", "100")
			w.Write([]byte("short"))
		},
	} {
		s := httptest.NewServer(handle)
		req, err := http.NewRequestWithContext(soon(t), http.MethodGet, s.URL+"/guestFile?token=ticket", nil)
		require.NoError(t, err)
		_, err = c.transfer(req, 1000)
		require.Error(t, err, name)
		require.NotContains(t, err.Error(), "ticket", name)
		s.Close()
	}

	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		for w.Header(); r.Context().Err() == nil; {
			if _, err := w.Write(make([]byte, 32<<10)); err != nil {
				return
			}
		}
	}))
	defer s.Close()
	req, err := http.NewRequestWithContext(soon(t), http.MethodGet, s.URL, nil)
	require.NoError(t, err)
	b, err := c.transfer(req, 5000)
	require.NoError(t, err)
	require.Len(t, b, 5000)
}
