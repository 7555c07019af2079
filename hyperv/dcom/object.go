package dcom

import (
	"fmt"
	"reflect"
	"strconv"
	"strings"
	"time"

	"github.com/oiweiwei/go-msrpc/msrpc/dcom"
	"github.com/oiweiwei/go-msrpc/msrpc/dcom/wmi"
	classobject "github.com/oiweiwei/go-msrpc/msrpc/dcom/wmi/iwbemclassobject/v0"
	"github.com/oiweiwei/go-msrpc/msrpc/dcom/wmio"
	"github.com/oiweiwei/go-msrpc/ndr"

	"github.com/hikae/hikae/hyperv/cim"
)

const (
	maxObject     = 1 << 20 // bytes
	maxProperties = 4096
	maxDepth      = 4 // objects within objects
)

// unpack takes an object out of the reference that carries it: MS-WMI 2.2.14.
func unpack(o *wmi.ClassObject) (obj *wmio.Object, err error) {
	defer func() {
		if p := recover(); p != nil {
			obj, err = nil, malformed("an object: %v", p)
		}
	}()
	if o == nil || len(o.Data) == 0 || len(o.Data) > maxObject {
		return nil, malformed("no object, or one of more than %d bytes", maxObject)
	}
	ref := &dcom.ObjectReference{}
	if err := ndr.Unmarshal(o.Data, ref, ndr.Opaque); err != nil {
		return nil, malformed("an object's reference: %v", err)
	}
	custom, ok := ref.ObjectReference.GetValue().(*dcom.ObjectReferenceCustom)
	if !ok || len(custom.ObjectData) < 8 {
		return nil, malformed("a reference without an object")
	}
	return readObject(custom.ObjectData)
}

// pack is its inverse.
func pack(obj *wmio.Object) (o *wmi.ClassObject, err error) {
	defer func() {
		if p := recover(); p != nil {
			o, err = nil, fmt.Errorf("%w: an object that cannot be written: %v", cim.ErrArgument, p)
		}
	}()
	data, err := marshal(obj)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", cim.ErrArgument, err)
	}
	ref := &dcom.ObjectReference{Signature: []byte(dcom.ObjectReferenceCustomSignature), Flags: dcom.ObjectReferenceTypeCustom,
		IID: classobject.ClassObjectIID, ObjectReference: &dcom.ObjectReference_ObjectReference{Value: &dcom.ObjectReference_Custom{
			Custom: &dcom.ObjectReferenceCustom{ClassID: wmi.ClassObjectUnmarshalClassID, ObjectData: data}}}}
	if data, err = ndr.Marshal(ref, ndr.Opaque); err != nil {
		return nil, fmt.Errorf("%w: %v", cim.ErrArgument, err)
	}
	return &wmi.ClassObject{Data: data}, nil
}

// marshal has the table of an instance's class as the machine sent it. Machines have tables by name, as they look names up by halves, and
// values as properties were declared. The library takes one order for both, and writes a value of one property in the place of another
// where they differ: so it gets the declared one, and the table is put back.
func marshal(obj *wmio.Object) ([]byte, error) {
	if obj.Instance == nil {
		return wmio.Marshal(obj)
	}
	table := obj.Instance.CurrentClass.Properties
	declared := byOrder(&reader{}, table)
	if declared == nil && len(table) > 0 {
		return nil, malformed("properties of %.100s in places that do not fit", obj.Instance.CurrentClass.Name)
	}
	in := *obj.Instance
	in.CurrentClass.Properties = declared
	data, err := wmio.Marshal(&wmio.Object{Instance: &in, Decoration: obj.Decoration})
	if err != nil {
		return nil, err
	}
	return data, asInTable(data, table)
}

const lookupSize = 8 // bytes: references to a name, and to what is told of it

// asInTable gives an encoded instance's table, which is as properties were declared, the order of another.
func asInTable(data []byte, table []*wmio.Property) error {
	p := part{&reader{left: maxDecoded}, data}
	p.take(8)
	if flags := wmio.ObjectFlag(p.u8()); flags&wmio.ObjectFlagDecoration != 0 {
		p.text()
		p.text()
	}
	class := p.sized()
	class.take(9)
	class.sized()
	class.sized()
	if n := class.u32(); p.err == nil && int(n) != len(table) {
		p.fail("a table of %d for %d properties", n, len(table))
	}
	there := class.take(lookupSize * uint32(len(table)))
	if p.err != nil {
		return p.err
	}
	declared := append([]byte(nil), there...)
	for i, o := range table {
		copy(there[lookupSize*i:], declared[lookupSize*int(o.Order):][:lookupSize])
	}
	return nil
}

