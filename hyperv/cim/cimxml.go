package cim

import (
	"fmt"
	"strings"
)

// XML is an instance as CIM-XML text, in which Hyper-V's methods take their settings:
//
//	<INSTANCE CLASSNAME="Msvm_VirtualSystemSnapshotSettingData">
//	  <PROPERTY NAME="ConsistencyLevel" TYPE="uint8"><VALUE>1</VALUE></PROPERTY>
//	  <PROPERTY.ARRAY NAME="HostResource" TYPE="string"><VALUE.ARRAY><VALUE>…</VALUE></VALUE.ARRAY></PROPERTY.ARRAY>
//	  <PROPERTY.REFERENCE NAME="Parent" REFERENCECLASS="…"><VALUE.REFERENCE>…</VALUE.REFERENCE></PROPERTY.REFERENCE>
//	</INSTANCE>
//
// Source: DSP0201, of which WMI's DTD 2.0 takes these elements.
func (in *Instance) XML() (string, error) {
	var b strings.Builder
	if err := in.writeXML(&b, 0); err != nil {
		return "", err
	}
	return b.String(), nil
}

const maxEmbedded = 4 // instances within instances

func (in *Instance) writeXML(b *strings.Builder, depth int) error {
	if !isName(in.Class) || depth > maxEmbedded {
		return fmt.Errorf("%w: class %.100q", ErrArgument, in.Class)
	}
	fmt.Fprintf(b, `<INSTANCE CLASSNAME="%s">`, in.Class)
	for _, p := range in.Properties {
		if err := p.writeXML(b, depth); err != nil {
			return fmt.Errorf("%s.%s: %w", in.Class, p.Name, err)
		}
	}
	b.WriteString(`</INSTANCE>`)
	return nil
}

func (p *Property) writeXML(b *strings.Builder, depth int) error {
	if !isName(p.Name) || p.Type != "" && !isName(p.Type) {
		return fmt.Errorf("%w: %.100q is no name", ErrArgument, p.Name)
	}
	list, array := items(p.Value)
	if ref, ok := p.Value.(Ref); ok {
		fmt.Fprintf(b, `<PROPERTY.REFERENCE NAME="%s" REFERENCECLASS="%s"><VALUE.REFERENCE>`, p.Name, escape(ref.Class))
		writePathXML(b, ref)
		b.WriteString(`</VALUE.REFERENCE></PROPERTY.REFERENCE>`)
		return nil
	}
	if !array {
		list = []any{p.Value}
	}
	kind, values, embedded := p.Type, strings.Builder{}, ""
	for _, v := range list {
		text, k, err := textXML(v, depth)
		if err != nil {
			return err
		}
		if k == "" { // null
			if array {
				values.WriteString(`<VALUE.NULL/>`)
			}
			continue
		}
		if _, ok := v.(*Instance); ok {
			embedded = ` EmbeddedObject="instance"`
		}
		if p.Type == "" {
			if kind != "" && kind != k {
				return fmt.Errorf("%w: an array of %s and %s", ErrArgument, kind, k)
			}
			kind = k
		}
		values.WriteString(`<VALUE>` + escape(text) + `</VALUE>`)
	}
	if kind == "" {
		kind = "string"
	}
	if array {
		fmt.Fprintf(b, `<PROPERTY.ARRAY NAME="%s" TYPE="%s"%s><VALUE.ARRAY>%s</VALUE.ARRAY></PROPERTY.ARRAY>`, p.Name, kind, embedded, values.String())
	} else {
		fmt.Fprintf(b, `<PROPERTY NAME="%s" TYPE="%s"%s>%s</PROPERTY>`, p.Name, kind, embedded, values.String())
	}
	return nil
}

func textXML(v any, depth int) (text, kind string, err error) {
	switch v := v.(type) {
	case nil:
		return "", "", nil
	case *Instance:
		var b strings.Builder
		err := v.writeXML(&b, depth+1)
		return b.String(), "string", err
	case Ref:
		return v.Path(""), "string", nil
	case bool:
		if v {
			return "TRUE", "boolean", nil
		}
		return "FALSE", "boolean", nil
	}
	return scalar(v)
}

