package hyperv

import (
	"context"
	"crypto/sha1"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/url"
	"os"
	"slices"
	"strings"

	"github.com/hikae/hikae/hyperv/cim"
)

const (
	maxAddress = 64 << 10 // bytes of an address
	maxValue   = 1024     // bytes of one parameter
	maxCAFile  = 4 << 20  // bytes
)

// Address is what an address of ours says: which host or cluster, which of its VMs, and how.
type Address struct {
	Host       string // HOST[:PORT] of a host, or of a cluster
	User       string // user, DOMAIN\user or user@realm; empty: none is named
	Realm      string // Kerberos logs on
	KDCs       []string
	TLS        bool     // else messages are encrypted by NTLM or Kerberos, over HTTP
	Thumbprint []string // of certificates: the only ones that are taken
	CAFile     string   // with certificates that are trusted
	Nodes, SMB map[string]string
	Transport  string // of calls: TransportWSMan or TransportDCOM
	Select     Selection
	NoCheck    bool // what would stop a backup is not looked for
	Options    ProviderOptions
}

// Transports of calls.
const (
	TransportWSMan = "wsman" // WS-Management
	TransportDCOM  = "dcom"  // DCOM, for which [Options].Route has to be set: package dcom brings 122 MB of source
)

var transports = []string{TransportWSMan, TransportDCOM}

// Parameters that an address may have. Those that end in a dot are followed by a machine's name.
var (
	repeatable = []string{"vm", "match", "thumbprint", "kdc", "ignore"}
	flags      = []string{"tls", "plain", "full"}
	single     = []string{"ca", "realm", "smb", "mode", "procedure", "quiesce", "rct", "check", "transport"}
	named      = []string{"smb.", "node."}
	parameters = slices.Concat(repeatable, flags, single, []string{"smb.NODE", "node.NODE"})
)

// ParseURL reads the address of virtual machines of a host or a cluster:
//
//	hyperv://USER@HOST[:PORT]/?vm=GUID&tls=1
//
// All parameters may be left out. The password is not part of an address.
//
//	vm          a GUID, or a name where it is unique, repeatable: see [Selection]
//	match       a pattern of names, repeatable
//	tls         1: HTTPS, port 5986. Else HTTP, port 5985, with every message encrypted by NTLM or Kerberos
//	plain       1: the latter, said aloud
//	thumbprint  a machine's certificate, by SHA-256 or SHA-1, repeatable; with tls alone
//	ca          a file with certificates that are trusted, as PEM; with tls alone
//	realm       Kerberos logs on, in this realm
//	kdc         HOST[:PORT] of a key distribution centre, repeatable; else DNS is asked
//	node.NODE   HOST[:PORT] where a node of a cluster is reached
//	smb         HOST[:PORT] where files are read by SMB; smb.NODE: those of one machine, a file server too
//	mode        on-host or off-host
//	procedure   auto, writer2012, writer2012r2, production or requester
//	quiesce     try, require or off
//	full        1: guests truncate their logs
//	rct         on or off: whether changes are tracked
//	ignore      a disk, by key or place (scsi0-1), that is left out though nothing can pin it, repeatable
//	check       on or off: whether what would stop a backup is looked for
//	transport   wsman, or dcom: port 135 and one that it names, NTLM alone, always encrypted; without tls, thumbprint, ca, realm and kdc
//
// Errors wrap fs.ErrInvalid, and show neither a password nor a parameter's value that was not understood as one.
func ParseURL(address string) (*Address, error) {
	u, query, err := splitURL(address)
	if err != nil {
		return nil, err
	}
	a := &Address{Host: u.Host, User: u.User.Username(), Realm: query.Get("realm"), KDCs: query["kdc"], CAFile: query.Get("ca"),
		Thumbprint: query["thumbprint"], Select: Selection{VMs: query["vm"], Patterns: query["match"]}}
	for _, check := range []func() error{
		a.Select.check,
		func() error { return a.readTLS(u, query) },
		func() error { return a.readMachines(query) },
		func() error { return a.readWords(query) },
	} {
		if err := check(); err != nil {
			return nil, fmt.Errorf("%s: %w", shown(u), err)
		}
	}
	return a, nil
}

func splitURL(address string) (*url.URL, url.Values, error) {
	const form = "hyperv://USER@HOST[:PORT]/?…"
	if len(address) > maxAddress {
		return nil, nil, fmt.Errorf("an address of %d bytes: %w: at most %d", len(address), fs.ErrInvalid, maxAddress)
	}
	u, err := url.Parse(address)
	if err != nil {
		// The library's error repeats the address, and what stands in the place of a port may be part of a password.
		return nil, nil, fmt.Errorf("%w: the address is not of the form %s", fs.ErrInvalid, form)
	}
	bad := func(format string, args ...any) error {
		return fmt.Errorf("%s: %w: %s", shown(u), fs.ErrInvalid, fmt.Sprintf(format, args...))
	}
	if _, has := u.User.Password(); has {
		return nil, nil, bad("a password does not belong here, where others see it: set HIKAE_SOURCE_PASSWORD")
	}
	switch {
	case u.Scheme != "hyperv" || u.Opaque != "" || u.Fragment != "" || u.Hostname() == "":
		return nil, nil, bad("it is not of the form %s", form)
	case u.Path != "" && u.Path != "/":
		return nil, nil, bad("it has a path: VMs are named by parameters")
	case !isHostPort(u.Host):
		return nil, nil, bad("its host is none, or its port is no number from 1 to 65535")
	case strings.ContainsFunc(u.User.Username(), isControl):
		return nil, nil, bad("its user holds control characters")
	}
	query, err := url.ParseQuery(u.RawQuery)
	if err != nil {
		return nil, nil, bad("its parameters are not encoded as they have to be")
	}
	return u, query, checkQuery(query, bad)
}

