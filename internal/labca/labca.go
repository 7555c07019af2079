// Package labca makes certificates for tests: an authority that lives for an hour, and what it signs. Nothing that ships uses it.
package labca

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"time"
)

// CA is an authority.
type CA struct {
	PEM  []byte // its certificate
	Pool *x509.CertPool

	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

// New makes an authority.
func New() (*CA, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	form := form("authority")
	form.IsCA, form.BasicConstraintsValid, form.KeyUsage = true, true, x509.KeyUsageCertSign
	der, err := x509.CreateCertificate(rand.Reader, form, form, key.Public(), key)
	if err != nil {
		return nil, err
	}
	c := &CA{PEM: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), Pool: x509.NewCertPool(), key: key}
	c.cert, err = x509.ParseCertificate(der)
	c.Pool.AddCert(c.cert)
	return c, err
}

func form(name string) *x509.Certificate {
	serial, _ := rand.Int(rand.Reader, big.NewInt(1<<62))
	return &x509.Certificate{SerialNumber: serial, Subject: pkix.Name{CommonName: name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour)}
}

// Issue makes a certificate for both ends of a connection, of names and addresses.
func (c *CA) Issue(name string, hosts ...string) (cert, key []byte, err error) {
	own, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, err
	}
	f := form(name)
	f.KeyUsage = x509.KeyUsageDigitalSignature
	f.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}
	for _, h := range hosts {
		if ip := net.ParseIP(h); ip != nil {
			f.IPAddresses = append(f.IPAddresses, ip)
		} else {
			f.DNSNames = append(f.DNSNames, h)
		}
	}
	der, err := x509.CreateCertificate(rand.Reader, f, c.cert, own.Public(), c.key)
	if err != nil {
		return nil, nil, err
	}
	secret, err := x509.MarshalPKCS8PrivateKey(own)
	if err != nil {
		return nil, nil, err
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: secret}), nil
}

// Pair is Issue for a program's own use.
func (c *CA) Pair(name string, hosts ...string) (tls.Certificate, error) {
	cert, key, err := c.Issue(name, hosts...)
	if err != nil {
		return tls.Certificate{}, err
	}
	return tls.X509KeyPair(cert, key)
}

// Write puts a certificate and its key into a folder, as NAME.pem and NAME.key, and the authority beside them as ca.pem.
func (c *CA) Write(dir, name string, hosts ...string) error {
	cert, key, err := c.Issue(name, hosts...)
	if err != nil {
		return err
	}
	for file, text := range map[string][]byte{"ca.pem": c.PEM, name + ".pem": cert, name + ".key": key} {
		if err := os.WriteFile(filepath.Join(dir, file), text, 0o600); err != nil {
			return fmt.Errorf("certificates: %w", err)
		}
	}
	return nil
}
