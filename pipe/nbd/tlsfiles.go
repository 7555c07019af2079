package nbd

import (
	"crypto/tls"
	"crypto/x509"
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
	pool, err := authority(dir)
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
func ServerTLS(dir string) (*tls.Config, error) {
	pool, err := authority(dir)
	if err != nil {
		return nil, err
	}
	pair, err := keyPair(dir, "server")
	if err != nil {
		return nil, err
	}
	return &tls.Config{
		MinVersion: tls.VersionTLS12, Certificates: []tls.Certificate{pair},
		ClientCAs: pool, ClientAuth: tls.RequireAndVerifyClientCert,
	}, nil
}

func authority(dir string) (*x509.CertPool, error) {
	name := filepath.Join(dir, "ca-cert.pem")
	data, err := readPEM(name)
	if err != nil {
		return nil, err
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(data) {
		return nil, fmt.Errorf("%s holds no certificate: %w", name, fs.ErrInvalid)
	}
	return pool, nil
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
