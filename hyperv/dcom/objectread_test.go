package dcom

import (
	"encoding/binary"
	"runtime"
	"testing"
	"time"

	"github.com/oiweiwei/go-msrpc/msrpc/dcom/wmio"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae/hyperv/cim"
)

// every has a value of each kind, an object within it among them.
func every(t testing.TB) *wmio.Object {
	t.Helper()
	kinds, values := allKinds(t)
	return objectOf(kinds, values)
}

func allKinds(t testing.TB) (kinds []wmio.CIMType, values []any) {
	t.Helper()
	inner, err := fill(classOf("Inner", wmio.String), []cim.Property{{Name: "InstanceID", Value: "within"}})
	require.NoError(t, err)
	values = []any{"Ü", int8(-1), uint8(2), int16(-3), uint16(4), int32(-5), uint32(6), int64(-7), uint64(8), float32(1.5), 2.5, true, "20260101000000.000000+000",
		[]uint8{1, 2}, []uint16{3}, []int32{-4}, []uint64{5, 6}, []float64{7}, []bool{true, false}, []string{"a", "key"}, inner, []*wmio.Object{inner, inner}}
	kinds = []wmio.CIMType{wmio.String, wmio.Int8, wmio.Uint8, wmio.Int16, wmio.Uint16, wmio.Int32, wmio.Uint32, wmio.Int64, wmio.Uint64, wmio.Float32, wmio.Float64,
		wmio.Bool, wmio.DateTime, wmio.Uint8Array, wmio.Uint16Array, wmio.Int32Array, wmio.Uint64Array, wmio.Float64Array, wmio.BoolArray, wmio.StringArray,
		wmio.CIMObject, wmio.CIMObjectArray}
	return kinds, values
}

func objectOf(kinds []wmio.CIMType, values []any) *wmio.Object {
	class := wmio.Class{Name: "Everything", Derivation: []string{"Base", "Root"}}
	in := &wmio.Instance{ClassName: class.Name}
	offset := uint32(0)
	for i, k := range kinds {
		v := wmio.Value{Type: k, Value: values[i]}
		class.Properties = append(class.Properties, &wmio.Property{Name: string(rune('A' + i)), Order: uint16(i), Offset: offset, Nullable: true, Value: wmio.Value{Type: k}})
		in.Properties = append(in.Properties, &wmio.Property{Name: string(rune('A' + i)), Value: v})
		offset += uint32(v.EncodeValueSize())
	}
	class.NDValueSize = offset + uint32(len(kinds)+3)/4
	in.CurrentClass = class
	return &wmio.Object{Instance: in, Decoration: &wmio.Decoration{ServerName: "HV1", Namespace: "root"}}
}

func marshalled(t testing.TB, o *wmio.Object) []byte {
	t.Helper()
	b, err := wmio.Marshal(o)
	require.NoError(t, err)
	return b
}

// classWithMethod is an object that is a class.
func classWithMethod() *wmio.Object {
	class := classOf("Msvm_Service", wmio.String, wmio.Uint16Array)
	in := wmio.Object{Class: &wmio.ObjectClass{CurrentClass: classOf("__PARAMETERS", wmio.String)}}
	return &wmio.Object{Class: &wmio.ObjectClass{CurrentClass: class, CurrentClassMethods: wmio.Methods{
		Methods: []*wmio.Method{{Name: "Do", Origin: 1, InputSignature: in}}}}}
}

// What we read of an object is what the library reads, of what both can.
func TestReadsAsTheLibrary(t *testing.T) {
	for _, o := range []*wmio.Object{every(t), classWithMethod()} {
		b := marshalled(t, o)
		theirs, err := wmio.Unmarshal(b)
		require.NoError(t, err)
		ours, err := readObject(b)
		require.NoError(t, err)
		assert.Equal(t, valuesOf(theirs), valuesOf(ours))
		assert.Equal(t, marshalled(t, theirs), marshalled(t, ours))
	}
}

func valuesOf(o *wmio.Object) any {
	if o.Instance == nil {
		return o.Properties()
	}
	return o.Values()
}

// forged is an instance of a class with one property of a kind, its heap made by hand. Its class's heap holds what names need.
func forged(kind wmio.CIMType, heap []byte) []byte {
	le := binary.LittleEndian
	sized := func(b []byte) []byte { return append(le.AppendUint32(nil, uint32(len(b)+4)), b...) }
	class := append([]byte{0}, 0, 0, 0, 0) // its name: at 0
	class = le.AppendUint32(class, 5)
	class = append(append(class, sized(nil)...), sized(nil)...)
	class = le.AppendUint32(class, 1)
	class = le.AppendUint32(le.AppendUint32(class, 0), 3)
	class = append(class, 1, 0, 0, 0, 0)
	own := le.AppendUint32([]byte{0, 'C', 0}, uint32(kind))
	own = append(own, make([]byte, 10)...)
	own = append(own, sized(nil)...)
	class = append(le.AppendUint32(class, uint32(len(own))|1<<31), own...)
	body := append([]byte{0}, 0xFF, 0xFF, 0xFF, 0xFF) // flags, no name
	body = append(body, 0, 0, 0, 0, 0)                // a value, at 0 of the heap
	body = append(append(body, sized(nil)...), 1)
	body = append(le.AppendUint32(body, uint32(len(heap))|1<<31), heap...)
	block := append([]byte{isInstance}, append(sized(class), sized(body)...)...)
	return append(le.AppendUint32(le.AppendUint32(nil, signature), uint32(len(block))), block...)
}

