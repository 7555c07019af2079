package cim

import (
	"fmt"
	"strings"
)

// Instance is an object of a class, as the wire gave it or as it is to be sent.
type Instance struct {
	Class      string
	Ref        Ref // how it is called; zero where that is not known
	Properties []Property
}

// Property is one value with its name: of an instance, or an argument of a method.
//
// What was read has a Value of nil, string, Ref, *Instance, or []any of these. What is sent has one of the Go types that the
// package comment lists. Type is CIM's name of a scalar ("uint16"); where it is empty the Go type tells.
type Property struct {
	Name  string
	Type  string
	Value any
}

// maxProperties bounds those of one instance.
const maxProperties = 4096

// Value is a property's, found as CIM does, whatever the case of its name.
func (in *Instance) Value(name string) (v any, ok bool) {
	for _, p := range in.Properties {
		if strings.EqualFold(p.Name, name) {
			return p.Value, true
		}
	}
	return nil, false
}

// Text is a property's text, and empty where it has none or is not there: for what is shown to people.
func (in *Instance) Text(name string) string {
	v, _ := in.Value(name)
	s, _ := v.(string)
	return s
}

// Set replaces a property or adds it.
func (in *Instance) Set(name string, value any) {
	for i, p := range in.Properties {
		if strings.EqualFold(p.Name, name) {
			in.Properties[i].Value = value
			return
		}
	}
	in.Properties = append(in.Properties, Property{Name: name, Value: value})
}

// Keyed makes the reference of an instance by naming its key properties.
func (in *Instance) Keyed(namespace string, names ...string) (Ref, error) {
	r := Ref{Namespace: namespace, Class: in.Class}
	for _, name := range names {
		v, _ := in.Value(name)
		switch v := v.(type) {
		case string:
			r.Keys = append(r.Keys, Key{Name: name, Value: v})
		case Ref:
			r.Keys = append(r.Keys, Key{Name: name, Ref: &v})
		default:
			return Ref{}, fmt.Errorf("%w: %s has no key %s", ErrMalformed, in.Class, name)
		}
	}
	return r, nil
}

// instanceIn reads the only element of a body.
func instanceIn(body *node) (*Instance, error) {
	if len(body.kids) != 1 {
		return nil, fmt.Errorf("%w: %d elements in place of an instance", ErrMalformed, len(body.kids))
	}
	return readInstance(body.kids[0])
}

// readInstance reads an element whose children are properties: DSP0230 7.2.3. What is repeated is an array.
func readInstance(n *node) (*Instance, error) {
	in := &Instance{Class: n.name}
	if t := n.attr(nsXSI, "type"); t != "" { // the real class: the element may be named after what was asked for
		in.Class = strings.TrimSuffix(t[strings.LastIndexByte(t, ':')+1:], "_Type")
	}
	if !isName(in.Class) {
		return nil, fmt.Errorf("%w: class %.100q", ErrMalformed, in.Class)
	}
	at := map[string]int{}
	for _, k := range n.kids {
		v, err := readValue(k)
		if err != nil {
			return nil, fmt.Errorf("%s.%s: %w", in.Class, k.name, err)
		}
		i, again := at[k.name]
		if !again {
			if len(in.Properties) >= maxProperties || !isName(k.name) {
				return nil, fmt.Errorf("%w: property %.100q of %s", ErrMalformed, k.name, in.Class)
			}
			at[k.name] = len(in.Properties)
			in.Properties = append(in.Properties, Property{Name: k.name, Value: v})
			continue
		}
		p := &in.Properties[i]
		if list, ok := p.Value.([]any); ok {
			p.Value = append(list, v)
		} else {
			p.Value = []any{p.Value, v}
		}
	}
	return in, nil
}

func readValue(n *node) (any, error) {
	switch nul := n.attr(nsXSI, "nil"); {
	case nul == "true" || nul == "1":
		return nil, nil
	case len(n.kids) == 0:
		return n.text, nil
	case n.child(nsAddr, "ReferenceParameters") != nil || n.child(nsAddr05, "ReferenceParameters") != nil:
		return readReference(n)
	case len(n.kids) == 1 && isTime(n.kids[0].name) && len(n.kids[0].kids) == 0:
		return n.kids[0].words(), nil
	}
	return readInstance(n)
}

// isTime: a datetime is wrapped, and its wrapper says of which kind it is. DSP0230 7.2.5.5.
func isTime(name string) bool {
	return name == "Datetime" || name == "Interval" || name == "Date" || name == "Time" || name == "CIM_DateTime"
}
