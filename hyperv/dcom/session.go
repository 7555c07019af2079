package dcom

import (
	"context"
	"errors"
	"strings"
	"time"

	"github.com/oiweiwei/go-msrpc/msrpc/dcom"
	remunknown "github.com/oiweiwei/go-msrpc/msrpc/dcom/iremunknown/v0"
	"github.com/oiweiwei/go-msrpc/msrpc/dcom/oaut"
	"github.com/oiweiwei/go-msrpc/msrpc/dcom/wmi"
	enumerator "github.com/oiweiwei/go-msrpc/msrpc/dcom/wmi/ienumwbemclassobject/v0"
	level1 "github.com/oiweiwei/go-msrpc/msrpc/dcom/wmi/iwbemlevel1login/v0"
	services "github.com/oiweiwei/go-msrpc/msrpc/dcom/wmi/iwbemservices/v0"
	"github.com/oiweiwei/go-msrpc/msrpc/dcom/wmio"

	"github.com/hikae/hikae/hyperv/cim"
)

// maxAge keeps a session younger than the machine's patience: objects of a client that does not ping are collected after three periods
// of 120 s, MS-DCOM 3.1.1.1.
const maxAge = 4 * time.Minute

// session is one logon. Its calls are made one at a time.
type session struct {
	line             *line
	version          *dcom.COMVersion
	login, unknownAt *dcom.IPID
	front            level1.Level1LoginClient
	services         services.ServicesClient
	enums            enumerator.EnumClassObjectClient
	unknown          remunknown.RemoteUnknownClient

	born    time.Time
	spaces  map[string]*dcom.IPID   // namespaces that are open
	classes map[string]*wmio.Object // by namespace and name, in small letters
	users   int                     // enumerations under way
	retired bool
}

func (s *session) begin() {
	s.born, s.spaces, s.classes = time.Now(), map[string]*dcom.IPID{}, map[string]*wmio.Object{}
}

func (s *session) this() *dcom.ORPCThis { return &dcom.ORPCThis{Version: s.version} }

func bstr(s string) *oaut.String { return &oaut.String{Data: s} }

// open logs on to a namespace.
func (s *session) open(ctx context.Context, namespace string) (*dcom.IPID, error) {
	key := strings.ToLower(namespace)
	if at := s.spaces[key]; at != nil {
		return at, nil
	}
	got, err := s.front.NTLMLogin(ctx, &level1.NTLMLoginRequest{This: s.this(), NetworkResource: "//./" + namespace}, dcom.WithIPID(s.login))
	if got != nil {
		err = settle(got.Return, true, err)
	}
	if err = settle(0, false, err); err != nil {
		return nil, err
	}
	if got == nil || got.Namespace == nil {
		return nil, malformed("a namespace without an object")
	}
	s.spaces[key] = got.Namespace.InterfacePointer().IPID()
	return s.spaces[key], nil
}

// object reads an instance, or a class.
func (s *session) object(ctx context.Context, namespace, path string) (*wmio.Object, error) {
	at, err := s.open(ctx, namespace)
	if err != nil {
		return nil, err
	}
	got, err := s.services.GetObject(ctx, &services.GetObjectRequest{This: s.this(), ObjectPath: bstr(path), Object: &wmi.ClassObject{}}, dcom.WithIPID(at))
	if got != nil {
		err = settle(got.Return, true, err)
	}
	if err = settle(0, false, err); err != nil {
		return nil, err
	}
	return unpack(got.Object)
}

// input is the class of a method's parameters, and nil where it has none.
func (s *session) input(ctx context.Context, namespace, class, method string) (*wmio.Class, error) {
	key := strings.ToLower(namespace + ":" + class)
	obj := s.classes[key]
	if obj == nil {
		var err error
		if obj, err = s.object(ctx, namespace, class); err != nil {
			return nil, err
		}
		if obj.Class == nil {
			return nil, malformed("%s is no class", class)
		}
		s.classes[key] = obj
	}
	for _, list := range [][]*wmio.Method{obj.Class.CurrentClassMethods.Methods, obj.Class.ParentClassMethods.Methods} {
		for _, m := range list {
			if !strings.EqualFold(m.Name, method) {
				continue
			}
			if m.InputSignature.Class == nil {
				return nil, nil
			}
			return &m.InputSignature.Class.CurrentClass, nil
		}
	}
	return nil, &cim.Fault{Subcode: "InvalidParameter", HRESULT: wmiMethod, Reason: class + " has no method " + method}
}

// prepare makes the parameters of a method; nothing of it changes the machine.
func (s *session) prepare(ctx context.Context, r cim.Ref, method string, args []cim.Property) (*wmi.ClassObject, error) {
	class, err := s.input(ctx, r.Namespace, r.Class, method)
	if err != nil {
		return nil, err
	}
	if class == nil {
		if len(args) > 0 {
			return nil, errors.Join(cim.ErrArgument, errors.New("the method takes no parameters"))
		}
		return nil, nil
	}
	in, err := fill(*class, args)
	if err != nil {
		return nil, err
	}
	return pack(in)
}

// release lets the machine forget an object. It would by itself, later.
func (s *session) release(ctx context.Context, at *dcom.IPID) {
	if s.unknown == nil {
		return
	}
	_, _ = s.unknown.RemoteRelease(ctx, &remunknown.RemoteReleaseRequest{This: s.this(), InterfaceReferencesCount: 1,
		InterfaceReferences: []*dcom.RemoteInterfaceReference{{IPID: at, PublicReferencesCount: 5}}}, dcom.WithIPID(s.unknownAt))
}