// decode reads an instance. Its reference is made of the properties that its class calls keys, where they are there.
func decode(obj *wmio.Object, namespace string, depth int) (*cim.Instance, error) {
	if obj == nil || obj.Instance == nil || depth > maxDepth {
		return nil, malformed("no instance, or too many within each other")
	}
	class := obj.Instance.CurrentClass
	if class.Name == "" || len(obj.Instance.Properties) > maxProperties {
		return nil, malformed("class %.100q of %d properties", class.Name, len(obj.Instance.Properties))
	}
	in := &cim.Instance{Class: class.Name}
	for _, p := range obj.Instance.Properties {
		if p == nil || p.Name == "" {
			return nil, malformed("a property without a name, of %s", class.Name)
		}
		v, err := fromValue(p, namespace, depth)
		if err != nil {
			return nil, fmt.Errorf("%s.%s: %w", class.Name, p.Name, err)
		}
		in.Properties = append(in.Properties, cim.Property{Name: p.Name, Type: typeNames[p.Value.Type&^wmio.CIMArray], Value: v})
	}
	var keys []string
	for _, p := range class.Properties {
		for _, q := range p.Qualifiers {
			if strings.EqualFold(q.Name, "key") {
				keys = append(keys, p.Name)
			}
		}
	}
	if len(keys) > 0 {
		if r, err := in.Keyed(namespace, keys...); err == nil {
			in.Ref = r
		}
	}
	return in, nil
}

var typeNames = map[wmio.CIMType]string{wmio.Int8: "sint8", wmio.Uint8: "uint8", wmio.Int16: "sint16", wmio.Uint16: "uint16", wmio.Int32: "sint32",
	wmio.Uint32: "uint32", wmio.Int64: "sint64", wmio.Uint64: "uint64", wmio.Float32: "real32", wmio.Float64: "real64", wmio.Bool: "boolean",
	wmio.String: "string", wmio.DateTime: "datetime", wmio.Rune: "char16"}

func fromValue(p *wmio.Property, namespace string, depth int) (any, error) {
	if p.Nullable || p.Value.Value == nil {
		return nil, nil
	}
	kind := p.Value.Type &^ wmio.CIMArray
	if !p.Value.Type.IsArray() {
		return fromScalar(kind, p.Value.Value, namespace, depth)
	}
	r := reflect.ValueOf(p.Value.Value)
	if r.Kind() != reflect.Slice || r.Len() > maxObject {
		return nil, malformed("an array that is none")
	}
	list := make([]any, r.Len())
	for i := range list {
		var err error
		if list[i], err = fromScalar(kind, r.Index(i).Interface(), namespace, depth); err != nil {
			return nil, err
		}
	}
	return list, nil
}

func fromScalar(kind wmio.CIMType, v any, namespace string, depth int) (any, error) {
	switch v := v.(type) {
	case string:
		if kind != wmio.Ref {
			return v, nil
		}
		r, err := cim.ParsePath(v)
		if r.Namespace == "" {
			r.Namespace = namespace
		}
		return r, err
	case *wmio.Object:
		return decode(v, namespace, depth+1)
	case bool:
		return strconv.FormatBool(v), nil
	case float32:
		return strconv.FormatFloat(float64(v), 'g', -1, 32), nil
	case float64:
		return strconv.FormatFloat(v, 'g', -1, 64), nil
	case int8, uint8, int16, uint16, int32, uint32, int64, uint64:
		return fmt.Sprint(v), nil
	}
	return nil, malformed("a %T", v)
}

// fill makes an instance of a class with the values that are given. One that the class does not have is an error.
func fill(class wmio.Class, values []cim.Property) (*wmio.Object, error) {
	in := &wmio.Instance{CurrentClass: class, ClassName: class.Name, Properties: make([]*wmio.Property, len(class.Properties))}
	at := map[string]int{}
	for _, p := range class.Properties { // in which order does not matter
		i := int(p.Order)
		if i >= len(in.Properties) || in.Properties[i] != nil {
			return nil, malformed("property %.100q of %s in place %d", p.Name, class.Name, p.Order)
		}
		in.Properties[i] = &wmio.Property{Name: p.Name, InheritDefault: true, Nullable: p.Nullable, Value: wmio.Value{Type: p.Value.Type}}
		at[strings.ToLower(p.Name)] = i
	}
	for _, v := range values {
		i, ok := at[strings.ToLower(v.Name)]
		if !ok {
			return nil, fmt.Errorf("%w: %s has no %.100s", cim.ErrArgument, class.Name, v.Name)
		}
		if err := put(in.Properties[i], v.Value); err != nil {
			return nil, fmt.Errorf("%s.%s: %w", class.Name, v.Name, err)
		}
	}
	return &wmio.Object{Instance: in}, nil
}

