package nbd

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
)

const maxPEM = 1 << 20

// ClientTLS reads the certificates of a client from a folder, in the layout that QEMU, libvirt and nbdkit share:
// ca-cert.pem, which the server's certificate must be signed by, and client-cert.pem with client-key.pem, which may be
// absent where the server asks for none.
func ClientTLS(dir string) (*tls.Config, error) {
	pool, _, err := authority(dir)
	if err != nil {
		return nil, err
	}
	config := &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: pool}
	if _, err := os.Stat(filepath.Join(dir, "client-cert.pem")); os.IsNotExist(err) {
		return config, nil
	}
	pair, err := keyPair(dir, "client")
	if err != nil {
		return nil, err
	}
	config.Certificates = []tls.Certificate{pair}
	return config, nil
}

// ServerTLS reads the certificates of a server from a folder: ca-cert.pem, which every client's certificate must be
// signed by, server-cert.pem and server-key.pem. Clients without a certificate are refused.
//
// Where the authority has an RSA key, the version is TLS 1.2 and no later: GnuTLS 3.7, which QEMU and libnbd use, shows no
// RSA certificate to a server of TLS 1.3 that does not list PKCS #1 v1.5 among its signatures, and crypto/tls does not.
func ServerTLS(dir string) (*tls.Config, error) {
	pool, rsaKey, err := authority(dir)
	if err != nil {
		return nil, err
	}
	pair, err := keyPair(dir, "server")
	if err != nil {
		return nil, err
	}
	config := &tls.Config{
		MinVersion: tls.VersionTLS12, Certificates: []tls.Certificate{pair},
		ClientCAs: pool, ClientAuth: tls.RequireAndVerifyClientCert,
	}
	if rsaKey {
		config.MaxVersion = tls.VersionTLS12
	}
	return config, nil
}

// authority reads the certificates of ca-cert.pem, and tells whether one has an RSA key.
func authority(dir string) (pool *x509.CertPool, rsaKey bool, err error) {
	name := filepath.Join(dir, "ca-cert.pem")
	rest, err := readPEM(name)
	if err != nil {
		return nil, false, err
	}
	pool = x509.NewCertPool()
	found := false
	for block := (*pem.Block)(nil); ; {
		if block, rest = pem.Decode(rest); block == nil {
			break
		}
		if block.Type != "CERTIFICATE" {
			continue
		}
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, false, fmt.Errorf("%s: %w: %w", name, fs.ErrInvalid, err)
		}
		pool.AddCert(cert)
		found, rsaKey = true, rsaKey || cert.PublicKeyAlgorithm == x509.RSA
	}
	if !found {
		return nil, false, fmt.Errorf("%s holds no certificate: %w", name, fs.ErrInvalid)
	}
	return pool, rsaKey, nil
}

func keyPair(dir, side string) (tls.Certificate, error) {
	certName := filepath.Join(dir, side+"-cert.pem")
	cert, err := readPEM(certName)
	if err != nil {
		return tls.Certificate{}, err
	}
	key, err := readPEM(filepath.Join(dir, side+"-key.pem"))
	if err != nil {
		return tls.Certificate{}, err
	}
	pair, err := tls.X509KeyPair(cert, key)
	if err != nil {
		return pair, fmt.Errorf("%s and its key: %w: %w", certName, fs.ErrInvalid, err)
	}
	return pair, nil
}

func readPEM(name string) ([]byte, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxPEM+1))
	if err == nil && len(data) > maxPEM {
		err = &fs.PathError{Op: "read", Path: name, Err: fmt.Errorf("larger than %d bytes: %w", maxPEM, fs.ErrInvalid)}
	}
	return data, err
}