// writePathXML is a reference in parts: DSP0201 5.2.2.
func writePathXML(b *strings.Builder, r Ref) {
	b.WriteString(`<INSTANCEPATH><NAMESPACEPATH><HOST>.</HOST><LOCALNAMESPACEPATH>`)
	for part := range strings.SplitSeq(r.Namespace, "/") {
		fmt.Fprintf(b, `<NAMESPACE NAME="%s"/>`, escape(part))
	}
	fmt.Fprintf(b, `</LOCALNAMESPACEPATH></NAMESPACEPATH><INSTANCENAME CLASSNAME="%s">`, escape(r.Class))
	for _, k := range r.Keys {
		fmt.Fprintf(b, `<KEYBINDING NAME="%s"><KEYVALUE VALUETYPE="string">%s</KEYVALUE></KEYBINDING>`, escape(k.Name), escape(k.Value))
	}
	b.WriteString(`</INSTANCENAME></INSTANCEPATH>`)
}

// ParseXML reads what [Instance.XML] writes, and what WMI writes: qualifiers and origins are passed over. Values are text,
// with the type that stands beside them.
func ParseXML(b []byte) (*Instance, error) {
	root, err := parse(b)
	if err != nil {
		return nil, err
	}
	if root.name != "INSTANCE" {
		return nil, fmt.Errorf("%w: a %.100q where an INSTANCE is expected", ErrMalformed, root.name)
	}
	in := &Instance{Class: root.attr("", "CLASSNAME")}
	if !isName(in.Class) || len(root.kids) > maxProperties {
		return nil, fmt.Errorf("%w: class %.100q of %d properties", ErrMalformed, in.Class, len(root.kids))
	}
	for _, n := range root.kids {
		if n.name == "QUALIFIER" {
			continue
		}
		p, err := parseProperty(n)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", in.Class, err)
		}
		in.Properties = append(in.Properties, p)
	}
	return in, nil
}

func parseProperty(n *node) (Property, error) {
	p := Property{Name: n.attr("", "NAME"), Type: n.attr("", "TYPE")}
	bad := fmt.Errorf("%w: %.100s %.100q", ErrMalformed, n.name, p.Name)
	// A few of WMI's own begin with two underscores, which a name may.
	if !isName(p.Name) || p.Type != "" && !isName(p.Type) {
		return p, bad
	}
	switch n.name {
	case "PROPERTY":
		if v := n.child("", "VALUE"); v != nil {
			p.Value = v.text
		}
	case "PROPERTY.ARRAY":
		list := []any{}
		if a := n.child("", "VALUE.ARRAY"); a != nil {
			for _, k := range a.kids {
				switch k.name {
				case "VALUE":
					list = append(list, k.text)
				case "VALUE.NULL":
					list = append(list, nil)
				default:
					return p, bad
				}
			}
			p.Value = list
		}
	case "PROPERTY.REFERENCE":
		p.Type = ""
		if v := n.child("", "VALUE.REFERENCE"); v != nil {
			r, err := parsePathXML(v)
			if err != nil {
				return p, err
			}
			p.Value = r
		}
	default:
		return p, bad
	}
	return p, nil
}

func parsePathXML(v *node) (r Ref, err error) {
	name := v.find("", "INSTANCENAME")
	if name == nil {
		return ParsePath(v.words())
	}
	if space := v.find("", "LOCALNAMESPACEPATH"); space != nil {
		var parts []string
		for _, k := range space.kids {
			parts = append(parts, k.attr("", "NAME"))
		}
		r.Namespace = strings.Join(parts, "/")
	}
	r.Class = name.attr("", "CLASSNAME")
	if !isName(r.Class) || !isNamespace(r.Namespace) || len(name.kids) > maxKeys {
		return r, fmt.Errorf("%w: a reference to %.100q", ErrMalformed, r.Class)
	}
	for _, k := range name.kids {
		key := Key{Name: k.attr("", "NAME"), Value: k.child("", "KEYVALUE").textOf()}
		if !isName(key.Name) {
			return r, fmt.Errorf("%w: key %.100q", ErrMalformed, key.Name)
		}
		r.Keys = append(r.Keys, key)
	}
	return r, nil
}

func (n *node) textOf() string {
	if n == nil {
		return ""
	}
	return n.text
}
