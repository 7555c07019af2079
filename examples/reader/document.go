package main

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"
)

// document is one JSON object, taken apart by exact names. The first thing that is wrong with it stays in err, so that
// a reader of fields asks once, at the end.
type document struct {
	fields map[string]json.RawMessage
	err    error
}

// parseDocument takes an object apart and refuses names that are not known and names that come twice; without known
// names any will do.
func parseDocument(raw []byte, known ...string) *document {
	d := &document{fields: map[string]json.RawMessage{}}
	if !utf8.Valid(raw) || !json.Valid(raw) {
		d.fail("no JSON in UTF-8")
		return d
	}
	dec := json.NewDecoder(bytes.NewReader(raw))
	if t, err := dec.Token(); err != nil || t != json.Delim('{') {
		d.fail("no JSON object")
		return d
	}
	for dec.More() {
		t, err := dec.Token()
		name, ok := t.(string)
		var value json.RawMessage
		if err != nil || !ok || dec.Decode(&value) != nil {
			d.fail("broken JSON")
			return d
		}
		if _, twice := d.fields[name]; twice {
			d.fail("field %q comes twice", name)
		}
		if len(known) > 0 && !slices.Contains(known, name) {
			d.unknown("field %q", name)
		}
		d.fields[name] = value
	}
	return d
}

func (d *document) fail(format string, args ...any) {
	if d.err == nil {
		d.err = damaged("", -1, "document: "+format, args...)
	}
}

func (d *document) unknown(format string, args ...any) {
	if d.err == nil {
		d.err = unsupported("", "document: "+format, args...)
	}
}

// noNulls refuses a document in which any field is null, also one that is not looked at.
func (d *document) noNulls() {
	for name, raw := range d.fields {
		if bytes.Equal(raw, []byte("null")) {
			d.fail("field %q is null", name)
		}
	}
}

// get decodes a field into v and says whether the field is there.
func (d *document) get(name string, v any) bool {
	raw, ok := d.fields[name]
	if !ok || d.err != nil {
		return false
	}
	if bytes.Equal(raw, []byte("null")) || json.Unmarshal(raw, v) != nil {
		d.fail("field %q is not what it should be", name)
		return false
	}
	return true
}

// must is get for fields that are always there.
func (d *document) must(name string, v any) {
	if !d.get(name, v) {
		d.fail("field %q is missing", name)
	}
}

func (d *document) text(name string) (s string) { d.must(name, &s); return s }

func (d *document) number(name string) uint64 {
	n, err := strconv.ParseUint(string(d.fields[name]), 10, 64)
	if err != nil {
		d.fail("field %q is no number", name)
	}
	return n
}

// bytes gives a field of hexadecimal text that stands for size bytes.
func (d *document) bytes(name string, size int) []byte {
	return d.hex(name, d.text(name), size)
}

// maybe is bytes of a field that may be absent: then it is nil.
func (d *document) maybe(name string, size int) []byte {
	var s string
	if !d.get(name, &s) {
		return nil
	}
	return d.hex(name, s, size)
}

func (d *document) hex(name, s string, size int) []byte {
	b, err := hex.DecodeString(s)
	if err != nil || len(b) != size || strings.ToLower(s) != s {
		d.fail("field %q is not %d bytes in hexadecimal", name, size)
		return make([]byte, size)
	}
	return b
}

// list gives a field with several hexadecimal texts.
func (d *document) list(name string, size int) [][]byte {
	var texts []string
	d.get(name, &texts)
	out := make([][]byte, 0, len(texts))
	for _, t := range texts {
		out = append(out, d.hex(name, t, size))
	}
	return out
}

// soleDocument opens the one document of an object.
func (o *opened) soleDocument() ([]byte, error) {
	if len(o.frames) != 1 || o.frames[0].kind != typeDocument || o.frames[0].codec == codecRecipe {
		return nil, damaged(o.name, -1, "it does not hold one document")
	}
	body, err := o.encoded(o.frames[0])
	if err != nil {
		return nil, err
	}
	plain, err := decode(o.frames[0].codec, body, int(o.frames[0].plain))
	if err == nil && hash(plain) != o.frames[0].id {
		err = fmt.Errorf("the document has another id")
	}
	if err != nil {
		return nil, damaged(o.name, int64(o.frames[0].offset), "%v", err)
	}
	return plain, nil
}
