package nbd_test

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// certificates makes a folder with an authority, a server at localhost and a client.
func certificates(t testing.TB) (dir string) {
	t.Helper()
	return certificatesOf(t, func() crypto.Signer {
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		require.NoError(t, err)
		return key
	})
}

// rsaCertificates is as certificates, with the keys that certtool makes.
func rsaCertificates(t testing.TB) (dir string) {
	t.Helper()
	return certificatesOf(t, func() crypto.Signer {
		key, err := rsa.GenerateKey(rand.Reader, 2048)
		require.NoError(t, err)
		return key
	})
}

func certificatesOf(t testing.TB, newKey func() crypto.Signer) (dir string) {
	t.Helper()
	dir = t.TempDir()
	key := newKey()
	authority := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "authority"}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, authority, authority, key.Public(), key)
	require.NoError(t, err)
	writePEM(t, filepath.Join(dir, "ca-cert.pem"), "CERTIFICATE", der)
	for i, side := range []string{"server", "client"} {
		own := newKey()
		cert := &x509.Certificate{
			SerialNumber: big.NewInt(int64(2 + i)), Subject: pkix.Name{CommonName: side}, KeyUsage: x509.KeyUsageDigitalSignature,
			NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
			ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
			DNSNames:    []string{"localhost"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		}
		der, err := x509.CreateCertificate(rand.Reader, cert, authority, own.Public(), key)
		require.NoError(t, err)
		writePEM(t, filepath.Join(dir, side+"-cert.pem"), "CERTIFICATE", der)
		private, err := x509.MarshalPKCS8PrivateKey(own)
		require.NoError(t, err)
		writePEM(t, filepath.Join(dir, side+"-key.pem"), "PRIVATE KEY", private)
	}
	return dir
}

func writePEM(t testing.TB, path, kind string, der []byte) {
	t.Helper()
	require.NoError(t, os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600))
}
