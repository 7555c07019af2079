package natsserver_test

import (
	"testing"
	"time"

	"github.com/nats-io/nkeys"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/hikae/hikae/job/natsqueue"
	"github.com/hikae/hikae/job/natsqueue/natsserver"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// A worker may have an nkey, whose seed never leaves its machine.
func TestNKey(t *testing.T) {
	pair, err := nkeys.CreateUser()
	require.NoError(t, err)
	public, err := pair.PublicKey()
	require.NoError(t, err)
	seed, err := pair.Seed()
	require.NoError(t, err)
	s, err := natsserver.Start(t.Context(), natsserver.Options{Dir: t.TempDir(), Listen: "127.0.0.1:0", NKeys: []string{public},
		Credentials: &natsqueue.Credentials{User: "front", Password: "correct horse"}})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, s.Close()) })
	q, err := natsqueue.Open(t.Context(), s.URL(), &natsqueue.Options{Credentials: &natsqueue.Credentials{Seed: string(seed)}})
	require.NoError(t, err)
	require.NoError(t, q.Close())

	stranger, err := nkeys.CreateUser()
	require.NoError(t, err)
	seed, err = stranger.Seed()
	require.NoError(t, err)
	_, err = natsqueue.Open(t.Context(), s.URL(), &natsqueue.Options{Credentials: &natsqueue.Credentials{Seed: string(seed)}, Patience: time.Second})
	require.ErrorContains(t, err, "Authorization")
}

func TestTokenAndNKeysDoNotMix(t *testing.T) {
	_, err := natsserver.Start(t.Context(), natsserver.Options{Dir: t.TempDir(), Listen: "127.0.0.1:0", NKeys: []string{"U"},
		Credentials: &natsqueue.Credentials{Token: "x"}})
	require.ErrorContains(t, err, "do not go together")
}

func TestNodeWithoutAPassword(t *testing.T) {
	_, err := natsserver.Start(t.Context(), natsserver.Options{Dir: t.TempDir(), Listen: "127.0.0.1:0", Credentials: &natsqueue.Credentials{Token: "x"},
		Cluster: &natsserver.Cluster{Name: "n1", Listen: "127.0.0.1:0"}})
	require.ErrorContains(t, err, "a node of a cluster")
}
