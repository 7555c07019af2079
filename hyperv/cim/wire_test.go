package cim

import (
	"context"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/hikae/hikae/internal/winrm/listener"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// wired is a client of a listener that answers by a function; its messages say what the vectors say.
func wired(t *testing.T, answer func([]byte) []byte) *Client {
	t.Helper()
	door := listener.New(listener.Options{User: "eva", Password: "pw"})
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if in := door.Enter(w, r); in != nil {
			in.Answer(http.StatusOK, answer(in.Message))
		}
	}))
	s.Config.ConnContext = door.Context
	s.Start()
	t.Cleanup(s.Close)
	c, err := Dial(t.Context(), "hv1.example.org:5986", Login{User: "eva", Password: "pw"}, &Options{Plain: true,
		Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, network, s.Listener.Addr().String())
		}})
	require.NoError(t, err)
	t.Cleanup(func() { c.Close() })
	c.newID = func() string { return id }
	c.to = "https://hv1.example.org:5986/wsman"
	return c
}

// A server that says nothing holds nobody longer than the context.
func TestDeaf(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer l.Close()
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() { io.Copy(io.Discard, c); c.Close() }()
		}
	}()
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	begun := time.Now()
	_, err = Dial(ctx, l.Addr().String(), Login{User: "eva", Password: "pw"}, &Options{Plain: true})
	require.ErrorIs(t, err, context.DeadlineExceeded)
	require.Less(t, time.Since(begun), 5*time.Second)
}
