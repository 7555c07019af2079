package cim

import (
	"bytes"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"strings"
)

// ErrMalformed says that an answer, or what is in it, is none of the protocol's.
var ErrMalformed = errors.New("malformed answer of CIM")

// Bounds of a document.
const (
	maxDepth = 40
	maxNodes = 100_000
	maxBytes = 4 << 20
)

// node is an element.
type node struct {
	space, name string
	attrs       []xml.Attr
	text        string // its own, of all places between its children
	kids        []*node
}

// parse reads a document within bounds. Directives, which can hold entities, are refused.
func parse(b []byte) (*node, error) {
	if len(b) > maxBytes {
		return nil, fmt.Errorf("%w: %d bytes", ErrMalformed, len(b))
	}
	d := xml.NewDecoder(bytes.NewReader(b))
	root, count := &node{}, 0
	open := []*node{root}
	texts := []*strings.Builder{{}}
	for {
		t, err := d.Token()
		if err == io.EOF && len(open) == 1 && len(root.kids) == 1 {
			return root.kids[0], nil
		}
		if err != nil {
			return nil, fmt.Errorf("%w at byte %d: %v", ErrMalformed, d.InputOffset(), err)
		}
		switch t := t.(type) {
		case xml.StartElement:
			if count++; count > maxNodes || len(open) > maxDepth || len(open) == 1 && len(root.kids) > 0 {
				return nil, fmt.Errorf("%w at byte %d: too many elements, or too deep", ErrMalformed, d.InputOffset())
			}
			n := &node{space: t.Name.Space, name: t.Name.Local, attrs: t.Copy().Attr}
			top := open[len(open)-1]
			top.kids = append(top.kids, n)
			open, texts = append(open, n), append(texts, &strings.Builder{})
		case xml.CharData:
			texts[len(texts)-1].Write(t)
		case xml.EndElement:
			last := len(open) - 1
			open[last].text = texts[last].String()
			open, texts = open[:last], texts[:last]
		case xml.Directive:
			return nil, fmt.Errorf("%w at byte %d: a directive", ErrMalformed, d.InputOffset())
		}
	}
}

func (n *node) is(space, name string) bool { return n != nil && n.space == space && n.name == name }

// child is the first of a name, or nil. A nil node has none.
func (n *node) child(space, name string) *node {
	if n == nil {
		return nil
	}
	for _, k := range n.kids {
		if k.is(space, name) {
			return k
		}
	}
	return nil
}

// find is the first below of a name, at any depth.
func (n *node) find(space, name string) *node {
	if n == nil {
		return nil
	}
	for _, k := range n.kids {
		if k.is(space, name) {
			return k
		}
		if f := k.find(space, name); f != nil {
			return f
		}
	}
	return nil
}

func (n *node) words() string {
	if n == nil {
		return ""
	}
	return strings.TrimSpace(n.text)
}

func (n *node) attr(space, name string) string {
	if n == nil {
		return ""
	}
	for _, a := range n.attrs {
		if a.Name.Local == name && a.Name.Space == space {
			return a.Value
		}
	}
	return ""
}

// readAnswer checks an envelope, and that it answers our message; it returns the body, or a *Fault.
func readAnswer(b []byte, id string) (*node, error) {
	e, err := parse(b)
	if err != nil {
		return nil, err
	}
	body := e.child(nsSOAP, "Body")
	if !e.is(nsSOAP, "Envelope") || body == nil {
		return nil, fmt.Errorf("%w: no envelope with a body", ErrMalformed)
	}
	if to := e.child(nsSOAP, "Header").child(nsAddr, "RelatesTo"); to != nil && !strings.EqualFold(to.words(), "uuid:"+id) {
		return nil, fmt.Errorf("%w: it answers another message", ErrMalformed)
	}
	if f := body.child(nsSOAP, "Fault"); f != nil {
		return nil, readFault(f)
	}
	return body, nil
}
