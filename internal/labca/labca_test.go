package labca_test

import (
	"crypto/tls"
	"crypto/x509"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae/internal/labca"
)

// What an authority signs is good at both ends for the names that it was made for, and for no others; another authority's pool does not know it.
func TestCertificates(t *testing.T) {
	ca, err := labca.New()
	require.NoError(t, err)
	other, err := labca.New()
	require.NoError(t, err)
	dir := t.TempDir()
	require.NoError(t, ca.Write(dir, "node", "127.0.0.1", "node.example.org"))
	pair, err := tls.LoadX509KeyPair(filepath.Join(dir, "node.pem"), filepath.Join(dir, "node.key"))
	require.NoError(t, err)
	text, err := os.ReadFile(filepath.Join(dir, "ca.pem"))
	require.NoError(t, err)
	require.Equal(t, ca.PEM, text)
	cert, err := x509.ParseCertificate(pair.Certificate[0])
	require.NoError(t, err)
	for _, use := range []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth} {
		opts := x509.VerifyOptions{Roots: ca.Pool, KeyUsages: []x509.ExtKeyUsage{use}}
		for name, good := range map[string]bool{"127.0.0.1": true, "node.example.org": true, "127.0.0.2": false, "other.example.org": false} {
			opts.DNSName = name
			_, err := cert.Verify(opts)
			require.Equal(t, good, err == nil, name)
		}
		opts.DNSName, opts.Roots = "", other.Pool
		_, err := cert.Verify(opts)
		require.Error(t, err)
	}
}
