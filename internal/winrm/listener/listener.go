package listener

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
)

// maxMessage bounds a request.
const maxMessage = 600 << 10

// Options of a door. Zero fields are good defaults.
type Options struct {
	User, Password string
	TLS            bool // messages are not encrypted one by one
	Basic          bool // is allowed
	Weak           bool // offers no sealing
	Kerberos       *Service
}

// Exchange is one message that was let in.
type Exchange struct {
	Message []byte // as it was before it was encrypted
	Clear   bool   // it came neither encrypted nor over TLS

	w      http.ResponseWriter
	sealer sealing
}

// sealing is one connection's.
type sealing interface {
	seal(message []byte) (signature, sealed []byte)
	open(signature, sealed []byte) ([]byte, error)
	size() int // of a signature
	protocol() string
}

// Door lets messages in.
type Door struct{ opts Options }

// New makes a door.
func New(opts Options) *Door { return &Door{opts} }

type key struct{}

// visitor is who stands at the door on one connection.
type visitor struct {
	ntlm *ntlmServer
	krb  *krbServer
}

func (v *visitor) sealing() sealing {
	if v.krb != nil {
		return v.krb
	}
	if v.ntlm.done {
		return v.ntlm
	}
	return nil
}

// Context is a server's ConnContext: who logs on does so for a connection.
func (d *Door) Context(ctx context.Context, _ net.Conn) context.Context {
	flags := uint32(strongFlags)
	if d.opts.Weak {
		flags &^= 1 << 5
	}
	return context.WithValue(ctx, key{}, &visitor{ntlm: &ntlmServer{user: d.opts.User, password: d.opts.Password, flags: flags}})
}

// Enter reads a request. Nil: it was about logging on, and is answered.
func (d *Door) Enter(w http.ResponseWriter, r *http.Request) *Exchange {
	v := r.Context().Value(key{}).(*visitor)
	body, err := io.ReadAll(io.LimitReader(r.Body, maxMessage+1))
	if err != nil || !d.admit(w, r, v, body) {
		return nil
	}
	e := &Exchange{Message: body, w: w}
	if s := v.sealing(); s != nil && !d.opts.TLS {
		e.sealer = s
		if e.Message, err = openParts(s, body); err != nil {
			w.WriteHeader(http.StatusBadRequest)
			return nil
		}
	}
	e.Clear = e.sealer == nil && !d.opts.TLS
	if len(body) > maxMessage {
		w.WriteHeader(http.StatusRequestEntityTooLarge)
		return nil
	}
	return e
}

// Forget makes a connection a stranger's again, as when a server's session is lost. The request is answered.
func (d *Door) Forget(w http.ResponseWriter, r *http.Request) {
	v := r.Context().Value(key{}).(*visitor)
	*v = *d.Context(context.Background(), nil).Value(key{}).(*visitor)
	refuse(w, "Negotiate", "Kerberos")
}

// Answer sends a message.
func (e *Exchange) Answer(status int, message []byte) {
	e.w.Header().Set("Content-Type", "application/soap+xml;charset=UTF-8")
	if e.sealer != nil {
		message = sealParts(e.sealer, message)
		e.w.Header().Set("Content-Type", `multipart/encrypted;protocol="`+e.sealer.protocol()+`";boundary="Encrypted Boundary"`)
	}
	e.w.WriteHeader(status)
	e.w.Write(message)
}

// Cut ends a connection without an answer.
func Cut(w http.ResponseWriter) {
	c, _, err := w.(http.Hijacker).Hijack()
	if err == nil {
		c.Close()
	}
}

func refuse(w http.ResponseWriter, offers ...string) bool {
	for _, o := range offers {
		w.Header().Add("WWW-Authenticate", o)
	}
	w.WriteHeader(http.StatusUnauthorized)
	return false
}

// admit lets a message through, or answers what logging on takes.
func (d *Door) admit(w http.ResponseWriter, r *http.Request, v *visitor, body []byte) bool {
	scheme, token, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	blob, _ := base64.StdEncoding.DecodeString(token)
	switch {
	case v.sealing() != nil:
		return true
	case r.TLS != nil && len(r.TLS.VerifiedChains) > 0:
		return strings.HasSuffix(r.Header.Get("Authorization"), "/secprofile/https/mutual") || refuse(w, "Negotiate")
	case scheme == "Basic" && d.opts.Basic:
		account := string(blob[bytes.LastIndexByte(blob, '\\')+1:]) // with or without the machine's name
		return account == d.opts.User+":"+d.opts.Password || refuse(w, "Negotiate", `Basic realm="WSMAN"`)
	case scheme == "Kerberos" && d.opts.Kerberos != nil:
		k, answer, err := d.opts.Kerberos.accept(blob)
		if err != nil {
			return refuse(w, "Negotiate", "Kerberos")
		}
		v.krb = k
		w.Header().Set("WWW-Authenticate", "Kerberos "+base64.StdEncoding.EncodeToString(answer))
	case scheme == "Negotiate" && len(blob) > 12 && blob[8] == 1:
		return refuse(w, "Negotiate "+base64.StdEncoding.EncodeToString(v.ntlm.offer()))
	case scheme == "Negotiate":
		if v.ntlm.accept(blob) != nil {
			return refuse(w, "Negotiate")
		}
	default:
		return refuse(w, "Negotiate", "Kerberos")
	}
	if len(body) > 0 {
		return true
	}
	w.WriteHeader(http.StatusOK)
	return false
}

const boundary = "--Encrypted Boundary"

var errParts = errors.New("no encrypted message")

func openParts(s sealing, body []byte) ([]byte, error) {
	parts := bytes.SplitN(body, []byte(boundary+"\r\n"), 3)
	if len(parts) != 3 || !bytes.Contains(parts[1], []byte("OriginalContent: type=application/soap+xml;charset=UTF-8;Length=")) ||
		!bytes.Contains(parts[1], []byte("Content-Type: "+s.protocol()+"\r\n")) {
		return nil, errParts
	}
	_, data, ok := bytes.Cut(parts[2], []byte("Content-Type: application/octet-stream\r\n"))
	data, ended := bytes.CutSuffix(data, []byte(boundary+"--\r\n"))
	n := s.size()
	if !ok || !ended || len(data) < 4+n || int64(binary.LittleEndian.Uint32(data)) != int64(n) {
		return nil, errParts
	}
	return s.open(data[4:4+n], data[4+n:])
}

func sealParts(s sealing, message []byte) []byte {
	signature, sealed := s.seal(message)
	b := fmt.Appendf(nil, "%s\r\nContent-Type: %s\r\nOriginalContent: type=application/soap+xml;charset=UTF-8;Length=%d\r\n%s\r\nContent-Type: application/octet-stream\r\n",
		boundary, s.protocol(), len(message), boundary)
	b = binary.LittleEndian.AppendUint32(b, uint32(len(signature)))
	return append(append(append(b, signature...), sealed...), boundary+"--\r\n"...)
}
