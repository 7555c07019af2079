package dcom

import (
	"encoding/binary"
	"math"
	"unicode/utf16"

	"github.com/oiweiwei/go-msrpc/msrpc/dcom/wmio"
)

const (
	signature  = 0x12345678
	maxDecoded = 16 << 20 // bytes of memory that one object may ask for, by our own count
	maxMethods = 1024
)

// What the kinds of things cost of maxDecoded, beside their bytes: about what Go keeps for each.
const (
	costObject   = 512
	costProperty = 192
	costItem     = 16
)

// readObject takes an object out of its encoding: MS-WMIO 2.2.1. The library's decoder is not used: it allocates by lengths that it did
// not check, follows references again and again, and goes on for ever in a list after an error. Here no length is believed that does
// not lie within its part, and whatever is made is paid for first, so that references to one thing, and objects within objects, end.
func readObject(b []byte) (*wmio.Object, error) {
	p := part{reader: &reader{left: maxDecoded}, b: b}
	if p.u32() != signature {
		p.fail("an object without its signature")
	}
	obj := p.object(0)
	if p.err != nil {
		return nil, p.err
	}
	return obj, nil
}

// reader is one decoding: what it may still use, and the first thing that was wrong, after which all parts are empty.
type reader struct {
	left int
	err  error
}

func (r *reader) fail(format string, args ...any) {
	if r.err == nil {
		r.err = malformed(format, args...)
	}
}

func (r *reader) spend(n int) bool {
	if r.err == nil && n > r.left {
		r.fail("an object of more than %d bytes in memory", maxDecoded)
	}
	if r.err != nil {
		return false
	}
	r.left -= n
	return true
}

// part is a stretch of the encoding, read from its beginning.
type part struct {
	*reader
	b []byte
}

func (p *part) take(n uint32) []byte {
	if p.err == nil && uint64(n) > uint64(len(p.b)) {
		p.fail("%d bytes where %d are left", n, len(p.b))
	}
	if p.err != nil {
		return nil
	}
	got := p.b[:n:n]
	p.b = p.b[n:]
	return got
}

func (p *part) number(size uint32) uint64 {
	var whole [8]byte
	copy(whole[:], p.take(size))
	return binary.LittleEndian.Uint64(whole[:])
}

func (p *part) u8() uint8   { return uint8(p.number(1)) }
func (p *part) u16() uint16 { return uint16(p.number(2)) }
func (p *part) u32() uint32 { return uint32(p.number(4)) }

// sized is a part that begins with its own length, which counts itself.
func (p *part) sized() part {
	n := p.u32()
	if n < 4 {
		p.fail("a part of %d bytes, its length of 4 included", n)
		n = 4
	}
	return part{p.reader, p.take(n - 4)}
}

// heap is where references of this part point to: MS-WMIO 2.2.66. The length's first bit is always set.
func (p *part) heap() heap { return heap{p.reader, p.take(p.u32() &^ (1 << 31))} }

type heap struct {
	*reader
	b []byte
}

// at is what a reference points to; ok is false where it is none.
func (h heap) at(ref uint32) (p part, ok bool) {
	if h.err != nil || ref == wmio.NULLRef {
		return part{h.reader, nil}, false
	}
	if uint64(ref) > uint64(len(h.b)) {
		h.fail("a reference to %d of a heap of %d bytes", ref, len(h.b))
		return part{h.reader, nil}, false
	}
	return part{h.reader, h.b[ref:]}, true
}

// text is the string of a reference: of the heap, or of the words that both sides know.
func (h heap) text(ref uint32) string {
	if ref != wmio.NULLRef && ref>>31 != 0 {
		return wmio.LookupDictionary(ref)
	}
	p, ok := h.at(ref)
	if !ok {
		return ""
	}
	return p.text()
}

// text is an encoded string: MS-WMIO 2.2.78. Its short form has the lower halves of UTF-16.
func (p *part) text() string {
	size := uint32(1)
	switch flag := p.u8(); flag {
	case 0:
	case 1:
		size = 2
	default:
		p.fail("a string of kind %#x", flag)
	}
	var units []uint16
	for p.spend(4) {
		u := uint16(p.number(size))
		if u == 0 {
			break
		}
		units = append(units, u)
	}
	p.spend(costItem)
	return string(utf16.Decode(units))
}

const (
	isClass    = uint8(wmio.ObjectFlagClass)
	isInstance = uint8(wmio.ObjectFlagInstance)
)