func isControl(r rune) bool { return r < ' ' || r == 0x7f || r == '\uFFFD' }

func checkQuery(query url.Values, bad func(format string, args ...any) error) error {
	for name, values := range query {
		known, several, empty := kindOf(name)
		switch {
		case !known:
			return bad("parameter %q is unknown: there are %s", brief(name), strings.Join(parameters, ", "))
		case len(values) > 1 && !several:
			return bad("parameter %q is given twice", name)
		case slices.ContainsFunc(values, func(v string) bool {
			return v == "" && !empty || len(v) > maxValue || strings.ContainsFunc(v, isControl)
		}):
			return bad("parameter %q is empty, longer than %d bytes, or holds control characters", brief(name), maxValue)
		}
	}
	return nil
}

// kindOf says whether there is such a parameter, whether it may be given more than once, and whether it may stand without a value.
func kindOf(name string) (known, several, empty bool) {
	if slices.Contains(repeatable, name) {
		return true, true, false
	}
	if slices.Contains(flags, name) {
		return true, false, true
	}
	for _, prefix := range named {
		if machine, ok := strings.CutPrefix(name, prefix); ok && isHostPort(machine) && !strings.Contains(machine, ":") {
			return true, false, false
		}
	}
	return slices.Contains(single, name), false, false
}

func brief(s string) string {
	if len(s) > 40 {
		return strings.ToValidUTF8(s[:40], "") + "…"
	}
	return s
}

// shown is an address without what nobody should see.
func shown(u *url.URL) string {
	return (&url.URL{Scheme: u.Scheme, User: url.User(u.User.Username()), Host: u.Host, Path: "/"}).String()
}

// readTLS: certificates mean nothing without TLS, and a port that is known for it is enough to mean it.
func (a *Address) readTLS(u *url.URL, query url.Values) error {
	tls, told, err := flag(query, "tls")
	if err != nil {
		return err
	}
	plain, toldPlain, err := flag(query, "plain")
	if err != nil {
		return err
	}
	certified := a.CAFile != "" || len(a.Thumbprint) > 0
	switch {
	case told && toldPlain && tls == plain:
		return fmt.Errorf("tls and plain: %w: they contradict each other", fs.ErrInvalid)
	case told:
		a.TLS = tls
	case toldPlain:
		a.TLS = !plain
	default:
		a.TLS = certified || u.Port() == "5986"
	}
	if certified && !a.TLS {
		return fmt.Errorf("thumbprint and ca: %w: they are for TLS, which is off", fs.ErrInvalid)
	}
	for _, t := range a.Thumbprint {
		digest, err := hex.DecodeString(strings.ReplaceAll(t, ":", ""))
		if err != nil || len(digest) != sha256.Size && len(digest) != sha1.Size {
			return fmt.Errorf("thumbprint: %w: it has neither the 64 digits of SHA-256 nor the 40 of SHA-1", fs.ErrInvalid)
		}
	}
	return nil
}

// flag is one that stands for itself, or has 1 or 0 as its value.
func flag(query url.Values, name string) (on, told bool, err error) {
	values, told := query[name]
	if !told {
		return false, false, nil
	}
	switch values[0] {
	case "", "1":
		return true, true, nil
	case "0":
		return false, true, nil
	}
	return false, true, fmt.Errorf("%s: %w: 1 or 0", name, fs.ErrInvalid)
}

