package winrm

import (
	"crypto/sha256"
	"crypto/sha512"
	"crypto/x509"
	"encoding/binary"
	"errors"
	"fmt"
	"strings"

	"github.com/bodgit/ntlmssp"
)

const ntlmSignature = 16 // bytes

// ntlm logs on one connection, and seals what goes over it. The library's code meets a stranger's bytes: what it may not
// get was checked before, and a panic in it is an error.
type ntlm struct {
	client *ntlmssp.Client
	bind   *ntlmssp.ChannelBindings
}

func newNTLM(user, password string, bind *ntlmssp.ChannelBindings) (*ntlm, error) {
	domain, name := "", user // user@realm is one word to NTLM
	if i := strings.IndexByte(user, '\\'); i >= 0 {
		domain, name = user[:i], user[i+1:]
	}
	if domain == "." {
		domain = ""
	}
	if name == "" || password == "" {
		return nil, errors.New("NTLM needs a user and a password")
	}
	c, err := ntlmssp.NewClient(ntlmssp.SetUserInfo(name, password), ntlmssp.SetDomain(domain), ntlmssp.SetVersion(ntlmssp.DefaultVersion()))
	return &ntlm{client: c, bind: bind}, err
}

func (n *ntlm) negotiate() ([]byte, error) { return n.client.Authenticate(nil, nil) }

// Flags that a challenge must have: [MS-NLMP] 2.2.2.5. Without them the library would speak older, weaker NTLM.
const (
	flagUnicode  = 1 << 0
	flagSign     = 1 << 4
	flagSeal     = 1 << 5
	flagExtended = 1 << 19
	flagTarget   = 1 << 23
	flag128      = 1 << 29
	flagExchange = 1 << 30
	flagsNeeded  = flagUnicode | flagSign | flagSeal | flagExtended | flagTarget | flag128 | flagExchange
)

var (
	errChallenge = errors.New("malformed challenge of NTLM")
	errWeak      = errors.New("the server offers only weak NTLM: sealing with 128 bit keys and session security are needed")
)

func (n *ntlm) authenticate(challenge []byte) (token []byte, err error) {
	if err := checkChallenge(challenge); err != nil {
		return nil, err
	}
	defer func() {
		if recover() != nil {
			token, err = nil, errChallenge
		}
	}()
	if token, err = n.client.Authenticate(challenge, n.bind); err != nil {
		return nil, fmt.Errorf("%w: %v", errChallenge, err)
	}
	return token, nil
}

func checkChallenge(b []byte) error {
	if len(b) < 48 || len(b) > 8<<10 || string(b[:8]) != "NTLMSSP\x00" || binary.LittleEndian.Uint32(b[8:]) != 2 {
		return errChallenge
	}
	if binary.LittleEndian.Uint32(b[20:])&flagsNeeded != flagsNeeded {
		return errWeak
	}
	return nil
}

func (n *ntlm) protocol() string { return "application/HTTP-SPNEGO-session-encrypted" }

func (n *ntlm) seal(message []byte) ([]byte, error) {
	sealed, sum, err := n.client.SecuritySession().Wrap(message)
	if err != nil {
		return nil, err
	}
	return pack(n.protocol(), len(message), sum, sealed), nil
}

func (n *ntlm) open(body []byte) (message []byte, err error) {
	sum, sealed, err := unpack(body, ntlmSignature)
	if err != nil {
		return nil, err
	}
	defer func() {
		if recover() != nil {
			message, err = nil, errSealed
		}
	}()
	if message, err = n.client.SecuritySession().Unwrap(sealed, sum); err != nil {
		return nil, fmt.Errorf("%w: %v", errSealed, err)
	}
	return message, nil
}

// bindings ties a logon to the TLS connection that it goes over, so that nobody in between can use it elsewhere. RFC 5929,
// section 4.1.
func bindings(cert *x509.Certificate) *ntlmssp.ChannelBindings {
	var sum []byte
	switch cert.SignatureAlgorithm {
	case x509.SHA384WithRSA, x509.ECDSAWithSHA384, x509.SHA384WithRSAPSS:
		s := sha512.Sum384(cert.Raw)
		sum = s[:]
	case x509.SHA512WithRSA, x509.ECDSAWithSHA512, x509.SHA512WithRSAPSS:
		s := sha512.Sum512(cert.Raw)
		sum = s[:]
	default:
		s := sha256.Sum256(cert.Raw)
		sum = s[:]
	}
	return &ntlmssp.ChannelBindings{ApplicationData: append([]byte(ntlmssp.TLSServerEndPoint+":"), sum...)}
}
