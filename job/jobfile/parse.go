package jobfile

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"os"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"gopkg.in/yaml.v3"
)

// Read reads a job from a file. Errors are [*Error], or those of the file system.
func Read(path string) (*File, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, MaxBytes+1))
	if err != nil {
		return nil, err
	}
	return Parse(path, data)
}

// Parse reads a job. name stands in errors, which are [*Error].
func Parse(name string, data []byte) (*File, error) {
	d := &decoder{places: map[string]*yaml.Node{}}
	f := &File{}
	if n := d.document(data); n != nil {
		d.value(n, reflect.ValueOf(f).Elem(), "", 0)
		f.check(d)
	}
	if len(d.problems) == 0 {
		return f, nil
	}
	slices.SortStableFunc(d.problems, func(a, b Problem) int { return cmp.Or(cmp.Compare(a.Line, b.Line), cmp.Compare(a.Column, b.Column)) })
	return nil, &Error{File: name, Problems: d.problems}
}

var yamlLine = regexp.MustCompile(`line ([0-9]+): `)

// document is the one document of a file; nil where there is none.
func (d *decoder) document(data []byte) *yaml.Node {
	if len(data) > MaxBytes {
		d.fail(nil, "", "", "the file is larger than %d bytes", MaxBytes)
		return nil
	}
	var n, more yaml.Node
	reader := yaml.NewDecoder(bytes.NewReader(data))
	err := decodeNode(reader, &n)
	switch {
	case errors.Is(err, io.EOF):
		d.fail(nil, "", "", "the file is empty")
		return nil
	case err != nil:
		d.notYAML(err)
		return nil
	}
	if err := decodeNode(reader, &more); !errors.Is(err, io.EOF) {
		d.fail(&more, "", "Write each job into a file of its own.", "the file holds more than one document")
		return nil
	}
	if len(n.Content) != 1 || loops(n.Content[0]) {
		d.fail(&n, "", "", "the file is no group of fields")
		return nil
	}
	return n.Content[0]
}

// decodeNode takes a panic of the library for what it is: a file that cannot be read.
func decodeNode(r *yaml.Decoder, n *yaml.Node) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("yaml: %v", p)
		}
	}()
	return r.Decode(n)
}

// loops reports an alias that stands for something that it is a part of.
func loops(n *yaml.Node) bool {
	open := map[*yaml.Node]bool{}
	var walk func(n *yaml.Node, depth int) bool
	walk = func(n *yaml.Node, depth int) bool {
		if n.Kind == yaml.AliasNode && open[n.Alias] {
			return true
		}
		if depth > 2*maxDepth { // told by who reads the values
			return false
		}
		open[n] = true
		defer delete(open, n)
		for _, c := range n.Content {
			if walk(c, depth+1) {
				return true
			}
		}
		return false
	}
	return walk(n, 0)
}

// notYAML says in plain words what the library found.
func (d *decoder) notYAML(err error) {
	text := strings.TrimPrefix(err.Error(), "yaml: ")
	var at *yaml.Node
	if m := yamlLine.FindStringSubmatchIndex(text); m != nil {
		line, _ := strconv.Atoi(text[m[2]:m[3]])
		at = &yaml.Node{Line: line, Column: 1}
		text = text[m[1]:]
	}
	hint := ""
	switch {
	case strings.Contains(text, "cannot start any token") && strings.Contains(text, `\t`), strings.Contains(text, "found character that cannot start"):
		text, hint = "a line begins with a tab, or a value with a character that has a meaning of its own", "Indent with blanks, and put values that begin with * & % @ ` or ! into quotes."
	case strings.Contains(text, "mapping values are not allowed"):
		text, hint = "a colon stands where none belongs", "Is a line indented too far? Put values with a colon and a blank into quotes."
	case strings.Contains(text, "did not find expected key"), strings.Contains(text, "did not find expected '-'"):
		text, hint = "in what begins here a line is not indented as the others", "Fields of one group begin in the same column."
	case strings.Contains(text, "could not find expected ':'"):
		text, hint = "a name without a colon", "Write name: value, with a blank after the colon."
	case strings.Contains(text, "unknown anchor"), strings.Contains(text, "alphabetic or numeric character"):
		text, hint = "what begins with * is the name of a value from elsewhere, and there is none of that name", "Put values that begin with * or & into quotes."
	}
	d.fail(at, "", hint, "%s", text)
}
