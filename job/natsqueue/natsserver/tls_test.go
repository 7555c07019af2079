package natsserver_test

import (
	"crypto/tls"
	"fmt"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae/internal/labca"
	"github.com/hikae/hikae/job/natsqueue"
	"github.com/hikae/hikae/job/natsqueue/natsserver"
	"github.com/hikae/hikae/job/queue/queuetest"
)

var login = &natsqueue.Credentials{User: "front", Password: "correct horse"}

func authority(t *testing.T) *labca.CA {
	t.Helper()
	ca, err := labca.New()
	require.NoError(t, err)
	return ca
}

// shows is TLS of who believes one authority and shows a certificate of another.
func shows(t *testing.T, believes, shown *labca.CA, name string) *tls.Config {
	t.Helper()
	pair, err := shown.Pair(name, "127.0.0.1")
	require.NoError(t, err)
	return &tls.Config{RootCAs: believes.Pool, Certificates: []tls.Certificate{pair}}
}

// free are addresses of this machine for nodes.
func free(t *testing.T, n int) (list []string) {
	t.Helper()
	for range n {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		require.NoError(t, err)
		list = append(list, l.Addr().String())
		require.NoError(t, l.Close())
	}
	return list
}

// secured are the addresses of three nodes that ask for certificates.
func secured(t *testing.T, ca *labca.CA) string {
	t.Helper()
	var list []string
	peers := free(t, 3)
	for i, peer := range peers {
		config := shows(t, ca, ca, fmt.Sprintf("node%d", i))
		config.ClientCAs, config.ClientAuth = ca.Pool, tls.RequireAndVerifyClientCert
		s, err := natsserver.Start(t.Context(), natsserver.Options{Dir: t.TempDir(), Listen: "127.0.0.1:0", Credentials: login, TLS: config,
			Cluster: &natsserver.Cluster{Name: fmt.Sprintf("node%d", i), Listen: peer, Peers: peers}})
		require.NoError(t, err)
		t.Cleanup(func() { require.NoError(t, s.Close()) })
		list = append(list, overTLS(s))
	}
	return strings.Join(list, ",")
}

func overTLS(s *natsserver.Server) string {
	_, host, _ := strings.Cut(s.URL(), "://")
	return "tls://" + host
}

// A cluster over TLS: nodes show each other certificates, and clients theirs. Who shows none or a stranger's, who believes another authority, and who speaks
// without TLS is refused; so is a node that comes with the password alone.
func TestClusterOverTLS(t *testing.T) {
	ca, stranger := authority(t), authority(t)
	urls := secured(t, ca)
	open := func(urls string, config *tls.Config, patience time.Duration) error {
		q, err := natsqueue.Open(t.Context(), urls, &natsqueue.Options{Credentials: login, TLS: config, Replicas: 3, Lease: time.Second, Patience: patience})
		if err != nil {
			return err
		}
		defer q.Close()
		for _, c := range queuetest.Checks[:3] {
			if err := c.Run(t.Context(), q); err != nil {
				return fmt.Errorf("%s: %w", c.Name, err)
			}
		}
		return nil
	}
	require.NoError(t, open(urls, shows(t, ca, ca, "worker"), time.Minute))

	const soon = 2 * time.Second
	require.ErrorContains(t, open(urls, shows(t, stranger, ca, "worker"), soon), "certificate signed by unknown authority")
	require.Error(t, open(urls, shows(t, ca, stranger, "worker"), soon), "a stranger's certificate")
	require.Error(t, open(urls, &tls.Config{RootCAs: ca.Pool}, soon), "no certificate")
	require.Error(t, open(strings.ReplaceAll(urls, "tls://", "nats://"), nil, soon), "no TLS")

	_, err := natsqueue.Open(t.Context(), urls, &natsqueue.Options{Credentials: &natsqueue.Credentials{User: "front", Password: "wrong"},
		TLS: shows(t, ca, ca, "worker"), Patience: soon})
	require.ErrorContains(t, err, "Authorization")
	require.NoError(t, open(urls, shows(t, ca, ca, "worker"), time.Minute), "the others are served as before")
}

// Nodes do not talk to one whose certificate is of an authority that they do not believe, and it does not talk to them: without a majority nothing is kept.
func TestStrangersAreNoNodes(t *testing.T) {
	ca, stranger := authority(t), authority(t)
	peers := free(t, 2)
	var first string
	for i, own := range []*labca.CA{ca, stranger} {
		s, err := natsserver.Start(t.Context(), natsserver.Options{Dir: t.TempDir(), Listen: "127.0.0.1:0", Credentials: login, TLS: shows(t, own, own, "node"),
			Cluster: &natsserver.Cluster{Name: fmt.Sprintf("node%d", i), Listen: peers[i], Peers: peers}})
		require.NoError(t, err)
		t.Cleanup(func() { require.NoError(t, s.Close()) })
		if i == 0 {
			first = overTLS(s)
		}
	}
	_, err := natsqueue.Open(t.Context(), first, &natsqueue.Options{Credentials: login, TLS: &tls.Config{RootCAs: ca.Pool}, Replicas: 1, Patience: 5 * time.Second})
	require.Error(t, err)
}
