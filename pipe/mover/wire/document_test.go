package wire_test

import (
	"fmt"
	"os"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae/pipe/mover/wire"
)

// document is PROTOCOL.md, which the tests of this package read: its tables say what is written and refused.
const document = "../PROTOCOL.md"

// shape is a message, or a part of one, as the document describes it.
type shape struct {
	name   string
	kind   wire.Kind // 0 for a part
	answer string
	bound  int64 // of a message's payload; the least that a part takes
	fields []field
}

// field is one row below a shape. Max holds the bounds of the third column in their order, min is 0 where none is given.
type field struct {
	of, name, kind string
	max            []int64
	min            int64
	fixed          string
}

func (f field) String() string { return f.of + "." + f.name }

// part is what a list holds.
func (f field) part() (string, bool) { return strings.CutPrefix(f.kind, "list of ") }

// book is every shape of the document by its name, and the names in order.
type book struct {
	shapes map[string]*shape
	order  []string
}

var (
	boldName = regexp.MustCompile(`^\*\*(\w+)\*\*$`)
	read     = sync.OnceValues(readDocument)
)

func protocol(t testing.TB) *book {
	t.Helper()
	b, err := read()
	require.NoError(t, err)
	require.Greater(t, len(b.order), 60)
	return b
}

func readDocument() (*book, error) {
	text, err := os.ReadFile(document)
	if err != nil {
		return nil, err
	}
	b := &book{shapes: map[string]*shape{}}
	var current *shape
	for i, line := range strings.Split(string(text), "\n") {
		cells := strings.Split(line, "|")
		if len(cells) != 7 {
			current = nil
			continue
		}
		for j := range cells {
			cells[j] = strings.TrimSpace(cells[j])
		}
		if m := boldName.FindStringSubmatch(cells[2]); m != nil {
			if current, err = readShape(m[1], cells[1:]); err == nil && b.shapes[m[1]] != nil {
				err = fmt.Errorf("%s stands there twice", m[1])
			}
			b.shapes[m[1]] = current
			b.order = append(b.order, m[1])
		} else if current != nil {
			err = current.add(cells[1:])
		}
		if err != nil {
			return nil, fmt.Errorf("line %d: %w", i+1, err)
		}
	}
	return b, nil
}

func readShape(name string, cells []string) (*shape, error) {
	s := &shape{name: name}
	var err error
	if cells[0] != "" {
		var n uint64
		if n, err = strconv.ParseUint(cells[0], 10, 8); err != nil {
			return nil, err
		}
		s.kind = wire.Kind(n)
	}
	s.answer, _ = strings.CutPrefix(cells[2], "→ ")
	s.bound, err = number(strings.TrimPrefix(cells[3], "≥ "))
	return s, err
}

func (s *shape) add(cells []string) error {
	f := field{of: s.name, name: cells[1], kind: cells[2]}
	bound := cells[3]
	switch low, high, isRange := strings.Cut(bound, " … "); {
	case isRange:
		least, err := number(low)
		if err != nil {
			return err
		}
		f.min, bound = least, high
	case strings.HasPrefix(bound, "= "):
		f.fixed, bound = bound[2:], ""
	}
	for text := range strings.SplitSeq(bound, ";") {
		if text == "" {
			continue
		}
		n, err := number(text)
		if err != nil {
			return err
		}
		f.max = append(f.max, n)
	}
	s.fields = append(s.fields, f)
	return nil
}

func number(s string) (int64, error) {
	return strconv.ParseInt(strings.ReplaceAll(strings.TrimSpace(s), ",", ""), 0, 64)
}

// TestDocumentNamesEveryMessage (R010): the document and the code know the same messages under the same numbers, with the
// same bounds and the same fields.
func TestDocumentNamesEveryMessage(t *testing.T) {
	t.Parallel()
	b := protocol(t)
	var kinds []wire.Kind
	for _, name := range b.order {
		s := b.shapes[name]
		if s.kind == 0 {
			continue
		}
		kinds = append(kinds, s.kind)
		require.Contains(t, wire.Kinds(), s.kind, name)
		require.Equal(t, s.kind.String(), name)
		require.EqualValues(t, wire.Bound(s.kind), s.bound, name)
		b.compare(t, reflect.TypeOf(wire.Empty(s.kind)).Elem(), s)
		if s.answer != "" {
			require.NotZero(t, b.shapes[s.answer], "%s is answered by %s", name, s.answer)
		}
	}
	require.Equal(t, wire.Kinds(), kinds, "in the order of their numbers")
}

