package jobfile

import (
	"maps"
	"reflect"
	"slices"
	"strings"
)

// structField is a field of a file as its tags say.
type structField struct {
	name     string
	index    []int
	typ      reflect.Type
	required bool
	doc      string
	enum     []string
}

// fieldsOf are the fields of a struct, by their names in the file.
func fieldsOf(t reflect.Type) map[string]structField {
	out := map[string]structField{}
	for _, f := range reflect.VisibleFields(t) {
		name, options, _ := strings.Cut(f.Tag.Get("yaml"), ",")
		if name != "" {
			out[name] = structField{name: name, index: f.Index, typ: f.Type, required: options == "required",
				doc: f.Tag.Get("doc"), enum: strings.Fields(f.Tag.Get("enum"))}
		}
	}
	return out
}

func sortedNames(m map[string]structField) []string { return slices.Sorted(maps.Keys(m)) }
