package jobfile

import (
	"encoding/json"
	"reflect"
)

// Schema is a JSON Schema (2020-12) of a job file, for editors. docs/job.schema.json is a copy of it.
//
// It knows each field, its kind and its words; what only the whole file tells, such as that a hook has either a program or an
// address, [Parse] alone knows.
func Schema() []byte {
	s := object{"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "A job of Hikae"}
	for k, v := range schemaOf(reflect.TypeFor[File]()) {
		s[k] = v
	}
	out, err := json.MarshalIndent(s, "", "  ")
	if err != nil {
		panic(err) // maps of texts
	}
	return append(out, '\n')
}

type object map[string]any

func schemaOf(t reflect.Type) object {
	switch v := reflect.New(t).Interface().(type) {
	case *Strings:
		one := object{"type": "string"}
		return object{"anyOf": []any{one, object{"type": "array", "items": one}}}
	case *Keep:
		rules := object{}
		for _, name := range ruleNames() {
			rules[name] = object{"type": []string{"integer", "string"}}
		}
		return object{"anyOf": []any{object{"type": "string", "pattern": v.pattern()},
			object{"type": "object", "properties": rules, "additionalProperties": false, "minProperties": 1}}}
	case scalar:
		return object{"type": []string{"string", "integer", "number"}, "pattern": v.pattern()}
	}
	switch t.Kind() {
	case reflect.Pointer:
		return schemaOf(t.Elem())
	case reflect.Struct:
		return structSchema(t)
	case reflect.Slice:
		return object{"type": "array", "items": schemaOf(t.Elem())}
	case reflect.Map:
		return object{"type": "object", "additionalProperties": schemaOf(t.Elem())}
	case reflect.Int:
		return object{"type": "integer", "minimum": 0}
	case reflect.Bool:
		return object{"type": "boolean"}
	}
	return object{"type": "string"}
}

func structSchema(t reflect.Type) object {
	properties, required := object{}, []string{}
	fields := fieldsOf(t)
	for _, name := range sortedNames(fields) {
		f := fields[name]
		s := schemaOf(f.typ)
		if len(f.enum) > 0 {
			s = enumSchema(f)
		}
		s["description"] = f.doc
		properties[name] = s
		if f.required {
			required = append(required, name)
		}
	}
	out := object{"type": "object", "additionalProperties": false, "properties": properties}
	if len(required) > 0 {
		out["required"] = required
	}
	return out
}

func enumSchema(f structField) object {
	one := object{"enum": f.enum}
	if f.typ == reflect.TypeFor[Strings]() {
		return object{"anyOf": []any{one, object{"type": "array", "items": one}}}
	}
	return one
}
