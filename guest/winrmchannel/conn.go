package winrmchannel

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"time"
)

const (
	maxAnswer = 1 << 20          // bytes of one answer, with its head; we ask for at most 150 KiB
	idleLimit = 20 * time.Second // after which a connection is not used again
	dialLimit = 10 * time.Second
)

// conn is one connection, logged on. One request at a time goes over it: NTLM numbers them.
type conn struct {
	net.Conn
	link   *link
	reader *bufio.Reader
	limit  *io.LimitedReader
	header string // of every request: Authorization
	ntlm   *ntlm  // that seals; nil over TLS
	used   time.Time
}

// statusError is an answer that is no message.
type statusError struct {
	Status int
	Offers []string // schemes by which one could log on
}

func (e *statusError) Error() string {
	return fmt.Sprintf("the server answered %d %s", e.Status, http.StatusText(e.Status))
}

var (
	errHuge  = fmt.Errorf("an answer of more than %d bytes", maxAnswer)
	errType  = errors.New("the answer is not of WS-Management: wrong content type")
	errClear = errors.New("the server answered an encrypted message in clear text")
)

// dial connects and logs on.
func (l *link) dial(ctx context.Context) (*conn, error) {
	wait, cancel := context.WithTimeout(ctx, dialLimit)
	defer cancel()
	raw, err := l.opts.Dial(wait, "tcp", l.addr)
	if err != nil {
		return nil, l.unreached(err)
	}
	c := &conn{Conn: raw, link: l, used: time.Now()}
	stop := context.AfterFunc(ctx, func() { raw.Close() })
	err = c.greet(ctx)
	if !stop() && err == nil {
		err = context.Cause(ctx)
	}
	if err != nil {
		raw.Close()
		if ctx.Err() != nil {
			err = errors.Join(context.Cause(ctx), err)
		}
		return nil, err
	}
	return c, nil
}

func (c *conn) greet(ctx context.Context) error {
	if !c.link.opts.Plain {
		t := tls.Client(c.Conn, c.link.tls)
		if err := t.HandshakeContext(ctx); err != nil {
			return c.link.mistrusted(err)
		}
		c.Conn = t
	}
	c.limit = &io.LimitedReader{R: c.Conn}
	c.reader = bufio.NewReader(c.limit)
	return c.logon(ctx)
}

// post sends a message and returns the answer's.
func (c *conn) post(ctx context.Context, message []byte) ([]byte, error) {
	body, kind := message, plainType
	if c.ntlm != nil {
		var err error
		if body, err = c.ntlm.seal(message); err != nil {
			return nil, err
		}
		kind = sealedType
	}
	res, answer, err := c.request(ctx, c.header, kind, body)
	switch {
	case err != nil:
		return nil, err
	case res.StatusCode != http.StatusOK && res.StatusCode != http.StatusInternalServerError:
		return nil, refusal(res)
	}
	got := res.Header.Get("Content-Type")
	if c.ntlm != nil {
		if !strings.HasPrefix(got, "multipart/encrypted") {
			return nil, errClear
		}
		return c.ntlm.open(answer)
	}
	if !strings.HasPrefix(got, "application/soap+xml") {
		if res.StatusCode != http.StatusOK {
			return nil, refusal(res)
		}
		return nil, errType
	}
	return answer, nil
}

func refusal(res *http.Response) error {
	e := &statusError{Status: res.StatusCode}
	for _, offer := range res.Header.Values("WWW-Authenticate") {
		scheme, _, _ := strings.Cut(offer, " ")
		if len(e.Offers) < 5 {
			e.Offers = append(e.Offers, scheme)
		}
	}
	return e
}

// request makes one exchange. When the context ends the connection is closed.
func (c *conn) request(ctx context.Context, authorization, kind string, body []byte) (*http.Response, []byte, error) {
	stop := context.AfterFunc(ctx, func() { c.Conn.Close() })
	res, answer, err := c.exchange(authorization, kind, body)
	if !stop() {
		return nil, nil, errors.Join(context.Cause(ctx), err)
	}
	return res, answer, err
}