// compare holds the fields of a Go type against a shape's rows.
func (b *book) compare(t *testing.T, goType reflect.Type, s *shape) {
	t.Helper()
	var ours, theirs []string
	for _, f := range reflect.VisibleFields(goType) {
		if f.IsExported() {
			ours = append(ours, f.Name)
		}
	}
	for _, f := range s.fields {
		if f.name[0] < 'a' {
			theirs = append(theirs, f.name)
		}
	}
	require.Equal(t, ours, theirs, s.name)
	for _, f := range s.fields {
		of, ok := goType.FieldByName(f.name)
		if part, isList := f.part(); isList {
			require.Equal(t, reflect.Slice, of.Type.Kind(), "%v", f)
			if inner := b.shapes[part]; inner != nil {
				b.compare(t, of.Type.Elem(), inner)
			}
		} else if inner := b.shapes[f.kind]; inner != nil && ok {
			b.compare(t, of.Type, inner)
		}
	}
}

var codeRow = regexp.MustCompile(`(?m)^\| (\d+) \| (\w+) \|`)

// TestDocumentNamesEveryCode reads the constants out of code.go, since a number has no name in a running program.
func TestDocumentNamesEveryCode(t *testing.T) {
	t.Parallel()
	source, err := os.ReadFile("code.go")
	require.NoError(t, err)
	text, err := os.ReadFile(document)
	require.NoError(t, err)
	var ours, theirs []string
	for _, m := range regexp.MustCompile(`(?m)^\tCode(\w+) +Code = (\d+)`).FindAllStringSubmatch(string(source), -1) {
		ours = append(ours, m[2]+" "+m[1])
	}
	_, table, found := strings.Cut(string(text), "| code | name |")
	require.True(t, found)
	table, _, _ = strings.Cut(table, "\n\n")
	for _, m := range codeRow.FindAllStringSubmatch(table, -1) {
		theirs = append(theirs, m[1]+" "+m[2])
	}
	require.Greater(t, len(ours), 20)
	require.Equal(t, ours, theirs)
}

// TestEveryCallHasItsAnswer: what belongs to a call is a request, whose answer the document names, or an answer that is
// named there, and never both; and the document's list of answers has them all.
func TestEveryCallHasItsAnswer(t *testing.T) {
	t.Parallel()
	b := protocol(t)
	answers := map[string]bool{"OK": true, "Fail": true}
	for _, s := range b.shapes {
		if s.answer != "" {
			answers[s.answer] = true
		}
	}
	text, err := os.ReadFile(document)
	require.NoError(t, err)
	_, list, found := strings.Cut(strings.Join(strings.Fields(string(text)), " "), "its kind says: an answer (")
	require.True(t, found)
	list, _, _ = strings.Cut(list, ")")
	var listed []string
	for name := range strings.SplitSeq(list, ",") {
		listed = append(listed, strings.TrimSpace(name))
	}
	var ours []string
	for _, k := range wire.Kinds() {
		s := b.shapes[k.String()]
		require.Equal(t, k.InCall() && s.answer == "", answers[s.name], s.name)
		if answers[s.name] {
			ours = append(ours, s.name)
		}
	}
	require.Equal(t, ours, listed)
}

// TestKindsOfCalls: what carries no call's number is what the document has in its first table.
func TestKindsOfCalls(t *testing.T) {
	t.Parallel()
	for _, k := range wire.Kinds() {
		outside := []wire.Kind{wire.KindHello, wire.KindWelcome, wire.KindRefuse, wire.KindPing, wire.KindPong, wire.KindAck,
			wire.KindDurable, wire.KindCredit, wire.KindDrain}
		require.Equal(t, !slices.Contains(outside, k), k.InCall(), "%v", k)
	}
}
