package nbd

import (
	"fmt"
	"io/fs"
	"net"
	"net/url"
	"strings"
)

// Address is where an export is. [ParseURI] makes one.
type Address struct {
	Network string // tcp or unix
	Host    string // host:port, or the path of the socket
	Export  string // empty is the server's default
	TLS     bool   // the connection must use TLS

	TLSHostname     string // the name in the server's certificate, where it is not the host
	TLSCertificates string // a folder, see [ClientTLS]
}

const defaultPort = "10809"

// ParseURI reads an NBD URI:
//
//	nbd://HOST[:PORT]/EXPORT         nbd+unix:///EXPORT?socket=PATH
//	nbds://HOST[:PORT]/EXPORT        nbds+unix:///EXPORT?socket=PATH      with TLS
//
// and with TLS the parameters tls-hostname=NAME, tls-certificates=FOLDER and tls-type=x509. Parameters that are not
// known are an error, and so are those that would weaken the connection.
func ParseURI(uri string) (Address, error) {
	a, err := parseURI(uri)
	if err != nil {
		return Address{}, fmt.Errorf("NBD URI %q: %w", uri, err)
	}
	return a, nil
}

func parseURI(uri string) (Address, error) {
	if len(uri) > 4*maxString {
		return Address{}, fmt.Errorf("longer than %d bytes: %w", 4*maxString, fs.ErrInvalid)
	}
	u, err := url.Parse(uri)
	if err != nil {
		return Address{}, fmt.Errorf("%w: %w", fs.ErrInvalid, err.(*url.Error).Err)
	}
	base, isUnix := strings.CutSuffix(u.Scheme, "+unix")
	if base != "nbd" && base != "nbds" {
		return Address{}, fmt.Errorf("unknown scheme %q: %w", u.Scheme, errUnsupportedURI)
	}
	a := Address{Network: "tcp", TLS: base == "nbds", Export: strings.TrimPrefix(u.Path, "/")}
	socket, err := a.parameters(u)
	if err != nil {
		return Address{}, err
	}
	switch {
	case u.Opaque != "" || u.Fragment != "":
		return Address{}, fmt.Errorf("not of the form %s://…: %w", u.Scheme, fs.ErrInvalid)
	case len(a.Export) > maxString || strings.ContainsRune(a.Export, 0):
		return Address{}, fmt.Errorf("the export's name is longer than %d bytes or holds NUL: %w", maxString, fs.ErrInvalid)
	case isUnix && (socket == "" || u.Host != ""):
		return Address{}, fmt.Errorf("needs socket=PATH and no host: %w", fs.ErrInvalid)
	case isUnix:
		a.Network, a.Host = "unix", socket
	case socket != "" || u.Hostname() == "":
		return Address{}, fmt.Errorf("needs a host and no socket: %w", fs.ErrInvalid)
	default:
		port := u.Port()
		if port == "" {
			port = defaultPort
		}
		a.Host = net.JoinHostPort(u.Hostname(), port)
	}
	return a, nil
}

var errUnsupportedURI = fmt.Errorf("nbd, nbds, nbd+unix and nbds+unix are known: %w", fs.ErrInvalid)

func (a *Address) parameters(u *url.URL) (socket string, err error) {
	query, err := url.ParseQuery(u.RawQuery)
	if err != nil {
		return "", fmt.Errorf("%w: %w", fs.ErrInvalid, err)
	}
	for key, values := range query {
		if len(values) != 1 {
			return "", fmt.Errorf("%s is given %d times: %w", key, len(values), fs.ErrInvalid)
		}
		value := values[0]
		switch {
		case key == "socket":
			socket = value
		case key == "tls-hostname" && a.TLS:
			a.TLSHostname = value
		case key == "tls-certificates" && a.TLS:
			a.TLSCertificates = value
		case key == "tls-type" && a.TLS && value == "x509", key == "tls-verify-peer" && a.TLS && value == "1":
		default:
			return "", fmt.Errorf("parameter %s=%s is not supported: %w", key, value, fs.ErrInvalid)
		}
	}
	return socket, nil
}

// String is the address as a URI.
func (a Address) String() string {
	u := url.URL{Scheme: "nbd", Path: "/" + a.Export}
	if a.TLS {
		u.Scheme = "nbds"
	}
	query := url.Values{}
	if a.Network == "unix" {
		u.Scheme += "+unix"
		query.Set("socket", a.Host)
	} else {
		u.Host = a.Host
	}
	if a.TLSHostname != "" {
		query.Set("tls-hostname", a.TLSHostname)
	}
	if a.TLSCertificates != "" {
		query.Set("tls-certificates", a.TLSCertificates)
	}
	u.RawQuery = strings.ReplaceAll(query.Encode(), "%2F", "/")
	if a.Network == "unix" {
		return u.Scheme + "://" + u.EscapedPath() + "?" + u.RawQuery // url.URL leaves out the empty authority
	}
	return u.String()
}

// serverName is the name that the server's certificate must hold.
func (a Address) serverName() string {
	if a.TLSHostname != "" {
		return a.TLSHostname
	}
	if a.Network == "unix" {
		return "localhost"
	}
	host, _, err := net.SplitHostPort(a.Host)
	if err != nil {
		return a.Host
	}
	return host
}
