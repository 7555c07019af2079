package s3store

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync/atomic"
	"time"
)

// line is how requests travel: HTTP/1.1 over as many connections as allowed, each with a deadline on its progress.
type line struct {
	http *http.Transport
	home string       // the address's host; redirects elsewhere are not followed
	skew atomic.Int64 // nanoseconds that the server's clock is ahead, by its last answer

	answers atomic.Int64 // that had a date
}

func newLine(at Address, o Options) (*line, error) {
	conf := &tls.Config{MinVersion: tls.VersionTLS12}
	if o.CA != nil {
		conf.RootCAs = x509.NewCertPool()
		if !conf.RootCAs.AppendCertsFromPEM(o.CA) {
			return nil, fmt.Errorf("no certificate in what was given as CA: %w", fs.ErrInvalid)
		}
	}
	t := transport(o.Timeout)
	t.TLSClientConfig = conf
	t.MaxConnsPerHost, t.MaxIdleConnsPerHost = o.Connections, o.Connections
	return &line{http: t, home: strings.ToLower((&url.URL{Host: at.Host}).Hostname())}, nil
}

func transport(timeout time.Duration) *http.Transport {
	dialer := net.Dialer{Timeout: min(timeout, 30*time.Second),
		KeepAliveConfig: net.KeepAliveConfig{Enable: true, Idle: 10 * time.Second, Interval: 5 * time.Second, Count: 4}}
	return &http.Transport{
		Proxy: http.ProxyFromEnvironment,
		DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
			c, err := dialer.DialContext(ctx, network, address)
			if err != nil {
				return nil, err
			}
			return &moving{c, timeout}, nil
		},
		TLSHandshakeTimeout:    timeout,
		IdleConnTimeout:        timeout / 2, // before the deadline on its progress ends it
		MaxResponseHeaderBytes: 64 << 10,
		DisableCompression:     true, // what is stored is asked for, byte for byte
		WriteBufferSize:        128 << 10,
		ReadBufferSize:         128 << 10,
		TLSNextProto:           map[string]func(string, *tls.Conn) http.RoundTripper{}, // one request, one connection
	}
}

// plainClient asks services for credentials.
func plainClient() *http.Client {
	t := transport(10 * time.Second)
	t.DisableKeepAlives = true
	return &http.Client{Transport: t, Timeout: 20 * time.Second}
}

// RoundTrip carries one request, and notes how far the server's clock is from ours.
func (l *line) RoundTrip(req *http.Request) (*http.Response, error) {
	if h := strings.ToLower(req.URL.Hostname()); h != l.home && !strings.HasSuffix(h, "."+l.home) && l.foreign(h) {
		return nil, fmt.Errorf("a request to another host than %s", l.home)
	}
	resp, err := l.http.RoundTrip(req)
	if err != nil {
		return nil, err
	}
	if date, err := http.ParseTime(resp.Header.Get("Date")); err == nil {
		l.skew.Store(int64(time.Until(date)))
		l.answers.Add(1)
	}
	if err := bound(req, resp); err != nil {
		return nil, err
	}
	return resp, nil
}

// foreign: the client library gives Amazon's hosts the names that they have by region.
func (l *line) foreign(host string) bool {
	amazon := func(h string) bool {
		return strings.HasSuffix(h, ".amazonaws.com") || strings.HasSuffix(h, ".amazonaws.com.cn")
	}
	return !amazon(l.home) || !amazon(host)
}

func (l *line) close() { l.http.CloseIdleConnections() }

// moving is a connection that has to make progress: what it sends or gets moves the deadline of both directions, since
// nothing comes back while a large body is on its way.
type moving struct {
	net.Conn
	timeout time.Duration
}

func (c *moving) Read(p []byte) (int, error) {
	if err := c.SetDeadline(time.Now().Add(c.timeout)); err != nil {
		return 0, err
	}
	n, err := c.Conn.Read(p)
	return n, stalled(err)
}

// Write sends in pieces, so that each of them is progress.
func (c *moving) Write(p []byte) (n int, err error) {
	for len(p) > 0 {
		if err := c.SetDeadline(time.Now().Add(c.timeout)); err != nil {
			return n, err
		}
		m, err := c.Conn.Write(p[:min(len(p), 256<<10)])
		n += m
		if err != nil {
			return n, stalled(err)
		}
		p = p[m:]
	}
	return n, nil
}

var errStalled = errors.New("the connection made no progress")

func stalled(err error) error {
	var ne net.Error
	if errors.As(err, &ne) && ne.Timeout() {
		return fmt.Errorf("%w: %w", errStalled, err)
	}
	return err
}
