package trust

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"strings"
)

// Why a peer is not trusted. A [*PeerError] wraps one of them and names the peer.
var (
	// ErrUnknownPeer: the key is not in the book.
	ErrUnknownPeer = errors.New("this peer is not enrolled")
	// ErrRevoked: the key was in the book, and was taken out or replaced.
	ErrRevoked = errors.New("this peer's key was revoked")
	// ErrExpired: a token or a certificate has ended.
	ErrExpired = errors.New("it has expired")
	// ErrNotYetValid: a certificate is from the future.
	ErrNotYetValid = errors.New("the certificate is not valid yet")
	// ErrTokenUsed: somebody has enrolled with this token.
	ErrTokenUsed = errors.New("the token was used already")
	// ErrWrongServer: the server has another key than the one that was written down.
	ErrWrongServer = errors.New("this is not the server that was enrolled with")
	// ErrCertificate: the certificate is not in the one shape that movers use.
	ErrCertificate = errors.New("this is not a mover's certificate")
	// ErrProtocol: the other side does not speak the protocol, or not over TLS 1.3.
	ErrProtocol = errors.New("the other side does not speak this protocol over TLS 1.3")
	// ErrRefused: the other side does not trust us. See [Explain].
	ErrRefused = errors.New("the other side refused this machine's key")
)

// What else goes wrong.
var (
	// ErrBook: the book of peers cannot be understood, or others may write to it. Nobody is trusted until it is mended.
	ErrBook = errors.New("the book of peers cannot be trusted")
	// ErrIdentity: the file of a key cannot be used.
	ErrIdentity = errors.New("the key cannot be used")
	// ErrToken: a text is no token, or was not copied whole.
	ErrToken = errors.New("this is not a whole token")
	// ErrNameTaken is an fs.ErrExist.
	ErrNameTaken = fmt.Errorf("the name is taken: %w", fs.ErrExist)
	// ErrKeyTaken is an fs.ErrExist: the key is in the book, or was.
	ErrKeyTaken = fmt.Errorf("the key stands in the book already: %w", fs.ErrExist)
	// ErrLocked: another process has been changing the folder for too long.
	ErrLocked = errors.New("another process is changing it")
)

// PeerError says why a peer is not trusted.
type PeerError struct {
	Name string // as it is or was enrolled; empty where that is not known
	Pin  Pin    // zero where it showed no key
	Err  error  // one of this package's errors
	Hint string // what can be done, for people
}

func (e *PeerError) Error() string {
	var b strings.Builder
	b.WriteString("peer ")
	if e.Name != "" {
		fmt.Fprintf(&b, "%q ", e.Name)
	}
	if e.Pin != (Pin{}) {
		fmt.Fprintf(&b, "(key %s) ", e.Pin.Short())
	}
	text := strings.TrimSuffix(b.String(), " ") + ": " + e.Err.Error()
	if e.Hint != "" {
		text += " (" + e.Hint + ")"
	}
	return text
}

func (e *PeerError) Unwrap() error { return e.Err }

const clockHint = "compare the clocks of the two machines: they may differ by three days, not more"

// Explain makes the alert by which the other side refused us an [ErrRefused] that says what may be the cause. Any other
// error it returns as it is. For reasons of TLS 1.3 a client gets that alert at its first read, not in the handshake.
func Explain(err error) error {
	var op *net.OpError
	if !errors.As(err, &op) || op.Op != "remote error" || errors.Is(err, ErrRefused) {
		return err
	}
	if text := op.Err.Error(); !strings.Contains(text, "certificate") {
		return err
	}
	return fmt.Errorf("%w: it is not enrolled there, was revoked, its token was used or has expired, or %s: %w",
		ErrRefused, clockHint, err)
}
