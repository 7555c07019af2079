package layout

import (
	"errors"
	"fmt"
	"strconv"
)

// Bounds of the texts in which volume groups describe themselves. A logical volume takes some twenty nodes.
const (
	maxDepth = 16
	maxNodes = 1 << 18 // of all groups of a machine
)

// node is a section of the text, or a value in it: a string, a number or a list of them.
type node struct {
	text   string
	number int64
	isText bool
	list   []*node
	keys   []string         // of a section, in order
	fields map[string]*node // nil for a value
}

func (n *node) section(key string) *node {
	if n == nil || n.fields[key] == nil || n.fields[key].fields == nil {
		return nil
	}
	return n.fields[key]
}

// str is a string's content; empty where there is none.
func (n *node) str(key string) string {
	if n == nil || n.fields[key] == nil {
		return ""
	}
	return n.fields[key].text
}

// int is a number, and false where there is none.
func (n *node) int(key string) (int64, bool) {
	if n == nil || n.fields[key] == nil || n.fields[key].isText || n.fields[key].fields != nil || n.fields[key].list != nil {
		return 0, false
	}
	return n.fields[key].number, true
}

// has reports whether a list of strings holds one.
func (n *node) has(key, text string) bool {
	if n == nil || n.fields[key] == nil {
		return false
	}
	for _, x := range n.fields[key].list {
		if x.isText && x.text == text {
			return true
		}
	}
	return false
}

var errText = errors.New("its metadata text is damaged")

// parseText reads the text. It is a list of "name { … }" and "name = value", where a value is a number, a string in
// quotes, or a list of them in brackets; "#" begins a comment. nodes counts what has been read of this and other texts.
func parseText(text []byte, nodes *int) (*node, error) {
	p := &parser{text: text, nodes: nodes}
	root, err := p.fields(0, false)
	if err != nil {
		return nil, fmt.Errorf("%w at byte %d: %s", errText, p.pos, err)
	}
	return root, nil
}

type parser struct {
	text  []byte
	pos   int
	nodes *int
}

var (
	errTooDeep = errors.New("too deep or too long")
	errToken   = errors.New("another thing was expected")
)

func (p *parser) node() (*node, error) {
	if *p.nodes++; *p.nodes > maxNodes {
		return nil, errTooDeep
	}
	return &node{}, nil
}

// skip passes blanks and comments.
func (p *parser) skip() {
	for p.pos < len(p.text) {
		switch c := p.text[p.pos]; {
		case c == '#':
			for p.pos < len(p.text) && p.text[p.pos] != '\n' {
				p.pos++
			}
		case c == ' ' || c == '\t' || c == '\n' || c == '\r' || c == 0:
			p.pos++
		default:
			return
		}
	}
}

func (p *parser) peek() byte {
	p.skip()
	if p.pos < len(p.text) {
		return p.text[p.pos]
	}
	return 0
}

func (p *parser) expect(c byte) error {
	if p.peek() != c {
		return errToken
	}
	p.pos++
	return nil
}

func wordByte(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '_' || c == '-' || c == '+' || c == '.' || c == '/'
}

func (p *parser) word() string {
	p.skip()
	from := p.pos
	for p.pos < len(p.text) && wordByte(p.text[p.pos]) {
		p.pos++
	}
	return string(p.text[from:p.pos])
}

// fields reads the inside of a section.
func (p *parser) fields(depth int, inner bool) (*node, error) {
	n, err := p.node()
	if err != nil || depth > maxDepth {
		return nil, errTooDeep
	}
	n.fields = map[string]*node{}
	for {
		switch c := p.peek(); {
		case c == 0 && !inner:
			return n, nil
		case c == '}' && inner:
			p.pos++
			return n, nil
		}
		key := p.word()
		if key == "" {
			return nil, errToken
		}
		if n.fields[key] != nil {
			return nil, fmt.Errorf("%s is there twice", key)
		}
		var child *node
		switch p.peek() {
		case '{':
			p.pos++
			child, err = p.fields(depth+1, true)
		case '=':
			p.pos++
			child, err = p.value(true)
		default:
			err = errToken
		}
		if err != nil {
			return nil, err
		}
		n.keys, n.fields[key] = append(n.keys, key), child
	}
}

func (p *parser) value(lists bool) (*node, error) {
	n, err := p.node()
	if err != nil {
		return nil, err
	}
	switch c := p.peek(); {
	case c == '"':
		n.isText = true
		n.text, err = p.quoted()
	case c == '[' && lists:
		p.pos++
		n.list, err = p.items()
	default:
		word := p.word()
		if n.number, err = strconv.ParseInt(word, 10, 64); err != nil {
			if _, err = strconv.ParseFloat(word, 64); err == nil {
				n.isText, n.text = true, word
			}
		}
	}
	return n, err
}

func (p *parser) items() ([]*node, error) {
	list := []*node{}
	for p.peek() != ']' {
		if len(list) > 0 {
			if err := p.expect(','); err != nil {
				return nil, err
			}
		}
		n, err := p.value(false)
		if err != nil {
			return nil, err
		}
		list = append(list, n)
	}
	p.pos++
	return list, nil
}

// quoted reads a string; a backslash takes the next byte as it is.
func (p *parser) quoted() (string, error) {
	var out []byte
	for p.pos++; p.pos < len(p.text); p.pos++ {
		switch c := p.text[p.pos]; {
		case c == '"':
			p.pos++
			return string(out), nil
		case c == '\\' && p.pos+1 < len(p.text):
			p.pos++
			out = append(out, p.text[p.pos])
		default:
			out = append(out, c)
		}
	}
	return "", errors.New("a string does not end")
}
