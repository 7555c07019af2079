package cim

import (
	"fmt"
	"reflect"
	"strconv"
	"strings"
	"time"
)

// Decode puts properties into the fields of a struct that have a tag: cim:"Name", or cim:"Name,optional".
//
// A property that is not there is an error unless its field is optional, a pointer or a slice (an empty array has nothing on
// the wire). One that is null leaves the zero value. Types are those of the package comment; a *T tells null from zero, and
// an *Instance is read from its text.
func (in *Instance) Decode(to any) error {
	v := reflect.ValueOf(to)
	if v.Kind() != reflect.Pointer || v.Elem().Kind() != reflect.Struct {
		panic(fmt.Sprintf("cim: Decode into a %T", to))
	}
	v = v.Elem()
	for i := range v.NumField() {
		tag, ok := v.Type().Field(i).Tag.Lookup("cim")
		if !ok {
			continue
		}
		name, option, _ := strings.Cut(tag, ",")
		f := v.Field(i)
		value, there := in.Value(name)
		if !there && option != "optional" && f.Kind() != reflect.Pointer && f.Kind() != reflect.Slice {
			return fmt.Errorf("%w: %s has no %s", ErrMalformed, in.Class, name)
		}
		f.SetZero()
		if value == nil {
			continue
		}
		if err := assign(f, value); err != nil {
			return fmt.Errorf("%s.%s: %w", in.Class, name, err)
		}
	}
	return nil
}

var (
	typeTime     = reflect.TypeFor[time.Time]()
	typeDuration = reflect.TypeFor[time.Duration]()
	typeRef      = reflect.TypeFor[Ref]()
	typeInstance = reflect.TypeFor[*Instance]()
)

func assign(f reflect.Value, value any) error {
	switch {
	case f.Type() == typeInstance:
		return assignInstance(f, value)
	case f.Kind() == reflect.Slice:
		list, ok := value.([]any)
		if !ok {
			list = []any{value}
		}
		f.Set(reflect.MakeSlice(f.Type(), len(list), len(list)))
		for i, v := range list {
			if v == nil {
				continue
			}
			if err := assign(f.Index(i), v); err != nil {
				return err
			}
		}
		return nil
	case f.Kind() == reflect.Pointer:
		f.Set(reflect.New(f.Type().Elem()))
		return assign(f.Elem(), value)
	case f.Type() == typeRef:
		return assignRef(f, value)
	}
	s, ok := value.(string)
	if !ok {
		return fmt.Errorf("%w: a %T where one %v is expected", ErrMalformed, value, f.Type())
	}
	return assignText(f, s)
}

func assignInstance(f reflect.Value, value any) error {
	switch v := value.(type) {
	case *Instance:
		f.Set(reflect.ValueOf(v))
		return nil
	case string:
		in, err := ParseXML([]byte(v))
		if err == nil {
			f.Set(reflect.ValueOf(in))
		}
		return err
	}
	return fmt.Errorf("%w: a %T where an instance is expected", ErrMalformed, value)
}

func assignRef(f reflect.Value, value any) error {
	switch v := value.(type) {
	case Ref:
		f.Set(reflect.ValueOf(v))
		return nil
	case string:
		r, err := ParsePath(v)
		if err == nil {
			f.Set(reflect.ValueOf(r))
		}
		return err
	}
	return fmt.Errorf("%w: a %T where a reference is expected", ErrMalformed, value)
}

func assignText(f reflect.Value, s string) error {
	trimmed := strings.TrimSpace(s)
	var err error
	switch {
	case f.Type() == typeTime:
		var t time.Time
		if t, err = parseTime(trimmed); err == nil {
			f.Set(reflect.ValueOf(t))
		}
		return err
	case f.Type() == typeDuration:
		var d time.Duration
		if d, err = parseInterval(trimmed); err == nil {
			f.SetInt(int64(d))
		}
		return err
	}
	switch f.Kind() {
	case reflect.String:
		f.SetString(s)
		return nil
	case reflect.Bool:
		switch strings.ToLower(trimmed) {
		case "true", "1":
			f.SetBool(true)
		case "false", "0":
		default:
			return fmt.Errorf("%w: %.40q is no boolean", ErrMalformed, s)
		}
		return nil
	case reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		var n uint64
		if n, err = strconv.ParseUint(trimmed, 10, f.Type().Bits()); err == nil {
			f.SetUint(n)
		}
	case reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		var n int64
		if n, err = strconv.ParseInt(trimmed, 10, f.Type().Bits()); err == nil {
			f.SetInt(n)
		}
	case reflect.Float64:
		var n float64
		if n, err = strconv.ParseFloat(trimmed, 64); err == nil {
			f.SetFloat(n)
		}
	default:
		panic(fmt.Sprintf("cim: Decode into a field of %v", f.Type()))
	}
	if err != nil {
		return fmt.Errorf("%w: %.40q is no %v", ErrMalformed, s, f.Type())
	}
	return nil
}
