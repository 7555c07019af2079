package vmware

import (
	"fmt"
	"io/fs"
	"net/url"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

const (
	maxAddress = 64 << 10 // bytes of an address
	maxValue   = 1024     // bytes of one parameter: names in vSphere have at most 80 characters
)

// Address is what an address of ours says: which server, which of its VMs, and how.
type Address struct {
	Server  *url.URL // https://HOST[:PORT]/sdk
	User    string   // empty: a token or a session logs in
	Select  Selection
	Connect ConnectOptions
	Options Options
}

// repeatable are the parameters that may be given more than once.
var repeatable = []string{"vm", "match", "tag", "folder", "pool", "transport", "mount"}

// parameters are those that an address may have.
var parameters = append([]string{"datacenter", "thumbprint", "ca", "quiesce", "tracking", "proxy", "vddk", "scratch"}, repeatable...)

// ParseURL reads the address of virtual machines of a server:
//
//	vsphere://USER@HOST[:PORT]/?vm=web1&vm=vm-42&thumbprint=AB:CD:…
//
// All parameters may be left out. The password is not part of an address.
//
//	vm          a name or a reference, repeatable: see [Selection], as for those up to datacenter
//	match       a pattern of names, repeatable
//	tag         NAME or CATEGORY:NAME, repeatable
//	folder      a folder, repeatable
//	pool        a resource pool or vApp, repeatable
//	datacenter  a datacenter
//	thumbprint  the server's certificate, by SHA-256 or SHA-1
//	ca          a file with certificates that are trusted
//	transport   names in the order in which they are tried, separated by commas or repeated; "!" in front leaves one out
//	quiesce     try, require or off
//	tracking    enable, keep (as it is found) or reset (anew with each full backup)
//	mount       DATASTORE=FOLDER: where a datastore is mounted on this machine, repeatable
//	proxy       the VM that this program runs in, by name or reference: see [HotAddOptions]
//	vddk        the folder of the user's own VDDK
//	scratch     a folder of this machine for what a transport must keep
//
// Errors wrap fs.ErrInvalid, and show neither a password nor a parameter's value that was not understood as one.
func ParseURL(address string) (*Address, error) {
	u, query, err := splitURL(address)
	if err != nil {
		return nil, err
	}
	a := &Address{
		Server: &url.URL{Scheme: "https", Host: u.Host, Path: "/sdk"},
		User:   u.User.Username(),
		Select: Selection{VMs: query["vm"], Patterns: query["match"], Tags: query["tag"], Folders: query["folder"],
			Pools: query["pool"], Datacenter: query.Get("datacenter")},
		Connect: ConnectOptions{CAFile: query.Get("ca"), Thumbprint: query.Get("thumbprint")},
		Options: Options{Scratch: query.Get("scratch")},
	}
	for _, check := range []func() error{
		a.Select.check,
		func() error { return checkThumbprint(a.Connect.Thumbprint) },
		func() error { return a.Options.parse(query) },
	} {
		if err := check(); err != nil {
			return nil, fmt.Errorf("%s: %w", shown(u), err)
		}
	}
	return a, nil
}

// splitURL takes an address apart.
func splitURL(address string) (*url.URL, url.Values, error) {
	if len(address) > maxAddress {
		return nil, nil, fmt.Errorf("an address of %d bytes: %w: at most %d", len(address), fs.ErrInvalid, maxAddress)
	}
	u, err := url.Parse(address)
	if err != nil {
		// The library's error repeats the address, and what stands in the place of a port may be part of a password.
		return nil, nil, fmt.Errorf("%w: the address is not of the form vsphere://USER@HOST[:PORT]/?…", fs.ErrInvalid)
	}
	bad := func(format string, args ...any) error {
		return fmt.Errorf("%s: %w: %s", shown(u), fs.ErrInvalid, fmt.Sprintf(format, args...))
	}
	if _, has := u.User.Password(); has {
		return nil, nil, bad("a password does not belong here, where others see it: set HIKAE_SOURCE_PASSWORD")
	}
	switch {
	case u.Scheme != "vsphere" || u.Opaque != "" || u.Fragment != "" || u.Hostname() == "":
		return nil, nil, bad("it is not of the form vsphere://USER@HOST[:PORT]/?…")
	case u.Path != "" && u.Path != "/":
		return nil, nil, bad("it has a path: VMs are named by parameters")
	case strings.HasSuffix(u.Host, ":") || !isPort(u.Port()):
		return nil, nil, bad("its port is no number from 1 to 65535")
	}
	query, err := url.ParseQuery(u.RawQuery)
	if err != nil {
		return nil, nil, bad("its parameters are not encoded as they have to be")
	}
	return u, query, checkQuery(query, bad)
}

func isPort(port string) bool {
	n, err := strconv.ParseUint(port, 10, 16)
	return port == "" || err == nil && n > 0
}

func checkQuery(query url.Values, bad func(format string, args ...any) error) error {
	for name, values := range query {
		switch {
		case !slices.Contains(parameters, name):
			if len(name) > 40 {
				name = name[:40] + "…"
			}
			return bad("parameter %q is unknown: there are %s", name, strings.Join(parameters, ", "))
		case len(values) > 1 && !slices.Contains(repeatable, name):
			return bad("parameter %q is given twice", name)
		case slices.ContainsFunc(values, func(v string) bool {
			return v == "" || len(v) > maxValue || strings.ContainsFunc(v, func(r rune) bool { return r < ' ' || r == 0x7f || r == '\uFFFD' })
		}):
			return bad("parameter %q is empty, longer than %d bytes, or holds control characters", name, maxValue)
		}
	}
	return nil
}

// shown is an address without what nobody should see.
func shown(u *url.URL) string {
	return (&url.URL{Scheme: u.Scheme, User: url.User(u.User.Username()), Host: u.Host, Path: "/"}).String()
}

func checkThumbprint(text string) error {
	if text == "" {
		return nil
	}
	_, err := parseThumbprint(text)
	return err
}

// parse takes over what parameters say of how to read.
func (o *Options) parse(query url.Values) (err error) {
	if word := query.Get("quiesce"); word != "" {
		if o.Quiesce, err = ParseQuiesce(word); err != nil {
			return err
		}
	}
	switch word := query.Get("tracking"); word {
	case "", "enable":
	case "keep":
		o.KeepTracking = true
	case "reset":
		o.ResetTrackingOnFull = true
	default:
		return fmt.Errorf("tracking %q: %w: enable, keep or reset", word, fs.ErrInvalid)
	}
	if o.Transports, err = parseTransports(query); err != nil {
		return err
	}
	_, err = newChooser(o.Transports)
	return err
}

func parseTransports(query url.Values) (*TransportOptions, error) {
	t := &TransportOptions{}
	for _, list := range query["transport"] {
		t.Order = append(t.Order, strings.Split(list, ",")...)
	}
	for _, text := range query["mount"] {
		name, folder, ok := strings.Cut(text, "=")
		if !ok || name == "" || !filepath.IsAbs(folder) {
			return nil, fmt.Errorf("mount: %w: it is not of the form DATASTORE=/FOLDER", fs.ErrInvalid)
		}
		if _, twice := t.Mounts[name]; twice {
			return nil, fmt.Errorf("mount: %w: datastore %q is named twice", fs.ErrInvalid, name)
		}
		if t.Mounts == nil {
			t.Mounts = map[string]string{}
		}
		t.Mounts[name] = folder
	}
	if name := query.Get("proxy"); name != "" {
		t.HotAdd = &HotAddOptions{Proxy: name}
	}
	if folder := query.Get("vddk"); folder != "" {
		if !filepath.IsAbs(folder) {
			return nil, fmt.Errorf("vddk: %w: it is no absolute path", fs.ErrInvalid)
		}
		t.VDDK = &VDDKOptions{Libdir: folder}
	}
	if scratch := query.Get("scratch"); scratch != "" && !filepath.IsAbs(scratch) {
		return nil, fmt.Errorf("scratch: %w: it is no absolute path", fs.ErrInvalid)
	}
	return t, nil
}
