package winrm

import (
	"context"
	"crypto/tls"
	"encoding/base64"
	"net/http"
	"strings"
)

// logon gets the connection to where messages may be sent.
func (c *conn) logon(ctx context.Context) error {
	l := c.link
	switch l.method {
	case byBasic:
		c.header = "Basic " + base64.StdEncoding.EncodeToString([]byte(l.login.User+":"+l.login.Password))
		return nil
	case byCertificate:
		c.header = "http://schemas.dmtf.org/wbem/wsman/1/wsman/secprofile/https/mutual"
		return nil
	case byKerberos:
		return c.logonKerberos(ctx)
	}
	return c.logonNTLM(ctx)
}

// logonNTLM takes two requests with nothing in them: until it has logged on, a server hears nothing from us.
func (c *conn) logonNTLM(ctx context.Context) error {
	var n *ntlm
	var err error
	if t, ok := c.Conn.(*tls.Conn); ok {
		n, err = newNTLM(c.link.login.User, c.link.login.Password, bindings(t.ConnectionState().PeerCertificates[0]))
	} else {
		n, err = newNTLM(c.link.login.User, c.link.login.Password, nil)
	}
	if err != nil {
		return wrong("login", "check the credential", err)
	}
	first, err := n.negotiate()
	if err != nil {
		return err
	}
	res, _, err := c.request(ctx, token("Negotiate", first), plainType, nil)
	if err != nil {
		return c.link.cut(err, false)
	}
	challenge, ok := tokenOf(res, "Negotiate")
	if !ok || res.StatusCode != http.StatusUnauthorized {
		return c.link.refused(refusal(res))
	}
	last, err := n.authenticate(challenge)
	if err != nil {
		return wrong("login", "let the server take NTLMv2 with 128 bit session security", err)
	}
	if res, _, err = c.request(ctx, token("Negotiate", last), plainType, nil); err != nil {
		return c.link.cut(err, false)
	}
	if res.StatusCode != http.StatusOK {
		return c.link.refused(refusal(res))
	}
	if c.link.opts.Plain {
		c.sealer = n
	}
	return nil
}

// logonKerberos takes one request with nothing in it. Without TLS the server's answer must prove that it is the one that
// the ticket is for, and holds the key that messages are sealed with.
func (c *conn) logonKerberos(ctx context.Context) error {
	const hint = "check the realm, its domain controllers, the account and the clock"
	t, err := c.link.ticket(ctx)
	if err != nil {
		return wrong("login", hint, err)
	}
	k, first, err := newKerberos(t)
	if err != nil {
		return wrong("login", hint, err)
	}
	res, _, err := c.request(ctx, token("Kerberos", first), plainType, nil)
	if err != nil {
		return c.link.cut(err, false)
	}
	if res.StatusCode != http.StatusOK {
		return c.link.refused(refusal(res))
	}
	answer, ok := tokenOf(res, "Kerberos")
	if !ok {
		return wrong("login", "", errProof)
	}
	if err := k.proven(answer); err != nil {
		return wrong("login", "", err)
	}
	if c.link.opts.Plain {
		c.sealer = k
	}
	return nil
}

func token(scheme string, b []byte) string {
	return scheme + " " + base64.StdEncoding.EncodeToString(b)
}

// tokenOf is what a server says to a scheme.
func tokenOf(res *http.Response, scheme string) ([]byte, bool) {
	for _, offer := range res.Header.Values("WWW-Authenticate") {
		name, text, _ := strings.Cut(offer, " ")
		if b, err := base64.StdEncoding.DecodeString(text); strings.EqualFold(name, scheme) && err == nil && len(b) > 0 {
			return b, true
		}
	}
	return nil, false
}