// repeated is an array of n references to one string, which is as long as what is left of a mebibyte.
func repeated(n int) []byte {
	b := binary.LittleEndian.AppendUint32(nil, uint32(n))
	for range n {
		b = binary.LittleEndian.AppendUint32(b, uint32(4+4*n))
	}
	b = append(b, 0)
	for len(b) < maxObject-256 {
		b = append(b, 'x')
	}
	return append(b, 0)
}

// within has an object in its heap, many times over, whose own heap has another, and so on.
func within(depth int) []byte {
	if depth == 0 {
		return forged(wmio.Uint8Array, []byte{0, 0, 0, 0})
	}
	const n = 64
	b := binary.LittleEndian.AppendUint32(nil, n)
	for range n {
		b = binary.LittleEndian.AppendUint32(b, 4+4*n)
	}
	return forged(wmio.CIMObjectArray, append(b, within(depth - 1)[4:]...))
}

// A machine that lies of lengths, counts, references or nesting gets an error of a kind, soon, and little memory: within the second
// and the 128 MiB that the package's comment says.
func TestHostileObjects(t *testing.T) {
	le := binary.LittleEndian
	good := marshalled(t, every(t))
	hostile := map[string][]byte{
		"array of 2^31":           forged(wmio.Uint64Array, le.AppendUint32(nil, 1<<31-1)),
		"strings of 2^31":         forged(wmio.StringArray, le.AppendUint32(nil, 1<<31-1)),
		"objects of 2^32":         forged(wmio.CIMObjectArray, le.AppendUint32(nil, 1<<32-1)),
		"booleans that are short": forged(wmio.BoolArray, append(le.AppendUint32(nil, 100000), make([]byte, 1000)...)),
		"one string again":        forged(wmio.StringArray, repeated(100_000)),
		"objects within":          within(3),
		"objects too deep":        within(maxDepth + 1),
		"kind that is none":       forged(wmio.CIMType(77), make([]byte, 64)),
		"array of what is none":   forged(wmio.CIMType(77)|wmio.CIMArray, make([]byte, 64)),
		"string of what is none":  forged(wmio.String, []byte{9, 'x', 0}),
		"string without end":      forged(wmio.String, []byte{0, 'x'}),
		"object in itself":        forged(wmio.CIMObject, []byte{0xFF, 0xFF, 0xFF, 0x7F, isInstance}),
		"nothing":                 nil,
		"signature alone":         good[:4],
		"length that is too long": append(le.AppendUint32(good[:4:4], 1<<31), good[8:]...),
	}
	for name, b := range hostile {
		t.Run(name, func(t *testing.T) {
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			begun := time.Now()
			_, err := readObject(b)
			took := time.Since(begun)
			runtime.ReadMemStats(&after)
			require.ErrorIs(t, err, cim.ErrMalformed)
			require.Less(t, took, 20*time.Second) // a second, on a machine that does nothing else
			require.Less(t, after.TotalAlloc-before.TotalAlloc, uint64(128<<20))
		})
	}
	o, err := readObject(forged(wmio.Uint64Array, append(le.AppendUint32(nil, 1), 7, 0, 0, 0, 0, 0, 0, 0)))
	require.NoError(t, err, "what is forged is an object but for its lie")
	require.Equal(t, []uint64{7}, o.Instance.Properties[0].Value.Value)
}

// Each single byte of an object changed, to the values that lengths and references are most hurt by.
func TestEachByteChanged(t *testing.T) {
	for _, o := range []*wmio.Object{every(t), classWithMethod()} {
		whole := marshalled(t, o)
		for i := range whole {
			for _, to := range []byte{0, 1, 0x7F, 0x80, 0xFF, whole[i] ^ 1} {
				b := append([]byte(nil), whole...)
				b[i] = to
				readOrRefuse(t, b)
			}
		}
	}
}

func readOrRefuse(t testing.TB, b []byte) {
	t.Helper()
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	o, err := readObject(b)
	if err == nil {
		_, err = decode(o, cim.Virtualization, 0)
	} else {
		require.ErrorIs(t, err, cim.ErrMalformed)
	}
	runtime.ReadMemStats(&after)
	require.Less(t, after.TotalAlloc-before.TotalAlloc, uint64(128<<20), "%v", err)
}

// The seeds are small: what a fuzzer finds it makes smaller by leaving out each range of bytes, which takes the square of the length, and
// finds nothing else meanwhile.
func FuzzObject(f *testing.F) {
	kinds, values := allKinds(f)
	for i := range kinds {
		f.Add(marshalled(f, objectOf(kinds[i:i+1], values[i:i+1])))
	}
	f.Add(marshalled(f, classWithMethod()))
	f.Add(within(1))
	f.Add(forged(wmio.StringArray, repeated(10)[:200]))
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) > maxObject {
			return
		}
		readOrRefuse(t, b)
	})
}