func (c *conn) exchange(authorization, kind string, body []byte) (*http.Response, []byte, error) {
	req, err := http.NewRequest(http.MethodPost, c.link.url, bytes.NewReader(body))
	if err != nil {
		return nil, nil, err
	}
	if len(body) == 0 {
		req.Body = http.NoBody
		req.Header.Set("Content-Length", "0")
	}
	req.Header.Set("User-Agent", "hikae")
	req.Header.Set("Content-Type", kind)
	if authorization != "" {
		req.Header.Set("Authorization", authorization)
	}
	c.limit.N = maxAnswer
	if err := req.Write(c.Conn); err != nil {
		return nil, nil, err
	}
	res, err := http.ReadResponse(c.reader, req)
	if err != nil {
		return nil, nil, c.short(err)
	}
	defer res.Body.Close()
	answer, err := io.ReadAll(res.Body)
	if err != nil {
		return nil, nil, c.short(err)
	}
	if c.used = time.Now(); res.Close {
		c.used = time.Time{} // it is not used again
	}
	return res, answer, nil
}

func (c *conn) short(err error) error {
	if c.limit.N <= 0 {
		return errHuge
	}
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

// fresh says whether another request may go over it.
func (c *conn) fresh() bool { return time.Since(c.used) < idleLimit }

// logon gets the connection to where messages may be sent.
func (c *conn) logon(ctx context.Context) error {
	l := c.link
	switch l.method {
	case byBasic:
		c.header = "Basic " + base64.StdEncoding.EncodeToString([]byte(l.cred.User+":"+l.cred.Password))
		return nil
	case byCertificate:
		c.header = "http://schemas.dmtf.org/wbem/wsman/1/wsman/secprofile/https/mutual"
		return nil
	case byKerberos:
		token, err := l.ticket(ctx)
		if err != nil {
			return l.wrong("login", "check the realm, its domain controllers, the account and the clock", err)
		}
		return c.logonKerberos(ctx, token)
	}
	return c.logonNTLM(ctx)
}

// logonNTLM takes two requests with nothing in them: until it has logged on, a server hears nothing from us.
func (c *conn) logonNTLM(ctx context.Context) error {
	var n *ntlm
	var err error
	if t, ok := c.Conn.(*tls.Conn); ok {
		n, err = newNTLM(c.link.cred.User, c.link.cred.Password, bindings(t.ConnectionState().PeerCertificates[0]))
	} else {
		n, err = newNTLM(c.link.cred.User, c.link.cred.Password, nil)
	}
	if err != nil {
		return c.link.wrong("login", "check the guest's credential", err)
	}
	first, err := n.negotiate()
	if err != nil {
		return err
	}
	res, _, err := c.request(ctx, negotiate(first), plainType, nil)
	if err != nil {
		return c.link.cut(err)
	}
	challenge, ok := challengeOf(res)
	if !ok {
		return c.link.refused(refusal(res))
	}
	last, err := n.authenticate(challenge)
	if err != nil {
		return c.link.wrong("login", "let the server take NTLMv2 with 128 bit session security", err)
	}
	if res, _, err = c.request(ctx, negotiate(last), plainType, nil); err != nil {
		return c.link.cut(err)
	}
	if res.StatusCode != http.StatusOK {
		return c.link.refused(refusal(res))
	}
	if c.link.opts.Plain {
		c.ntlm = n
	}
	return nil
}

func (c *conn) logonKerberos(ctx context.Context, token string) error {
	res, _, err := c.request(ctx, token, plainType, nil)
	if err != nil {
		return c.link.cut(err)
	}
	if res.StatusCode != http.StatusOK {
		return c.link.refused(refusal(res))
	}
	return nil
}

func negotiate(token []byte) string { return "Negotiate " + base64.StdEncoding.EncodeToString(token) }

// challengeOf is what a server asks before it lets anybody log on.
func challengeOf(res *http.Response) ([]byte, bool) {
	if res.StatusCode != http.StatusUnauthorized {
		return nil, false
	}
	for _, offer := range res.Header.Values("WWW-Authenticate") {
		scheme, token, _ := strings.Cut(offer, " ")
		if b, err := base64.StdEncoding.DecodeString(token); strings.EqualFold(scheme, "Negotiate") && err == nil && len(b) > 0 {
			return b, true
		}
	}
	return nil, false
}
