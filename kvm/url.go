package kvm

import (
	"fmt"
	"io/fs"
	"net/url"
	"path/filepath"
	"slices"
	"strings"
)

// ParseURL reads the address of a machine:
//
//	kvm:///run/vm/qmp.sock?agent=/run/vm/qga.sock&name=web1&scratch=/var/tmp
//
// The path is that of the monitor's socket. All parameters may be left out. Errors wrap fs.ErrInvalid.
func ParseURL(address string) (Machine, *Options, error) {
	u, err := url.Parse(address)
	if err != nil {
		return Machine{}, nil, fmt.Errorf("%w: %v", fs.ErrInvalid, err)
	}
	bad := func(format string, args ...any) (Machine, *Options, error) {
		return Machine{}, nil, fmt.Errorf("%s: %w: %s", address, fs.ErrInvalid, fmt.Sprintf(format, args...))
	}
	if u.Scheme != "kvm" || u.Host != "" || u.User != nil || u.Fragment != "" {
		return bad("it is not of the form kvm:///PATH")
	}
	query, err := url.ParseQuery(u.RawQuery)
	if err != nil {
		return bad("%v", err)
	}
	for name, values := range query {
		if !slices.Contains([]string{"agent", "name", "scratch"}, name) || len(values) != 1 || values[0] == "" {
			return bad("parameter %q is unknown, empty or given twice", name)
		}
	}
	m := Machine{QMP: u.Path, Agent: query.Get("agent"), Name: query.Get("name")}
	for _, path := range []string{m.QMP, m.Agent, query.Get("scratch")} {
		if path != "" && (!filepath.IsAbs(path) || strings.ContainsRune(path, 0)) {
			return bad("%q is no absolute path", path)
		}
	}
	if filepath.Clean(m.QMP) == "/" || m.QMP == "" {
		return bad("the path of the monitor's socket is missing")
	}
	return m, &Options{Scratch: query.Get("scratch")}, nil
}
