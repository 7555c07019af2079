package winrm

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"time"
)

const (
	defaultMax = 1 << 20          // bytes of one answer, with its head
	idleLimit  = 20 * time.Second // after which a connection is not used again
	dialLimit  = 10 * time.Second
)

// sealer encrypts what goes over one connection, in the order in which it goes.
type sealer interface {
	seal(message []byte) ([]byte, error) // the body of a request
	open(body []byte) ([]byte, error)    // the message in an answer
	protocol() string
}

// conn is one connection, logged on. One request at a time goes over it: NTLM and Kerberos number them.
type conn struct {
	net.Conn
	link   *Link
	reader *bufio.Reader
	limit  *io.LimitedReader
	header string // of every request: Authorization
	sealer sealer // nil over TLS
	used   time.Time
	old    bool // it was idle before
}

// dial connects and logs on.
func (l *Link) dial(ctx context.Context) (*conn, error) {
	wait, cancel := context.WithTimeout(ctx, dialLimit)
	defer cancel()
	raw, err := l.opts.Dial(wait, "tcp", l.addr)
	if err != nil {
		return nil, unreached(err)
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
			return mistrusted(err)
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
	if c.sealer != nil {
		var err error
		if body, err = c.sealer.seal(message); err != nil {
			return nil, err
		}
		kind = sealedType(c.sealer.protocol())
	}
	res, answer, err := c.request(ctx, c.header, kind, body)
	switch {
	case err != nil:
		return nil, err
	case res.StatusCode != http.StatusOK && res.StatusCode != http.StatusInternalServerError:
		return nil, refusal(res)
	}
	got := res.Header.Get("Content-Type")
	if c.sealer != nil {
		if !strings.HasPrefix(got, "multipart/encrypted") {
			return nil, errClear
		}
		return c.sealer.open(answer)
	}
	if !strings.HasPrefix(got, "application/soap+xml") {
		if res.StatusCode != http.StatusOK {
			return nil, refusal(res)
		}
		return nil, errType
	}
	return answer, nil
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
	c.limit.N = c.link.opts.MaxAnswer
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
		return ErrHuge
	}
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

// fresh says whether another request may go over it.
func (c *conn) fresh() bool { return time.Since(c.used) < idleLimit }
