package trust

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"math/big"
	"slices"
	"time"
)

// A certificate is good for this long before and after it was made. It is renewed at half of that, so that one that is
// shown has always half of it left, on either side, for clocks that differ.
const certificateLife = 7 * 24 * time.Hour

// certificate is the one that this process shows now. Connections that are open keep the one they began with.
func (id *Identity) certificate() (*tls.Certificate, error) {
	id.mu.Lock()
	defer id.mu.Unlock()
	now := id.now()
	if c := id.cert; c != nil && now.Sub(c.Leaf.NotBefore) > certificateLife/2 && c.Leaf.NotAfter.Sub(now) > certificateLife/2 {
		return c, nil
	}
	der, err := selfSigned(id.key, now.Add(-certificateLife), now.Add(certificateLife))
	if err != nil {
		return nil, err
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, err
	}
	id.cert = &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: id.key, Leaf: leaf}
	return id.cert, nil
}

// selfSigned says nothing about the machine: the name in it means nothing to anybody.
func selfSigned(key ed25519.PrivateKey, from, to time.Time) ([]byte, error) {
	number := make([]byte, 16)
	rand.Read(number)
	number[0] = number[0]&0x7f | 0x40 // positive, and always of 16 bytes
	template := &x509.Certificate{
		SerialNumber: new(big.Int).SetBytes(number),
		Subject:      pkix.Name{CommonName: "hikae mover"},
		NotBefore:    from, NotAfter: to,
		KeyUsage:    x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	return x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
}

// judge holds a connection against the one shape that there is, and returns the pin of the other side's key. That the
// other side has the key is for TLS to show; judge runs before that, and so changes nothing.
func judge(cs *tls.ConnectionState, protocols []string, now time.Time) (Pin, error) {
	if cs.Version != tls.VersionTLS13 || !slices.Contains(protocols, cs.NegotiatedProtocol) || cs.DidResume {
		return Pin{}, &PeerError{Err: ErrProtocol}
	}
	if len(cs.PeerCertificates) != 1 {
		return Pin{}, shape("%d certificates instead of one", len(cs.PeerCertificates))
	}
	cert := cs.PeerCertificates[0]
	pin := Pin(sha256.Sum256(cert.RawSubjectPublicKeyInfo))
	if err := judgeCertificate(cert, now); err != nil {
		err.Pin = pin
		return pin, err
	}
	return pin, nil
}

func judgeCertificate(cert *x509.Certificate, now time.Time) *PeerError {
	key, ok := cert.PublicKey.(ed25519.PublicKey)
	switch {
	case !ok:
		return shape("the key is %v, not Ed25519", cert.PublicKeyAlgorithm)
	case cert.SignatureAlgorithm != x509.PureEd25519 || !bytes.Equal(cert.RawIssuer, cert.RawSubject):
		return shape("it was issued by somebody else")
	case now.Before(cert.NotBefore):
		return &PeerError{Err: ErrNotYetValid, Hint: fmt.Sprintf("it begins at %s; %s", stamp(cert.NotBefore), clockHint)}
	case now.After(cert.NotAfter):
		return &PeerError{Err: ErrExpired, Hint: fmt.Sprintf("the certificate ended at %s; %s", stamp(cert.NotAfter), clockHint)}
	case !ed25519.Verify(key, cert.RawTBSCertificate, cert.Signature):
		return shape("it was signed by somebody else")
	}
	return nil
}

func shape(format string, args ...any) *PeerError {
	return &PeerError{Err: fmt.Errorf("%w: "+format, append([]any{ErrCertificate}, args...)...)}
}

func stamp(t time.Time) string { return t.UTC().Format(time.RFC3339) }
