package hypervtest

import (
	"fmt"
	"strings"
	"sync"
	"time"
)

// Object is an instance. Values are nil, string, bool, numbers, time.Time, *Object (a reference), Embedded, and slices of
// these.
type Object struct {
	Namespace string
	Class     string
	Names     []string // in the order in which they are sent
	Values    map[string]any
}

// Embedded is an object that travels as text within another.
type Embedded struct{ *Object }

// NewObject makes one of name, value, name, value ….
func NewObject(class string, pairs ...any) *Object {
	o := &Object{Class: class, Values: map[string]any{}}
	for i := 0; i+1 < len(pairs); i += 2 {
		o.Set(pairs[i].(string), pairs[i+1])
	}
	return o
}

// Set replaces a value or adds it.
func (o *Object) Set(name string, v any) {
	if _, ok := o.Values[name]; !ok {
		o.Names = append(o.Names, name)
	}
	o.Values[name] = v
}

// text is a value as it is compared.
func (o *Object) text(name string) (string, bool) {
	for n, v := range o.Values {
		if strings.EqualFold(n, name) && v != nil {
			return textOf(v), true
		}
	}
	return "", false
}

func textOf(v any) string {
	switch v := v.(type) {
	case *Object:
		return "" // no key compares with a reference here
	case time.Time:
		return v.UTC().Format(time.RFC3339Nano)
	}
	return fmt.Sprint(v)
}

// Class is what a manager knows of one.
type Class struct {
	Name        string
	Super       string
	Keys        []string
	Association bool
	Methods     map[string]Method
}

// Call is a method's.
type Call struct {
	Host   *Host
	Object *Object
	Method string
	In     map[string][]string  // texts by parameter
	Refs   map[string]*Object   // references by parameter; of an array the last
	Lists  map[string][]*Object // arrays of references
}

// text is the only value of a parameter, and empty where there is none.
func (c *Call) text(name string) string {
	if v := c.In[name]; len(v) == 1 {
		return v[0]
	}
	return ""
}

// Method answers with a return value and pairs of name and value. It runs while the host is locked.
type Method func(c *Call) (code uint32, out []any)

// Store holds objects. All but Lock wants the lock to be held.
type Store struct {
	sync.Mutex
	classes map[string]*Class // by namespace:class, in small letters
	objects []*Object
}

func key(namespace, class string) string { return strings.ToLower(namespace + ":" + class) }

// Define adds a class.
func (s *Store) Define(namespace string, c Class) { s.classes[key(namespace, c.Name)] = &c }

// Add adds an instance.
func (s *Store) Add(namespace string, o *Object) *Object {
	if s.classes[key(namespace, o.Class)] == nil {
		panic("no class " + o.Class)
	}
	o.Namespace = namespace
	s.objects = append(s.objects, o)
	return o
}

// Remove removes an instance, and the associations that lead to it.
func (s *Store) Remove(gone *Object) {
	for _, o := range s.features(gone) {
		s.Remove(o)
	}
	keep := s.objects[:0]
	for _, o := range s.objects {
		if o == gone || s.classes[key(o.Namespace, o.Class)].Association && o.leadsTo(gone) {
			continue
		}
		keep = append(keep, o)
	}
	s.objects = keep
}

func (o *Object) leadsTo(other *Object) bool {
	for _, v := range o.Values {
		if v == any(other) {
			return true
		}
	}
	return false
}

// isA follows superclasses.
func (s *Store) isA(o *Object, class string) bool {
	for name := o.Class; name != ""; {
		if strings.EqualFold(name, class) {
			return true
		}
		c := s.classes[key(o.Namespace, name)]
		if c == nil {
			return false
		}
		name = c.Super
	}
	return false
}

// keysOf are those of a class or of the nearest above it.
func (s *Store) keysOf(namespace, class string) []string {
	for c := s.classes[key(namespace, class)]; c != nil; c = s.classes[key(namespace, c.Super)] {
		if len(c.Keys) > 0 {
			return c.Keys
		}
	}
	return nil
}

// methodOf finds a class's method or that of one above it.
func (s *Store) methodOf(o *Object, name string) Method {
	for c := s.classes[key(o.Namespace, o.Class)]; c != nil; c = s.classes[key(o.Namespace, c.Super)] {
		for n, m := range c.Methods {
			if strings.EqualFold(n, name) {
				return m
			}
		}
	}
	return nil
}

// find is the instance with these keys. A class of one instance needs none.
func (s *Store) find(namespace, class string, keys map[string]string) *Object {
	var found *Object
	for _, o := range s.objects {
		if strings.EqualFold(o.Namespace, namespace) && s.isA(o, class) && s.has(o, keys) {
			if found != nil {
				return nil
			}
			found = o
		}
	}
	return found
}

func (s *Store) has(o *Object, keys map[string]string) bool {
	for k, want := range keys {
		got, ok := o.text(k)
		if !ok || !strings.EqualFold(got, want) {
			return false
		}
	}
	return true
}

// Path is a whole path, as settings hold it.
func (s *Store) Path(host string, o *Object) string {
	var keys []string
	for _, k := range s.keysOf(o.Namespace, o.Class) {
		v, _ := o.text(k)
		keys = append(keys, k+`="`+strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(v)+`"`)
	}
	return `\\` + host + `\` + strings.ReplaceAll(o.Namespace, "/", `\`) + ":" + o.Class + "." + strings.Join(keys, ",")
}