// object is an object's block, with its length before it: MS-WMIO 2.2.5.
func (p *part) object(depth int) *wmio.Object {
	if depth > maxDepth {
		p.fail("more than %d objects within each other", maxDepth)
	}
	in := part{p.reader, p.take(p.u32())}
	flags := in.u8()
	if wmio.ObjectFlag(flags)&^wmio.ObjectFlagMask != 0 || flags&(isClass|isInstance) == isClass|isInstance {
		p.fail("an object of kind %#x", flags)
	}
	o := &wmio.Object{IsQuery: wmio.ObjectFlag(flags)&wmio.ObjectFlagQuery != 0, Partial: wmio.ObjectFlag(flags)&wmio.ObjectFlagPartial != 0}
	if !p.spend(costObject) {
		return o
	}
	if wmio.ObjectFlag(flags)&wmio.ObjectFlagDecoration != 0 {
		o.Decoration = &wmio.Decoration{ServerName: in.text(), Namespace: in.text()}
	}
	switch {
	case flags&isClass != 0:
		o.Class = &wmio.ObjectClass{ParentClass: in.class(depth), ParentClassMethods: in.methods(depth), CurrentClass: in.class(depth),
			CurrentClassMethods: in.methods(depth)}
	case flags&isInstance != 0:
		o.Instance = in.instance(depth)
	}
	return o
}

// class is MS-WMIO 2.2.15.
func (p *part) class(depth int) (c wmio.Class) {
	in := p.sized()
	in.u8()
	name := in.u32()
	c.NDValueSize = in.u32()
	derivation, qualifiers := in.sized(), in.sized()
	n := in.u32()
	if n > maxProperties {
		p.fail("a class of %d properties", n)
		return c
	}
	lookup, values := part{p.reader, in.take(8 * n)}, part{p.reader, in.take(c.NDValueSize)}
	h := in.heap()
	c.Name = h.text(name)
	for len(derivation.b) > 0 && p.spend(costItem) {
		c.Derivation = append(c.Derivation, derivation.text())
		derivation.u32()
	}
	c.Qualifiers = qualifiers.qualifiers(h, depth)
	for range n {
		if !p.spend(costProperty) {
			return c
		}
		c.Properties = append(c.Properties, h.property(lookup.u32(), lookup.u32(), depth))
	}
	values.fill(byOrder(p.reader, c.Properties), h, depth)
	return c
}

// property is an entry of a class's table of them: MS-WMIO 2.2.20.
func (h heap) property(name, info uint32, depth int) *wmio.Property {
	p, ok := h.at(info)
	if !ok {
		h.fail("a property of which nothing is told")
	}
	o := &wmio.Property{Name: h.text(name)}
	kind := p.u32()
	o.Inherited = kind&wmio.Inherited != 0
	o.Value.Type = wmio.CIMType(kind &^ wmio.Inherited)
	o.Order, o.Offset, o.ClassOfOrigin = p.u16(), p.u32(), p.u32()
	list := p.sized()
	o.Qualifiers = list.qualifiers(h, depth)
	return o
}

// byOrder has the properties as they were declared, which is how the table of values has them.
func byOrder(r *reader, list []*wmio.Property) []*wmio.Property {
	sorted := make([]*wmio.Property, len(list))
	for _, p := range list {
		if r.err != nil || int(p.Order) >= len(sorted) || sorted[p.Order] != nil {
			r.fail("two properties in one place, or one in place %d of %d", p.Order, len(list))
			return nil
		}
		sorted[p.Order] = p
	}
	return sorted
}

// fill gives the properties their values: MS-WMIO 2.2.26. Two bits of each say that it is null, or its class's.
func (p *part) fill(list []*wmio.Property, h heap, depth int) {
	bits := p.take(uint32(len(list)+3) / 4)
	for i, o := range list {
		if p.err != nil {
			return
		}
		two := bits[i/4] >> (i % 4 * 2)
		o.Nullable, o.InheritDefault = two&1 != 0, two&2 != 0
		if o.Nullable || o.InheritDefault {
			continue
		}
		at, _ := heap{p.reader, p.b}.at(o.Offset)
		o.Value.Value = at.value(o.Value.Type, h, depth)
	}
}

// instance is MS-WMIO 2.2.53, behind its class.
func (p *part) instance(depth int) *wmio.Instance {
	o := &wmio.Instance{CurrentClass: p.class(depth)}
	in := p.sized()
	o.Flags = in.u8()
	name := in.u32()
	values, qualifiers := part{p.reader, in.take(o.CurrentClass.NDValueSize)}, in.sized()
	for _, c := range byOrder(p.reader, o.CurrentClass.Properties) {
		if !p.spend(costProperty) {
			return o
		}
		o.Properties = append(o.Properties, &wmio.Property{Name: c.Name, Value: c.Value, Offset: c.Offset, Order: c.Order})
	}
	var each []part
	switch flag := in.u8(); flag {
	case 1:
	case 2:
		for range o.Properties {
			each = append(each, in.sized())
		}
	default:
		p.fail("qualifiers of properties of kind %#x", flag)
	}
	h := in.heap()
	o.ClassName = h.text(name)
	o.Qualifiers = qualifiers.qualifiers(h, depth)
	for i := range each {
		o.Properties[i].Qualifiers = each[i].qualifiers(h, depth)
	}
	values.fill(o.Properties, h, depth)
	return o
}