// readMachines takes where machines are reached. Names compare in small letters.
func (a *Address) readMachines(query url.Values) error {
	put := func(m *map[string]string, what, name, addr string) error {
		if !isHostPort(addr) {
			return fmt.Errorf("%s: %w: it is not of the form HOST[:PORT]", what, fs.ErrInvalid)
		}
		if *m == nil {
			*m = map[string]string{}
		}
		name = strings.ToLower(name)
		if _, twice := (*m)[name]; twice {
			return fmt.Errorf("%s: %w: it is given twice", what, fs.ErrInvalid)
		}
		(*m)[name] = addr
		return nil
	}
	for name, values := range query {
		var err error
		if node, ok := strings.CutPrefix(name, "node."); ok {
			err = put(&a.Nodes, name, node, values[0])
		} else if node, ok := strings.CutPrefix(name, "smb."); ok {
			err = put(&a.SMB, name, node, values[0])
		} else if name == "smb" {
			err = put(&a.SMB, name, "", values[0])
		} else if name == "kdc" {
			for _, v := range values {
				if !isHostPort(v) {
					err = fmt.Errorf("kdc: %w: it is not of the form HOST[:PORT]", fs.ErrInvalid)
				}
			}
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// readWords takes the parameters that have a few words each.
func (a *Address) readWords(query url.Values) (err error) {
	o := &a.Options
	o.IgnoreDisks = query["ignore"]
	if o.Full, _, err = flag(query, "full"); err != nil {
		return err
	}
	var off [2]bool
	for i, name := range []string{"rct", "check"} {
		switch query.Get(name) {
		case "", "on":
		case "off":
			off[i] = true
		default:
			return fmt.Errorf("%s: %w: on or off", name, fs.ErrInvalid)
		}
	}
	o.NoTracking, a.NoCheck = off[0], off[1]
	if word := query.Get("mode"); word != "" {
		if o.Mode, err = ParseMode(word); err != nil {
			return err
		}
	}
	if word := query.Get("procedure"); word != "" {
		if o.Procedure, err = ParseProcedure(word); err != nil {
			return err
		}
	}
	if word := query.Get("quiesce"); word != "" {
		if o.Quiesce, err = ParseQuiesce(word); err != nil {
			return err
		}
	}
	if a.Transport = TransportWSMan; query.Has("transport") {
		if a.Transport = query.Get("transport"); !slices.Contains(transports, a.Transport) {
			return fmt.Errorf("transport: %w: %s", fs.ErrInvalid, strings.Join(transports, ", "))
		}
	}
	if a.Transport == TransportDCOM && (a.TLS || a.Realm != "" || len(a.KDCs) > 0) {
		return fmt.Errorf("transport: %w: dcom has neither TLS nor Kerberos", fs.ErrInvalid)
	}
	return nil
}

// isHostPort: HOST or HOST:PORT, an IPv6 address in brackets where a port follows or in a URL.
func isHostPort(s string) bool {
	host := s
	if strings.Contains(s, ":") && !strings.HasSuffix(s, "]") {
		h, port, err := net.SplitHostPort(s)
		if err != nil || !isPort(port) {
			return false
		}
		host = h
	} else {
		host = strings.TrimSuffix(strings.TrimPrefix(s, "["), "]")
		if strings.HasPrefix(s, "[") != strings.HasSuffix(s, "]") {
			return false
		}
	}
	if strings.Contains(host, ":") {
		return net.ParseIP(host) != nil
	}
	return host != "" && len(host) <= 255 && !strings.ContainsAny(host, `/\@[]%"'*?<>|&; `) && !strings.ContainsFunc(host, isControl)
}

func isPort(s string) bool {
	n := buildOf(s)
	return n > 0 && n < 1<<16 && strings.Trim(s, "0123456789") == ""
}

// Login is who logs on, with a password that comes from elsewhere.
func (a *Address) Login(password string) cim.Login {
	return cim.Login{User: a.User, Password: password, Realm: a.Realm, KDCs: a.KDCs}
}

// SiteOptions are how the address says that its site is reached. It reads the file that CAFile names. With TransportDCOM the caller sets
// Host.Route; until then it refuses, so that nothing goes another way than the address says.
func (a *Address) SiteOptions() (*SiteOptions, error) {
	o := &SiteOptions{Host: Options{CIM: &cim.Options{Plain: !a.TLS, Thumbprints: a.Thumbprint}}, Address: a.machine}
	if a.Transport == TransportDCOM {
		o.Host.Route = noRoute
	}
	for name := range a.SMB {
		if name != "" {
			o.Servers = append(o.Servers, name)
		}
	}
	if a.CAFile == "" {
		return o, nil
	}
	pem, err := readBounded(a.CAFile)
	if err != nil {
		return nil, fmt.Errorf("ca: %w", err)
	}
	o.Host.CIM.RootCAs = x509.NewCertPool()
	if !o.Host.CIM.RootCAs.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("ca %s: %w: there is no certificate in it", a.CAFile, fs.ErrInvalid)
	}
	return o, nil
}

func noRoute(context.Context, string, cim.Login) (cim.Caller, error) {
	return nil, fmt.Errorf("transport dcom: %w: it is not built in", errors.ErrUnsupported)
}

func readBounded(name string) ([]byte, error) {
	f, err := os.Stat(name)
	if err != nil {
		return nil, err
	}
	if !f.Mode().IsRegular() || f.Size() > maxCAFile {
		return nil, fmt.Errorf("%s: %w: it is no file of at most %d bytes", name, fs.ErrInvalid, maxCAFile)
	}
	return os.ReadFile(name)
}

// machine is where a machine is reached, empty where the address does not say.
func (a *Address) machine(node, protocol string) string {
	low := strings.ToLower(node)
	short, _, _ := strings.Cut(low, ".")
	m := a.Nodes
	if protocol == ProtocolSMB {
		m = a.SMB
	}
	for _, name := range []string{low, short, ""} {
		if addr := m[name]; addr != "" {
			return addr
		}
	}
	return ""
}
