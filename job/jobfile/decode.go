package jobfile

import (
	"fmt"
	"reflect"
	"slices"
	"strconv"
	"strings"

	"gopkg.in/yaml.v3"

	"github.com/hikae/hikae/repo/retention"
)

// Bounds of a file. A job of a thousand sources is far below them.
const (
	MaxBytes  = 1 << 20
	maxNodes  = 100_000 // values and names, aliases counted as often as they stand for something
	maxDepth  = 16
	maxString = 4096
)

// decoder turns nodes into values, and remembers where each field stood.
type decoder struct {
	problems []Problem
	nodes    int
	places   map[string]*yaml.Node // by field
}

// fail notes a mistake at a node.
func (d *decoder) fail(n *yaml.Node, field, hint, format string, args ...any) {
	if len(d.problems) == maxProblems {
		return
	}
	p := Problem{Field: field, Message: fmt.Sprintf(format, args...), Hint: hint}
	if n != nil {
		p.Line, p.Column = n.Line, n.Column
	}
	d.problems = append(d.problems, p)
}

// at notes a mistake at a field that was read, or, where it was left out, at the one that it would stand in.
//
// What could not be read has its mistake, and what follows from that is none.
func (d *decoder) at(field, hint, format string, args ...any) {
	for _, p := range d.problems {
		if rest, ok := strings.CutPrefix(p.Field, field); ok && (rest == "" || rest[0] == '.' || rest[0] == '[') {
			return
		}
	}
	for place := field; ; {
		if n := d.places[place]; n != nil || place == "" {
			d.fail(n, field, hint, format, args...)
			return
		}
		i := strings.LastIndexAny(place, ".[")
		place = place[:max(i, 0)]
	}
}

func (d *decoder) value(n *yaml.Node, v reflect.Value, field string, depth int) {
	if d.nodes++; d.nodes > maxNodes || depth > maxDepth {
		if d.nodes != maxNodes+2 { // said once
			d.fail(n, field, "", "the file has more than %d values, or they are nested more than %d deep", maxNodes, maxDepth)
		}
		d.nodes = maxNodes + 1
		return
	}
	for n.Kind == yaml.AliasNode {
		n = n.Alias
	}
	d.places[field] = n
	if strings.HasPrefix(n.Tag, "!") && !strings.HasPrefix(n.Tag, "!!") {
		d.fail(n, field, "", "tags such as %s are not known", shorten(n.Tag))
		return
	}
	switch to := v.Addr().Interface().(type) {
	case *Strings:
		d.strings(n, (*[]string)(to), field, depth)
		return
	case *Keep:
		if n.Kind == yaml.MappingNode {
			d.keep(n, to, field, depth)
			return
		}
	}
	if s, ok := v.Addr().Interface().(scalar); ok {
		if text, ok := d.text(n, field); ok {
			if err := s.parse(text); err != nil {
				d.fail(n, field, "", "%v", err)
			}
		}
		return
	}
	d.kind(n, v, field, depth)
}

func (d *decoder) kind(n *yaml.Node, v reflect.Value, field string, depth int) {
	switch v.Kind() {
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		d.value(n, v.Elem(), field, depth)
	case reflect.Struct:
		d.mapping(n, v, field, depth)
	case reflect.Slice:
		d.list(n, v, field, depth)
	case reflect.Map:
		d.table(n, v, field, depth)
	case reflect.String:
		if text, ok := d.text(n, field); ok {
			v.SetString(text)
		}
	case reflect.Int:
		d.number(n, v, field)
	case reflect.Bool:
		if n.Kind != yaml.ScalarNode || n.Value != "true" && n.Value != "false" {
			d.fail(n, field, "Write true or false.", "%s is neither true nor false", d.shown(n))
			return
		}
		v.SetBool(n.Value == "true")
	default:
		panic(fmt.Sprintf("job files have no fields of kind %s", v.Kind()))
	}
}

