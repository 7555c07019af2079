package hypervtest

import (
	"errors"
	"strings"
	"unicode"
)

var errWQL = errors.New("the query is not valid")

// words takes a query apart: names, operators, 'strings', {paths}.
func words(q string) (list []string, err error) {
	for i := 0; i < len(q); {
		switch c := q[i]; {
		case unicode.IsSpace(rune(c)):
			i++
		case c == '\'' || c == '"':
			var b strings.Builder
			b.WriteByte('\'')
			for i++; ; i++ {
				if i >= len(q) {
					return nil, errWQL
				}
				if q[i] == c {
					break
				}
				if q[i] == '\\' && i+1 < len(q) {
					i++
				}
				b.WriteByte(q[i])
			}
			i++
			list = append(list, b.String())
		case c == '{':
			end := strings.LastIndexByte(q, '}')
			if end < i {
				return nil, errWQL
			}
			list = append(list, q[i:end])
			i = end + 1
		case strings.ContainsRune("=<>!", rune(c)):
			n := 1
			if i+1 < len(q) && strings.ContainsRune("=>", rune(q[i+1])) {
				n = 2
			}
			list = append(list, q[i:i+n])
			i += n
		case c == ',' || c == '*':
			list = append(list, string(c))
			i++
		default:
			j := i
			for j < len(q) && (q[j] == '_' || unicode.IsLetter(rune(q[j])) || unicode.IsDigit(rune(q[j]))) {
				j++
			}
			if j == i {
				return nil, errWQL
			}
			list = append(list, q[i:j])
			i = j
		}
	}
	return list, nil
}

// query answers SELECT … FROM … [WHERE a = b AND …], ASSOCIATORS OF {…} and REFERENCES OF {…}.
func (s *Store) query(namespace, q string) (found []*Object, names []string, err error) {
	w, err := words(q)
	if err != nil || len(w) < 3 {
		return nil, nil, errWQL
	}
	switch strings.ToUpper(w[0]) {
	case "SELECT":
		return s.selected(namespace, w[1:])
	case "ASSOCIATORS", "REFERENCES":
		if !strings.EqualFold(w[1], "OF") || !strings.HasPrefix(w[2], "{") {
			return nil, nil, errWQL
		}
		found, err = s.associated(namespace, w[2][1:], strings.EqualFold(w[0], "ASSOCIATORS"), w[3:])
		return found, nil, err
	}
	return nil, nil, errWQL
}

func (s *Store) selected(namespace string, w []string) (found []*Object, names []string, err error) {
	for len(w) > 0 && !strings.EqualFold(w[0], "FROM") {
		if w[0] != "," && w[0] != "*" {
			names = append(names, w[0])
		}
		w = w[1:]
	}
	if len(w) < 2 {
		return nil, nil, errWQL
	}
	class := w[1]
	if s.classes[key(namespace, class)] == nil {
		return nil, nil, errClass
	}
	conditions, err := conditionsOf(w[2:])
	if err != nil {
		return nil, nil, err
	}
	for _, o := range s.objects {
		if strings.EqualFold(o.Namespace, namespace) && s.isA(o, class) && meets(o, conditions) {
			found = append(found, o)
		}
	}
	return found, names, nil
}

type condition struct{ name, op, value string }

func conditionsOf(w []string) (list []condition, err error) {
	if len(w) == 0 {
		return nil, nil
	}
	if !strings.EqualFold(w[0], "WHERE") {
		return nil, errWQL
	}
	for w = w[1:]; ; w = w[4:] {
		if len(w) < 3 || w[1] != "=" && w[1] != "<>" && w[1] != "!=" {
			return nil, errWQL
		}
		list = append(list, condition{w[0], w[1], strings.TrimPrefix(w[2], "'")})
		if len(w) == 3 {
			return list, nil
		}
		if !strings.EqualFold(w[3], "AND") {
			return nil, errWQL
		}
	}
}

func meets(o *Object, list []condition) bool {
	for _, c := range list {
		got, ok := o.text(c.name)
		if !ok || strings.EqualFold(got, c.value) != (c.op == "=") {
			return false
		}
	}
	return true
}

var (
	errClass  = errors.New("no such class")
	errObject = errors.New("no such object")
)

// associated follows associations from an object, or finds these.
func (s *Store) associated(namespace, path string, others bool, w []string) (found []*Object, err error) {
	from, err := s.byPath(namespace, path)
	if err != nil {
		return nil, err
	}
	var assoc, result string
	if len(w) > 0 && !strings.EqualFold(w[0], "WHERE") || len(w) > 0 && len(w)%3 != 1 {
		return nil, errWQL
	}
	for i := 1; i+2 < len(w); i += 3 {
		switch {
		case w[i+1] != "=":
			return nil, errWQL
		case strings.EqualFold(w[i], "ResultClass"):
			result = w[i+2]
		case strings.EqualFold(w[i], "AssocClass") && others:
			assoc = w[i+2]
		default:
			return nil, errWQL
		}
	}
	if !others {
		assoc, result = result, ""
	}
	for _, a := range s.objects {
		if !s.classes[key(a.Namespace, a.Class)].Association || !a.leadsTo(from) || assoc != "" && !s.isA(a, assoc) {
			continue
		}
		if !others {
			found = append(found, a)
			continue
		}
		for _, n := range a.Names {
			if o, ok := a.Values[n].(*Object); ok && o != from && (result == "" || s.isA(o, result)) {
				found = append(found, o)
			}
		}
	}
	return found, nil
}

// byPath finds an object by Class.Key="value",….
func (s *Store) byPath(namespace, path string) (*Object, error) {
	if i := strings.IndexByte(path, ':'); strings.HasPrefix(path, `\\`) && i > 0 {
		path = path[i+1:]
	}
	class, rest, _ := strings.Cut(path, ".")
	w, err := words(strings.ReplaceAll(rest, ",", " "))
	if err != nil || len(w)%3 != 0 {
		return nil, errWQL
	}
	keys := map[string]string{}
	for i := 0; i < len(w); i += 3 {
		keys[w[i]] = strings.TrimPrefix(w[i+2], "'")
	}
	o := s.find(namespace, class, keys)
	if o == nil {
		return nil, errObject
	}
	return o, nil
}