// put gives a property a value, of the property's own type.
func put(p *wmio.Property, v any) error {
	p.InheritDefault, p.Nullable = false, v == nil
	if v == nil {
		p.Value.Value = nil
		return nil
	}
	kind := p.Value.Type &^ wmio.CIMArray
	r := reflect.ValueOf(v)
	if p.Value.Type.IsArray() != (r.Kind() == reflect.Slice) {
		return fmt.Errorf("%w: a %T where a %v is expected", cim.ErrArgument, v, p.Value.Type)
	}
	if !p.Value.Type.IsArray() {
		one, err := toScalar(kind, v)
		p.Value.Value = one
		return err
	}
	zero, err := toScalar(kind, zeros(kind))
	if err != nil {
		return err
	}
	list := reflect.MakeSlice(reflect.SliceOf(reflect.TypeOf(zero)), r.Len(), r.Len())
	for i := range r.Len() {
		one, err := toScalar(kind, r.Index(i).Interface())
		if err != nil {
			return err
		}
		list.Index(i).Set(reflect.ValueOf(one))
	}
	p.Value.Value = list.Interface()
	return nil
}

func zeros(kind wmio.CIMType) string {
	if kind == wmio.Bool {
		return "false"
	}
	return "0"
}

// toScalar writes a value as the type that the class has for it: the wire has no other.
func toScalar(kind wmio.CIMType, v any) (any, error) {
	s, err := text(v)
	if err != nil {
		return nil, err
	}
	var out any
	switch kind {
	case wmio.String, wmio.DateTime, wmio.Ref:
		return s, nil
	case wmio.Bool:
		out, err = strconv.ParseBool(s)
	case wmio.Float32:
		var f float64
		f, err = strconv.ParseFloat(s, 32)
		out = float32(f)
	case wmio.Float64:
		out, err = strconv.ParseFloat(s, 64)
	default:
		out, err = toInteger(kind, s)
	}
	if err != nil {
		return nil, fmt.Errorf("%w: %.40q is no %v", cim.ErrArgument, s, kind)
	}
	return out, nil
}

var integers = map[wmio.CIMType]reflect.Type{wmio.Int8: reflect.TypeFor[int8](), wmio.Uint8: reflect.TypeFor[uint8](), wmio.Int16: reflect.TypeFor[int16](),
	wmio.Uint16: reflect.TypeFor[uint16](), wmio.Int32: reflect.TypeFor[int32](), wmio.Uint32: reflect.TypeFor[uint32](),
	wmio.Int64: reflect.TypeFor[int64](), wmio.Uint64: reflect.TypeFor[uint64]()}

func toInteger(kind wmio.CIMType, s string) (any, error) {
	t, ok := integers[kind]
	if !ok {
		return nil, fmt.Errorf("%w: a %v is not sent", cim.ErrArgument, kind)
	}
	v := reflect.New(t).Elem()
	if v.CanInt() {
		n, err := strconv.ParseInt(s, 10, t.Bits())
		if err == nil {
			v.SetInt(n)
		}
		return v.Interface(), err
	}
	n, err := strconv.ParseUint(s, 10, t.Bits())
	if err == nil {
		v.SetUint(n)
	}
	return v.Interface(), err
}

// text is a Go value as CIM writes it.
func text(v any) (string, error) {
	switch v := v.(type) {
	case string:
		return v, nil
	case cim.Ref:
		if v.Zero() {
			return "", fmt.Errorf("%w: an empty reference", cim.ErrArgument)
		}
		return v.Path("."), nil
	case *cim.Instance:
		return v.XML()
	case time.Time:
		return v.UTC().Format("20060102150405.000000") + "+000", nil
	case time.Duration:
		s := int64(max(0, v) / time.Second)
		return fmt.Sprintf("%08d%02d%02d%02d.%06d:000", s/86400, s/3600%24, s/60%60, s%60, max(0, v)%time.Second/time.Microsecond), nil
	}
	switch r := reflect.ValueOf(v); r.Kind() {
	case reflect.Bool, reflect.Float64, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		return fmt.Sprint(r.Interface()), nil
	}
	return "", fmt.Errorf("%w: a %T is nothing of CIM's", cim.ErrArgument, v)
}