// qualifiers are MS-WMIO 2.2.59, to the part's end.
func (p *part) qualifiers(h heap, depth int) (list []*wmio.Qualifier) {
	for len(p.b) > 0 && p.spend(costProperty) {
		q := &wmio.Qualifier{Name: h.text(p.u32()), Flavor: wmio.Flavor(p.u8())}
		q.Value.Type = wmio.CIMType(p.u32() &^ wmio.Inherited)
		q.Value.Value = p.value(q.Value.Type, h, depth)
		list = append(list, q)
	}
	return list
}

// methods are MS-WMIO 2.2.38.
func (p *part) methods(depth int) (list wmio.Methods) {
	const size = 24
	in := p.sized()
	n := in.u16()
	in.u16()
	if n > maxMethods {
		p.fail("a class of %d methods", n)
	}
	table := part{p.reader, in.take(size * uint32(n))}
	h := in.heap()
	for len(table.b) > 0 && p.spend(costProperty) {
		m := &wmio.Method{Name: h.text(table.u32()), Flags: table.u8()}
		table.take(3)
		m.Origin = table.u32()
		if at, ok := h.at(table.u32()); ok {
			own := at.sized()
			m.Qualifiers = own.qualifiers(h, depth)
		}
		for _, into := range []*wmio.Object{&m.InputSignature, &m.OutputSignature} {
			if at, ok := h.at(table.u32()); ok {
				*into = *at.object(depth + 1)
			}
		}
		list.Methods = append(list.Methods, m)
	}
	return list
}

// value is MS-WMIO 2.2.71: a number stands where it is, all else in the heap.
func (p *part) value(kind wmio.CIMType, h heap, depth int) any {
	if kind == 0 {
		return nil
	}
	if !kind.IsArray() {
		return p.scalar(kind, h, depth)
	}
	at, ok := h.at(p.u32())
	if !ok {
		return nil
	}
	return at.array(kind&^wmio.CIMArray, h, depth)
}

func (p *part) scalar(kind wmio.CIMType, h heap, depth int) any {
	switch kind {
	case wmio.Int8:
		return int8(p.u8())
	case wmio.Uint8:
		return p.u8()
	case wmio.Int16:
		return int16(p.u16())
	case wmio.Uint16, wmio.Rune:
		return p.u16()
	case wmio.Int32:
		return int32(p.u32())
	case wmio.Uint32:
		return p.u32()
	case wmio.Int64:
		return int64(p.number(8))
	case wmio.Uint64:
		return p.number(8)
	case wmio.Float32:
		return math.Float32frombits(p.u32())
	case wmio.Float64:
		return math.Float64frombits(p.number(8))
	case wmio.Bool:
		return p.u16() == 0xFFFF
	case wmio.String, wmio.DateTime, wmio.Ref:
		if ref := p.u32(); ref != wmio.NULLRef {
			return h.text(ref)
		}
		return nil
	case wmio.CIMObject:
		if at, ok := h.at(p.u32()); ok {
			return at.object(depth + 1)
		}
		return nil
	}
	p.fail("a value of kind %d", uint32(kind))
	return nil
}

// array is a count and that many values of a kind.
func (p *part) array(kind wmio.CIMType, h heap, depth int) any {
	switch kind {
	case wmio.Int8:
		return items(p, 1, func() int8 { return int8(p.u8()) })
	case wmio.Uint8:
		return items(p, 1, p.u8)
	case wmio.Int16:
		return items(p, 2, func() int16 { return int16(p.u16()) })
	case wmio.Uint16, wmio.Rune:
		return items(p, 2, p.u16)
	case wmio.Int32:
		return items(p, 4, func() int32 { return int32(p.u32()) })
	case wmio.Uint32:
		return items(p, 4, p.u32)
	case wmio.Int64:
		return items(p, 8, func() int64 { return int64(p.number(8)) })
	case wmio.Uint64:
		return items(p, 8, func() uint64 { return p.number(8) })
	case wmio.Float32:
		return items(p, 4, func() float32 { return math.Float32frombits(p.u32()) })
	case wmio.Float64:
		return items(p, 8, func() float64 { return math.Float64frombits(p.number(8)) })
	case wmio.Bool:
		return items(p, 2, func() bool { return p.u16() == 0xFFFF })
	case wmio.String, wmio.DateTime, wmio.Ref:
		return items(p, 4, func() string { return h.text(p.u32()) })
	case wmio.CIMObject:
		return items(p, 4, func() *wmio.Object {
			at, ok := h.at(p.u32())
			if !ok {
				return nil
			}
			return at.object(depth + 1)
		})
	}
	p.fail("an array of kind %d", uint32(kind))
	return nil
}

func items[T any](p *part, size int, one func() T) []T {
	n := p.u32()
	if uint64(n)*uint64(size) > uint64(len(p.b)) {
		p.fail("an array of %d where %d bytes are left", n, len(p.b))
	}
	if p.err != nil || !p.spend(int(n)*costItem) {
		return nil
	}
	list := make([]T, 0, n)
	for range n {
		if list = append(list, one()); p.err != nil {
			return nil
		}
	}
	return list
}
