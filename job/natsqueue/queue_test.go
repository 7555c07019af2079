package natsqueue_test

import (
	"context"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/hikae/hikae/job/natsqueue"
	"github.com/hikae/hikae/job/natsqueue/natsserver"
	"github.com/hikae/hikae/job/queue/queuetest"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m,
		// The server cleans up behind itself a moment after it says that it is down, and keeps one clock for the process.
		goleak.IgnoreAnyFunction("github.com/nats-io/nats-server/v2/server.init.1.func1"))
}

var login = &natsqueue.Credentials{User: "worker", Password: "correct horse"}

func startServer(t *testing.T) *natsserver.Server {
	t.Helper()
	s, err := natsserver.Start(t.Context(), natsserver.Options{Dir: t.TempDir(), Listen: "127.0.0.1:0", Credentials: login})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, s.Close()) })
	return s
}

func open(t *testing.T, url string, lease time.Duration) *natsqueue.Queue {
	t.Helper()
	q, err := natsqueue.Open(t.Context(), url, &natsqueue.Options{Credentials: login, Lease: lease})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, q.Close()) })
	return q
}

func TestSuite(t *testing.T) {
	q := open(t, startServer(t).URL(), time.Second)
	t.Run("checks", func(t *testing.T) {
		for _, c := range queuetest.Checks {
			t.Run(c.Name, func(t *testing.T) {
				t.Parallel()
				require.NoError(t, c.Run(t.Context(), q))
			})
		}
	})
}

func TestNobodyGetsInWithoutCredentials(t *testing.T) {
	s := startServer(t)
	_, err := natsqueue.Open(t.Context(), s.URL(), nil)
	require.ErrorIs(t, err, natsqueue.ErrNoCredentials)
	_, err = natsqueue.Open(t.Context(), s.URL(), &natsqueue.Options{Credentials: &natsqueue.Credentials{User: "worker", Password: "wrong"}, Patience: time.Second})
	require.ErrorContains(t, err, "Authorization")
	require.NotContains(t, err.Error(), "wrong")
	_, err = natsserver.Start(t.Context(), natsserver.Options{Dir: t.TempDir(), Listen: "127.0.0.1:0"})
	require.ErrorIs(t, err, natsqueue.ErrNoCredentials)
}

func TestOtherMachinesNeedTLS(t *testing.T) {
	var insecure *natsqueue.InsecureError
	_, err := natsqueue.Open(t.Context(), "nats://192.0.2.1:4222", &natsqueue.Options{Credentials: login})
	require.ErrorAs(t, err, &insecure)
	_, err = natsserver.Start(t.Context(), natsserver.Options{Dir: t.TempDir(), Listen: "0.0.0.0:0", Credentials: login})
	require.ErrorAs(t, err, &insecure)
}

func TestCredentialFiles(t *testing.T) {
	write := func(text string, mode os.FileMode) string {
		path := filepath.Join(t.TempDir(), "credentials")
		require.NoError(t, os.WriteFile(path, []byte(text), mode))
		return path
	}
	c, err := natsqueue.ReadCredentials(write("# of the queue\nuser=worker\npassword=a=b\n", 0o600))
	require.NoError(t, err)
	require.Equal(t, natsqueue.Credentials{User: "worker", Password: "a=b"}, *c)
	_, err = natsqueue.ReadCredentials(write("hunter2\n", 0o600))
	require.ErrorContains(t, err, "line 1")
	require.NotContains(t, err.Error(), "hunter2")
	_, err = natsqueue.ReadCredentials(write("token=x\n", 0o644))
	require.ErrorContains(t, err, "chmod 600")
	_, err = natsqueue.ReadCredentials(write("\n", 0o600))
	require.ErrorIs(t, err, natsqueue.ErrNoCredentials)
}

// What was put before a server was stopped is there when it comes back, and a client that was waiting gets it.
func TestServerComesBack(t *testing.T) {
	dir := t.TempDir()
	options := natsserver.Options{Dir: dir, Listen: "127.0.0.1:0", Credentials: login}
	s, err := natsserver.Start(t.Context(), options)
	require.NoError(t, err)
	options.Listen = s.URL()[len("nats://"):]
	q := open(t, s.URL(), time.Second)
	added, err := q.Put(t.Context(), message("site/a", "one"))
	require.NoError(t, err)
	require.True(t, added)
	require.NoError(t, s.Close())

	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	taken := make(chan string, 1)
	go func() {
		d, err := q.Take(ctx, []string{"site/a"})
		if err != nil {
			taken <- err.Error()
			return
		}
		taken <- d.Message().ID
	}()
	s, err = natsserver.Start(t.Context(), options)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, s.Close()) })
	require.Equal(t, "one", <-taken)
}
