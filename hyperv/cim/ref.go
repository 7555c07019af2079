package cim

import (
	"fmt"
	"strings"
)

// Ref names an instance, or with no keys a class or the only instance of one.
type Ref struct {
	Namespace string // root/virtualization/v2
	Class     string
	Keys      []Key
}

// Key is one of an instance's.
type Key struct {
	Name  string
	Value string
	Ref   *Ref // in place of Value, where the key is a reference
}

const (
	maxKeys = 32
	maxPath = 16 << 10 // bytes
)

// Key is the text of a key, found whatever the case of its name; empty where there is none.
func (r Ref) Key(name string) string {
	for _, k := range r.Keys {
		if strings.EqualFold(k.Name, name) {
			return k.Value
		}
	}
	return ""
}

// Zero says that it names nothing.
func (r Ref) Zero() bool { return r.Class == "" }

// resource is the URI of the class: [MS-WSMV] 2.2.4.1.
func (r Ref) resource() string { return resourceBase + r.Namespace + "/" + r.Class }

// String is the path within the namespace, as WQL takes it between braces: Class.Key="value",….
func (r Ref) String() string {
	var b strings.Builder
	b.WriteString(r.Class)
	for i, k := range r.Keys {
		if i == 0 {
			b.WriteByte('.')
		} else {
			b.WriteByte(',')
		}
		v := k.Value
		if k.Ref != nil {
			v = k.Ref.Path("")
		}
		b.WriteString(k.Name + `="` + escapePath.Replace(v) + `"`)
	}
	return b.String()
}

var escapePath = strings.NewReplacer(`\`, `\\`, `"`, `\"`)

// Path is the whole path, as settings of Hyper-V hold it: \\HOST\root\virtualization\v2:Class.Key="value". With no host
// it begins with the namespace.
func (r Ref) Path(host string) string {
	p := strings.ReplaceAll(r.Namespace, "/", `\`) + ":" + r.String()
	if host != "" {
		return `\\` + host + `\` + p
	}
	return p
}

// Same says whether two references name the same instance: case counts in no name, and in values neither, as with WMI.
func (r Ref) Same(other Ref) bool {
	if !strings.EqualFold(r.Class, other.Class) || !strings.EqualFold(r.Namespace, other.Namespace) || len(r.Keys) != len(other.Keys) {
		return false
	}
	for _, k := range r.Keys {
		if !strings.EqualFold(k.Value, other.Key(k.Name)) {
			return false
		}
	}
	return true
}

// ParsePath reads a path with or without host and namespace. A path without a namespace has an empty one.
func ParsePath(s string) (Ref, error) {
	bad := func(why string) (Ref, error) {
		return Ref{}, fmt.Errorf("%w: path %.200q: %s", ErrMalformed, s, why)
	}
	if len(s) > maxPath {
		return bad("too long")
	}
	rest, r := s, Ref{}
	if strings.HasPrefix(s, `\\`) {
		_, after, ok := strings.Cut(s[2:], `\`)
		if !ok {
			return bad("a host and nothing else")
		}
		rest = after
	}
	// A colon in front of all keys ends the namespace; one behind is a value's.
	if i := strings.IndexByte(rest, ':'); i >= 0 && !strings.ContainsAny(rest[:i], `.="`) {
		r.Namespace, rest = strings.ReplaceAll(rest[:i], `\`, "/"), rest[i+1:]
	}
	class, keys, found := strings.Cut(rest, ".")
	class = strings.TrimSuffix(class, "=@")
	if r.Class = class; !isName(class) || !isNamespace(r.Namespace) {
		return bad("no class")
	}
	for found && keys != "" {
		k, after, why := parseKey(keys)
		if why != "" || len(r.Keys) >= maxKeys {
			return bad(why)
		}
		r.Keys, keys = append(r.Keys, k), after
	}
	if found && len(r.Keys) == 0 {
		return bad("no key")
	}
	return r, nil
}

// parseKey reads name="value" or name=1, and what follows the comma.
func parseKey(s string) (k Key, rest, why string) {
	name, s, ok := strings.Cut(s, "=")
	if !ok || !isName(name) {
		return k, "", "no name of a key"
	}
	k.Name = name
	if !strings.HasPrefix(s, `"`) {
		k.Value, rest, ok = strings.Cut(s, ",")
		if k.Value == "" || strings.ContainsAny(k.Value, `"\`) || ok && rest == "" {
			return k, "", "no value of a key"
		}
		return k, rest, ""
	}
	var b strings.Builder
	for i := 1; i < len(s); i++ {
		switch {
		case s[i] == '\\' && i+1 < len(s):
			i++
			b.WriteByte(s[i])
		case s[i] == '"':
			k.Value, rest = b.String(), s[i+1:]
			if rest == "" {
				return k, "", ""
			}
			if rest[0] != ',' || len(rest) == 1 {
				return k, "", "something behind a value"
			}
			return k, rest[1:], ""
		default:
			b.WriteByte(s[i])
		}
	}
	return k, "", "a value without an end"
}

func isNamespace(s string) bool {
	if s == "" {
		return true
	}
	for part := range strings.SplitSeq(s, "/") {
		if !isName("n" + part) {
			return false
		}
	}
	return len(s) <= 256
}

// readReference reads an endpoint reference: DSP0226 5.1.2.
func readReference(n *node) (Ref, error) { return readReferenceIn(n, 0) }

func readReferenceIn(n *node, depth int) (Ref, error) {
	p := n.child(nsAddr, "ReferenceParameters")
	if p == nil {
		p = n.child(nsAddr05, "ReferenceParameters")
	}
	uri := p.child(nsMan, "ResourceURI").words()
	if depth > 4 || len(uri) > 2048 {
		return Ref{}, fmt.Errorf("%w: a reference", ErrMalformed)
	}
	r := Ref{}
	if len(uri) > len(resourceBase) && strings.EqualFold(uri[:len(resourceBase)], resourceBase) {
		r.Namespace = uri[len(resourceBase):]
		i := strings.LastIndexByte(r.Namespace, '/')
		r.Namespace, r.Class = r.Namespace[:max(i, 0)], r.Namespace[i+1:]
	} else {
		r.Class = uri[strings.LastIndexByte(uri, '/')+1:]
	}
	set := p.child(nsMan, "SelectorSet")
	if set != nil && len(set.kids) > maxKeys {
		return Ref{}, fmt.Errorf("%w: a reference of %d selectors", ErrMalformed, len(set.kids))
	}
	for i := 0; set != nil && i < len(set.kids); i++ {
		k, err := readSelector(set.kids[i], depth)
		if err != nil {
			return Ref{}, err
		}
		if k.Name == "__cimnamespace" {
			r.Namespace = k.Value
			continue
		}
		r.Keys = append(r.Keys, k)
	}
	if !isName(r.Class) || !isNamespace(r.Namespace) {
		return Ref{}, fmt.Errorf("%w: a reference to %.200q", ErrMalformed, uri)
	}
	return r, nil
}

func readSelector(n *node, depth int) (Key, error) {
	k := Key{Name: n.attr("", "Name"), Value: n.text}
	if !n.is(nsMan, "Selector") || k.Name != "__cimnamespace" && !isName(k.Name) || len(k.Value) > maxPath {
		return k, fmt.Errorf("%w: selector %.100q", ErrMalformed, k.Name)
	}
	inner := n.child(nsAddr, "EndpointReference")
	if inner == nil {
		inner = n.child(nsAddr05, "EndpointReference")
	}
	if inner == nil {
		return k, nil
	}
	r, err := readReferenceIn(inner, depth+1)
	k.Value, k.Ref = "", &r
	return k, err
}