// shown is a node in a message.
func (d *decoder) shown(n *yaml.Node) string {
	switch n.Kind {
	case yaml.MappingNode:
		return "a group of fields"
	case yaml.SequenceNode:
		return "a list"
	}
	if n.Tag == "!!null" && n.Value == "" {
		return "nothing"
	}
	return strconv.Quote(shorten(n.Value))
}

// text is the text of a value that is no list and no group.
func (d *decoder) text(n *yaml.Node, field string) (string, bool) {
	switch {
	case n.Kind != yaml.ScalarNode:
		d.fail(n, field, "", "%s stands where one value belongs", d.shown(n))
	case n.Tag == "!!null":
		d.fail(n, field, "Write a value after the colon, or leave the field out.", "has no value")
	case len(n.Value) > maxString:
		d.fail(n, field, "", "is longer than %d bytes", maxString)
	case strings.ContainsFunc(n.Value, func(r rune) bool { return r < ' ' || r == 0x7F }):
		d.fail(n, field, "Write it on one line, in quotes where it has a # or a colon.", "has a control character or more than one line")
	default:
		return n.Value, true
	}
	return "", false
}

func (d *decoder) number(n *yaml.Node, v reflect.Value, field string) {
	text, ok := d.text(n, field)
	if !ok {
		return
	}
	i, err := strconv.Atoi(text)
	if err != nil || i < 0 || i > 1<<30 {
		d.fail(n, field, "", "%q is no number from 0 to %d", shorten(text), 1<<30)
		return
	}
	v.SetInt(int64(i))
}

func (d *decoder) list(n *yaml.Node, v reflect.Value, field string, depth int) {
	if n.Kind != yaml.SequenceNode {
		d.fail(n, field, "Put a dash and a blank in front of each entry.", "%s stands where a list belongs", d.shown(n))
		return
	}
	if len(n.Content) > maxNodes {
		d.fail(n, field, "", "is a list of more than %d", maxNodes)
		return
	}
	v.Set(reflect.MakeSlice(v.Type(), len(n.Content), len(n.Content)))
	for i, one := range n.Content {
		d.value(one, v.Index(i), fmt.Sprintf("%s[%d]", field, i), depth+1)
	}
}

// strings reads a list of texts, or one alone.
func (d *decoder) strings(n *yaml.Node, out *[]string, field string, depth int) {
	if n.Kind == yaml.ScalarNode {
		if text, ok := d.text(n, field); ok {
			*out = []string{text}
		}
		return
	}
	d.list(n, reflect.ValueOf(out).Elem(), field, depth)
}

// table reads names of the user's own.
func (d *decoder) table(n *yaml.Node, v reflect.Value, field string, depth int) {
	v.Set(reflect.MakeMap(v.Type()))
	d.pairs(n, field, func(key, value *yaml.Node) {
		one := reflect.New(v.Type().Elem()).Elem()
		d.value(value, one, field+"."+key.Value, depth+1)
		v.SetMapIndex(reflect.ValueOf(key.Value), one)
	})
}

// pairs goes through a group of fields, and refuses a name that stands there twice.
func (d *decoder) pairs(n *yaml.Node, field string, each func(key, value *yaml.Node)) bool {
	if n.Kind != yaml.MappingNode {
		what := "a group of fields belongs"
		if n.Kind == yaml.SequenceNode {
			what += ", without dashes"
		}
		d.fail(n, field, "", "%s stands where %s", d.shown(n), what)
		return false
	}
	lines := map[string]int{}
	for i := 0; i+1 < len(n.Content); i += 2 {
		key := n.Content[i]
		switch {
		case key.Kind != yaml.ScalarNode || key.Tag == "!!null" || len(key.Value) > maxString:
			d.fail(key, field, "", "a field's name is a word")
		case key.Tag == "!!merge":
			d.fail(key, field, "Write the fields out.", "merging by << is not known")
		case lines[key.Value] > 0:
			d.fail(key, below(field, key.Value), "", "stands there twice, first at line %d", lines[key.Value])
		default:
			lines[key.Value] = key.Line
			each(key, n.Content[i+1])
		}
	}
	return true
}

