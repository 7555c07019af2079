package cim

import (
	"fmt"
	"reflect"
	"strconv"
	"strings"
	"time"
)

// scalar is a value as text, with CIM's name of its type.
func scalar(v any) (text, kind string, err error) {
	switch v := v.(type) {
	case string:
		return v, "string", nil
	case bool:
		return strconv.FormatBool(v), "boolean", nil
	case float64:
		return strconv.FormatFloat(v, 'g', -1, 64), "real64", nil
	case time.Time:
		return formatDateTime(v), "datetime", nil
	case time.Duration:
		return formatInterval(v), "datetime", nil
	}
	r := reflect.ValueOf(v)
	switch r.Kind() {
	case reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		return strconv.FormatUint(r.Uint(), 10), r.Kind().String(), nil
	case reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		return strconv.FormatInt(r.Int(), 10), "s" + r.Kind().String(), nil
	}
	return "", "", fmt.Errorf("%w: a %T is nothing of CIM's", ErrArgument, v)
}

// items takes an array apart. A byte slice is an array of uint8 as any other is.
func items(v any) ([]any, bool) {
	r := reflect.ValueOf(v)
	if r.Kind() != reflect.Slice {
		return nil, false
	}
	list := make([]any, r.Len())
	for i := range list {
		list[i] = r.Index(i).Interface()
	}
	return list, true
}

// writeValue writes an argument or a property: DSP0230 7.2.5. An array of nothing has no element.
func writeValue(b *strings.Builder, p Property) error {
	list, array := items(p.Value)
	if !array {
		return writeItem(b, p.Name, p.Value)
	}
	for _, v := range list {
		if err := writeItem(b, p.Name, v); err != nil {
			return err
		}
	}
	return nil
}

func writeItem(b *strings.Builder, name string, v any) error {
	switch v := v.(type) {
	case nil:
		fmt.Fprintf(b, `<p:%s i:nil="true"/>`, name)
		return nil
	case Ref:
		if v.Class == "" {
			return fmt.Errorf("%w: an empty reference", ErrArgument)
		}
		fmt.Fprintf(b, `<p:%s>`, name)
		writeReference(b, v)
		fmt.Fprintf(b, `</p:%s>`, name)
		return nil
	case *Instance:
		text, err := v.XML()
		if err != nil {
			return err
		}
		fmt.Fprintf(b, `<p:%s>%s</p:%s>`, name, escape(text), name)
		return nil
	case time.Time:
		fmt.Fprintf(b, `<p:%s><c:Datetime>%s</c:Datetime></p:%s>`, name, v.UTC().Format("2006-01-02T15:04:05.999999Z"), name)
		return nil
	case time.Duration:
		fmt.Fprintf(b, `<p:%s><c:Interval>%s</c:Interval></p:%s>`, name, formatXSDuration(v), name)
		return nil
	}
	text, _, err := scalar(v)
	if err != nil {
		return err
	}
	fmt.Fprintf(b, `<p:%s>%s</p:%s>`, name, escape(text), name)
	return nil
}
