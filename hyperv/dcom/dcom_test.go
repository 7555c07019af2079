package dcom

import (
	"context"
	"errors"
	"io/fs"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/oiweiwei/go-msrpc/dcerpc"
	"github.com/oiweiwei/go-msrpc/msrpc/dcom"
	"github.com/oiweiwei/go-msrpc/msrpc/dcom/wmi"
	enumerator "github.com/oiweiwei/go-msrpc/msrpc/dcom/wmi/ienumwbemclassobject/v0"
	level1 "github.com/oiweiwei/go-msrpc/msrpc/dcom/wmi/iwbemlevel1login/v0"
	services "github.com/oiweiwei/go-msrpc/msrpc/dcom/wmi/iwbemservices/v0"
	"github.com/oiweiwei/go-msrpc/msrpc/dcom/wmio"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/hikae/hikae/hyperv/cim"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// classOf makes a class with values in a row, the first of which is its key.
func classOf(name string, kinds ...wmio.CIMType) wmio.Class {
	names := []string{"InstanceID", "B", "C", "D", "E", "F", "G"}
	c := wmio.Class{Name: name}
	offset := uint32(0)
	for i, k := range kinds {
		p := &wmio.Property{Name: names[i], Order: uint16(i), Offset: offset, Nullable: true, Value: wmio.Value{Type: k}}
		if i == 0 {
			p.Qualifiers = []*wmio.Qualifier{{Name: "key", Value: wmio.Value{Type: wmio.Bool, Value: true}}}
		}
		offset += uint32(p.Value.EncodeValueSize())
		c.Properties = append(c.Properties, p)
	}
	c.NDValueSize = offset + uint32(len(kinds)+3)/4
	return c
}

// packed takes an instance over the wire's form, as a machine sends it.
func packed(t *testing.T, class wmio.Class, values ...cim.Property) *wmi.ClassObject {
	t.Helper()
	obj, err := fill(class, values)
	require.NoError(t, err)
	o, err := pack(obj)
	require.NoError(t, err)
	return o
}

var ours = cim.Ref{Namespace: cim.Virtualization, Class: "Msvm_ComputerSystem", Keys: []cim.Key{{Name: "Name", Value: `a "b"`}}}

func TestInstanceThereAndBack(t *testing.T) {
	class := classOf("Msvm_X", wmio.String, wmio.Uint16, wmio.Bool, wmio.Ref, wmio.Uint64Array, wmio.StringArray, wmio.Int64)
	obj, err := unpack(packed(t, class, cim.Property{Name: "instanceid", Value: "Microsoft:Ü"}, cim.Property{Name: "B", Value: uint16(65535)},
		cim.Property{Name: "C", Value: true}, cim.Property{Name: "D", Value: ours}, cim.Property{Name: "E", Value: []uint64{0, 1<<64 - 1}},
		cim.Property{Name: "F", Value: []string{"", "x"}}, cim.Property{Name: "G", Value: nil}))
	require.NoError(t, err)
	in, err := decode(obj, cim.Virtualization, 0)
	require.NoError(t, err)
	var got struct {
		ID  string   `cim:"InstanceID"`
		B   uint16   `cim:"B"`
		C   bool     `cim:"C"`
		Ref cim.Ref  `cim:"D"`
		E   []uint64 `cim:"E"`
		F   []string `cim:"F"`
		G   *int64   `cim:"G"`
	}
	require.NoError(t, in.Decode(&got))
	assert.Equal(t, "Microsoft:Ü", got.ID)
	assert.Equal(t, uint16(65535), got.B)
	assert.True(t, got.C)
	assert.True(t, ours.Same(got.Ref), got.Ref.String())
	assert.Equal(t, []uint64{0, 1<<64 - 1}, got.E)
	assert.Equal(t, []string{"", "x"}, got.F)
	assert.Nil(t, got.G)
	assert.Equal(t, `Msvm_X.InstanceID="Microsoft:Ü"`, in.Ref.String())
}

func TestArgumentsThatDoNotFit(t *testing.T) {
	class := classOf("P", wmio.String, wmio.Uint16, wmio.Uint64Array)
	for _, bad := range []cim.Property{{Name: "B", Value: 70000}, {Name: "B", Value: uint32(70000)}, {Name: "B", Value: "x"}, {Name: "Z", Value: "x"},
		{Name: "C", Value: uint64(1)}, {Name: "B", Value: []uint16{1}}, {Name: "InstanceID", Value: struct{}{}}, {Name: "InstanceID", Value: cim.Ref{}}} {
		_, err := fill(class, []cim.Property{bad})
		assert.ErrorIs(t, err, cim.ErrArgument, "%v", bad)
	}
}

// A machine's table of properties is by name, and its values are as they were declared: what is filled in is of the property that was
// named, to our reader and the library's, and the table goes back as it came.
func TestTableByName(t *testing.T) {
	class := classOf("__PARAMETERS", wmio.String, wmio.Uint16, wmio.String, wmio.Uint64)
	for i, name := range []string{"Zone", "Kind", "Address", "Size"} {
		class.Properties[i].Name = name
	}
	slices.SortFunc(class.Properties, func(a, b *wmio.Property) int { return strings.Compare(a.Name, b.Name) })
	o := packed(t, class, cim.Property{Name: "Size", Value: uint64(9)}, cim.Property{Name: "zone", Value: "z"}, cim.Property{Name: "Kind", Value: nil},
		cim.Property{Name: "Address", Value: "a"})
	obj, err := unpack(o)
	require.NoError(t, err)
	in, err := decode(obj, cim.Virtualization, 0)
	require.NoError(t, err)
	require.Equal(t, []string{"z", "", "a", "9"}, []string{in.Text("Zone"), in.Text("Kind"), in.Text("Address"), in.Text("Size")})
	filled, err := fill(class, []cim.Property{{Name: "Size", Value: uint64(9)}, {Name: "Zone", Value: "z"}})
	require.NoError(t, err)
	data, err := marshal(filled)
	require.NoError(t, err)
	theirs, err := wmio.Unmarshal(data)
	require.NoError(t, err)
	require.Equal(t, "z", theirs.Values()["Zone"])
	require.Equal(t, uint64(9), theirs.Values()["Size"])
	var names []string
	for _, p := range obj.Instance.CurrentClass.Properties {
		names = append(names, p.Name)
	}
	require.Equal(t, []string{"Address", "Kind", "Size", "Zone"}, names)

	class.Properties[0].Order = class.Properties[1].Order
	_, err = fill(class, nil)
	require.ErrorIs(t, err, cim.ErrMalformed)
}

// What a machine cut or changed is an error, and no panic.
func TestMalformedObjects(t *testing.T) {
	whole := packed(t, classOf("P", wmio.String, wmio.Uint16), cim.Property{Name: "InstanceID", Value: "long enough"}).Data
	for n := range whole {
		_, err := unpack(&wmi.ClassObject{Data: whole[:n]})
		require.ErrorIs(t, err, cim.ErrMalformed, "%d of %d bytes", n, len(whole))
	}
	for _, bad := range []*wmi.ClassObject{nil, {}, {Data: make([]byte, 100)}, {Data: make([]byte, maxObject+1)}} {
		_, err := unpack(bad)
		assert.ErrorIs(t, err, cim.ErrMalformed)
	}
}

func TestErrors(t *testing.T) {
	for code, want := range map[uint32]error{0x80041002: fs.ErrNotExist, 0x80041010: fs.ErrNotExist, wmiDenied: fs.ErrPermission, sysDenied: fs.ErrPermission,
		0x80041017: cim.ErrQuery, wmiMethod: cim.ErrArgument, wmiQuota: cim.ErrBusy, wmiTimedOut: cim.ErrTimedOut} {
		err := settle(int32(code), true, errors.New("said"))
		var f *cim.Fault
		require.ErrorAs(t, err, &f)
		assert.ErrorIs(t, err, want, "%#x", code)
		assert.Equal(t, code, f.HRESULT)
	}
	assert.NoError(t, settle(0, true, nil))
	var u *cim.UnknownError
	assert.ErrorAs(t, unknown(errors.New("cut")), &u)
	assert.False(t, errors.As(unknown(&cim.Fault{Subcode: "AccessDenied"}), &u))
	assert.ErrorAs(t, unknown(settle(int32(-0x7ffbef97), true, nil)), &u) // 0x80041069: timed out
}

func TestPortOf(t *testing.T) {
	for in, want := range map[string]string{"HV1[49666]": "49666", "10.0.0.1[135]": "135", "[1]": "1", "HV1": "", "HV1[0]": "", "HV1[70000]": "", "HV1[1": "", "HV1[1]x": ""} {
		assert.Equal(t, want, portOf(in), in)
	}
}

// fakes answer below the library's client interfaces: real objects in the wire's form, and no wire.
type fakeFront struct {
	level1.Level1LoginClient
	seen []string
}

func (f *fakeFront) NTLMLogin(_ context.Context, in *level1.NTLMLoginRequest, _ ...dcerpc.CallOption) (*level1.NTLMLoginResponse, error) {
	f.seen = append(f.seen, in.NetworkResource)
	return &level1.NTLMLoginResponse{Namespace: &wmi.Services{}}, nil
}

type fakeServices struct {
	services.ServicesClient
	t      *testing.T
	get    map[string]*wmi.ClassObject
	paths  []string
	args   *cim.Instance
	out    *wmi.ClassObject
	status uint32
}

var errStatus = errors.New("a status")

func (f *fakeServices) GetObject(_ context.Context, in *services.GetObjectRequest, _ ...dcerpc.CallOption) (*services.GetObjectResponse, error) {
	if o := f.get[in.ObjectPath.Data]; o != nil {
		return &services.GetObjectResponse{Object: o}, nil
	}
	return &services.GetObjectResponse{Return: -0x7ffbeffe}, errStatus // 0x80041002
}

func (f *fakeServices) ExecMethod(_ context.Context, in *services.ExecMethodRequest, _ ...dcerpc.CallOption) (*services.ExecMethodResponse, error) {
	f.paths = append(f.paths, in.ObjectPath.Data+" "+in.MethodName.Data)
	if f.status != 0 {
		return &services.ExecMethodResponse{Return: int32(f.status)}, errStatus
	}
	obj, err := unpack(in.InParams)
	require.NoError(f.t, err)
	f.args, err = decode(obj, cim.Virtualization, 0)
	require.NoError(f.t, err)
	return &services.ExecMethodResponse{OutParams: f.out}, nil
}

func (f *fakeServices) ExecQuery(_ context.Context, in *services.ExecQueryRequest, _ ...dcerpc.CallOption) (*services.ExecQueryResponse, error) {
	f.paths = append(f.paths, in.Query.Data)
	return &services.ExecQueryResponse{Enum: &wmi.EnumClassObject{}}, nil
}

type fakeEnum struct {
	enumerator.EnumClassObjectClient
	pages [][]*wmi.ClassObject
}

func (f *fakeEnum) Next(ctx context.Context, in *enumerator.NextRequest, _ ...dcerpc.CallOption) (*enumerator.NextResponse, error) {
	if f.pages == nil { // silent
		<-ctx.Done()
		return nil, ctx.Err()
	}
	page := f.pages[0]
	f.pages = f.pages[1:]
	out := &enumerator.NextResponse{Count: in.Count, Objects: page, Returned: uint32(len(page))}
	if len(f.pages) == 0 {
		out.Return = nextOver
		return out, errStatus
	}
	return out, nil
}

func fakeClient(t *testing.T, sv *fakeServices, en *fakeEnum) (cim.Caller, *fakeFront) {
	front := &fakeFront{}
	c := &client{opts: (*Options)(nil).withDefaults(), turn: make(chan struct{}, 1)}
	c.connect = func(context.Context) (*session, error) {
		near, far := net.Pipe()
		t.Cleanup(func() { far.Close() })
		s := &session{line: newLine(near), version: &dcom.COMVersion{MajorVersion: 5, MinorVersion: 7}, login: &dcom.IPID{}, front: front, services: sv, enums: en}
		s.begin()
		return s, nil
	}
	t.Cleanup(func() { c.Close() })
	return cim.Complete(c), front
}

func TestRunCallsTheInstanceByItsPath(t *testing.T) {
	in := classOf("__PARAMETERS", wmio.String, wmio.Uint16)
	class := &wmio.Object{Class: &wmio.ObjectClass{CurrentClass: classOf("Msvm_Service", wmio.String), CurrentClassMethods: wmio.Methods{
		Methods: []*wmio.Method{{Name: "Do", InputSignature: wmio.Object{Class: &wmio.ObjectClass{CurrentClass: in}}}}}}}
	packedClass, err := pack(class)
	require.NoError(t, err)
	result := classOf("__PARAMETERS", wmio.Uint32)
	result.Properties[0].Name = "ReturnValue"
	sv := &fakeServices{t: t, get: map[string]*wmi.ClassObject{"Msvm_Service": packedClass}, out: packed(t, result, cim.Property{Name: "ReturnValue", Value: uint32(32775)})}
	c, front := fakeClient(t, sv, &fakeEnum{})
	service := cim.Ref{Namespace: cim.Virtualization, Class: "Msvm_Service", Keys: []cim.Key{{Name: "Name", Value: "x"}}}

	_, err = c.Run(t.Context(), service, "Do", []cim.Property{{Name: "InstanceID", Value: "a"}, {Name: "B", Value: uint16(7)}}, nil)
	var refused *cim.ReturnError
	require.ErrorAs(t, err, &refused)
	assert.Equal(t, uint32(32775), refused.Code)
	assert.Equal(t, []string{`Msvm_Service.Name="x" Do`}, sv.paths)
	assert.Equal(t, "7", sv.args.Text("B"))
	assert.Equal(t, []string{"//./root/virtualization/v2"}, front.seen)

	_, err = c.Invoke(t.Context(), service, "No", nil)
	require.ErrorIs(t, err, cim.ErrArgument)
	sv.status = wmiDenied
	_, err = c.Invoke(t.Context(), service, "Do", nil)
	require.ErrorIs(t, err, fs.ErrPermission)
	_, err = c.Get(t.Context(), service)
	require.ErrorIs(t, err, fs.ErrNotExist)
}

func TestQueryPages(t *testing.T) {
	class := classOf("Msvm_X", wmio.String)
	one := func(id string) *wmi.ClassObject { return packed(t, class, cim.Property{Name: "InstanceID", Value: id}) }
	sv := &fakeServices{t: t}
	c, _ := fakeClient(t, sv, &fakeEnum{pages: [][]*wmi.ClassObject{{one("a"), one("b")}, {one("c")}}})
	list, err := cim.All(c.Associators(t.Context(), ours, cim.Hop{Result: "Msvm_X"}, &cim.QueryOptions{Refs: true}))
	require.NoError(t, err)
	require.Len(t, list, 3)
	assert.Equal(t, `Msvm_X.InstanceID="c"`, list[2].Ref.String())
	assert.Equal(t, []string{`ASSOCIATORS OF {Msvm_ComputerSystem.Name="a \"b\""} WHERE ResultClass = Msvm_X`}, sv.paths)

	c, _ = fakeClient(t, sv, &fakeEnum{pages: [][]*wmi.ClassObject{{one("a"), one("b")}, {}}})
	_, err = cim.All(c.Query(t.Context(), "root", "SELECT * FROM X", &cim.QueryOptions{MaxItems: 1}))
	require.ErrorIs(t, err, cim.ErrTooLarge)
	_, err = cim.All(c.Query(t.Context(), "root", strings.Repeat("x", maxQuery+1), nil))
	require.ErrorIs(t, err, cim.ErrArgument)
}

// A machine that falls silent costs the call, and not the client: the next one makes a connection of its own.
func TestSilentCallEnds(t *testing.T) {
	en := &fakeEnum{}
	c, front := fakeClient(t, &fakeServices{t: t}, en)
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	_, err := cim.All(c.Query(ctx, "root", "SELECT * FROM X", nil))
	require.ErrorIs(t, err, context.DeadlineExceeded)
	en.pages = [][]*wmi.ClassObject{{}}
	_, err = cim.All(c.Query(t.Context(), "root", "SELECT * FROM X", nil))
	require.NoError(t, err)
	assert.Len(t, front.seen, 2)
}

func TestDialFailures(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer l.Close()
	var reach *cim.ReachError
	began := time.Now()
	_, err = Dial(t.Context(), l.Addr().String(), cim.Login{User: `CORP\eva`, Password: "hunter2"}, &Options{Logon: 200 * time.Millisecond})
	require.ErrorAs(t, err, &reach)
	require.ErrorIs(t, err, context.DeadlineExceeded)
	assert.Equal(t, "login", reach.Step)
	assert.NotContains(t, err.Error(), "hunter2")
	assert.Less(t, time.Since(began), 5*time.Second)

	gone := l.Addr().String()
	l.Close()
	_, err = Dial(t.Context(), gone, cim.Login{User: "eva"}, nil)
	require.ErrorAs(t, err, &reach)
	assert.Equal(t, "connect", reach.Step)
	_, err = Dial(t.Context(), gone, cim.Login{User: "eva", Realm: "CORP"}, nil)
	require.ErrorIs(t, err, errors.ErrUnsupported)
}