func below(field, name string) string {
	if field == "" {
		return shorten(name)
	}
	return field + "." + shorten(name)
}

// mapping reads the fields of a struct.
func (d *decoder) mapping(n *yaml.Node, v reflect.Value, field string, depth int) {
	known := fieldsOf(v.Type())
	said := map[string]bool{}
	ok := d.pairs(n, field, func(key, value *yaml.Node) {
		f, ok := known[key.Value]
		if !ok {
			said[d.unknown(key, field, known)] = true // it is not missed besides
			return
		}
		said[key.Value] = true
		d.value(value, v.FieldByIndex(f.index), below(field, key.Value), depth+1)
		d.oneOf(value, v.FieldByIndex(f.index), below(field, key.Value), f.enum)
		if s, ok := v.Addr().Interface().(*Schedule); ok && key.Value == "catch-up" {
			s.caught = true
		}
	})
	for _, name := range sortedNames(known) {
		if ok && known[name].required && !said[name] {
			d.fail(n, below(field, name), "", "is missing")
		}
	}
}

// unknown says what may have been meant, also to the caller; empty: nobody knows.
func (d *decoder) unknown(key *yaml.Node, field string, known map[string]structField) (meant string) {
	names := sortedNames(known)
	switch key.Value {
	case "password", "passphrase", "secret", "token", "key":
		for _, way := range []string{"password-file", "secret-file"} {
			if _, ok := known[way]; ok {
				d.fail(key, below(field, key.Value), "Put it into a file that only this user may read, and name that by "+way+".", "a secret does not stand in a job file")
				return way
			}
		}
	}
	hint := "There are " + strings.Join(names, ", ") + "."
	if meant = suggest(key.Value, names); meant != "" {
		hint = "Did you mean " + meant + "?"
	}
	d.fail(key, below(field, key.Value), hint, "is not known here")
	return meant
}

// oneOf holds values to the words that a field takes.
func (d *decoder) oneOf(n *yaml.Node, v reflect.Value, field string, words []string) {
	if len(words) == 0 || len(d.problems) > 0 && d.problems[len(d.problems)-1].Field == field {
		return
	}
	list, ok := v.Interface().(Strings)
	if !ok {
		list = Strings{v.String()}
	}
	for _, word := range list {
		if slices.Contains(words, word) {
			continue
		}
		hint := "It is " + strings.Join(words[:len(words)-1], ", ") + " or " + words[len(words)-1] + "."
		d.fail(n, field, hint, "%q is none of the words that it can be", shorten(word))
	}
}

// keep reads a policy with a field for each rule.
func (d *decoder) keep(n *yaml.Node, k *Keep, field string, depth int) {
	before := len(d.problems)
	ok := d.pairs(n, field, func(key, value *yaml.Node) {
		names := ruleNames()
		if !slices.Contains(names, key.Value) {
			hint := "There are " + strings.Join(names, ", ") + "."
			if name := suggest(key.Value, names); name != "" {
				hint = "Did you mean " + name + "?"
			}
			d.fail(key, below(field, key.Value), hint, "is no rule of a retention")
			return
		}
		if text, ok := d.text(value, below(field, key.Value)); ok {
			if err := k.Set(key.Value, text); err != nil {
				d.fail(value, below(field, key.Value), "", "%s", policyWords(err))
			}
		}
	})
	if ok && len(d.problems) == before {
		if err := k.Validate(); err != nil {
			d.fail(n, field, "For instance last: 3 and daily: 14.", "%s", policyWords(err))
		}
	}
}

// policyWords is an error of a policy without the words that the field's name says already.
func policyWords(err error) string { return strings.TrimPrefix(err.Error(), "retention policy: ") }

// ruleNames are the rules of a retention that a job knows: its points have no tags.
func ruleNames() (names []string) {
	for _, f := range retention.Fields() {
		if f.Rule != retention.Tag {
			names = append(names, string(f.Rule))
		}
	}
	return names
}
