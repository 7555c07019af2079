package dcom

import (
	"errors"
	"fmt"
	"strings"

	dcerr "github.com/oiweiwei/go-msrpc/dcerpc/errors"

	"github.com/hikae/hikae/hyperv/cim"
)

// Codes: WBEM_E_* of WMI, and the system's.
const (
	wmiDenied     = 0x80041003
	wmiProvider   = 0x80041004
	wmiQueryType  = 0x80041018
	wmiMethod     = 0x8004102E
	wmiParameters = 0x8004102F
	wmiPath       = 0x8004103A
	wmiTimedOut   = 0x80041069
	wmiQuota      = 0x8004106C
	sysDenied     = 0x80070005
	rpcDenied     = 5
)

// subcodes are what WS-Management calls the same: by them [cim.Fault] sorts codes that it does not know.
var subcodes = map[uint32]string{
	wmiDenied: "AccessDenied", sysDenied: "AccessDenied", rpcDenied: "AccessDenied", wmiQueryType: "CannotProcessFilter",
	wmiMethod: "InvalidParameter", wmiParameters: "InvalidParameter", wmiPath: "InvalidParameter", wmiTimedOut: "TimedOut", wmiQuota: "QuotaLimit",
}

// fault is a service's status as an error; zero and the other codes of success are none.
func fault(code int32, err error) error {
	c := uint32(code)
	if code >= 0 && c != rpcDenied {
		return err
	}
	f := &cim.Fault{Subcode: subcodes[c], HRESULT: c}
	if f.Subcode == "" {
		f.Subcode = "InternalError"
	}
	if c == wmiProvider {
		f.Reason = "the class's provider failed"
	}
	if err != nil && f.Reason == "" {
		f.Reason = strings.ToValidUTF8(err.Error()[:min(len(err.Error()), 400)], "")
	}
	return f
}

// rpcFault is the refusal of the call itself, before any service saw it; nil where err is something else.
func rpcFault(err error) *cim.Fault {
	var known *dcerr.RPCError
	if errors.As(err, &known) {
		return &cim.Fault{Subcode: "InternalError", Code: known.Code, Reason: known.Error()}
	}
	var other *dcerr.Error
	if !errors.As(err, &other) {
		return nil
	}
	code, ok := other.Value.(uint32)
	if !ok {
		return nil
	}
	f := &cim.Fault{Subcode: subcodes[code], Code: code, Reason: "the call was refused"}
	if f.Subcode == "" {
		f.Subcode = "InternalError"
	}
	return f
}

// settle makes an error of a call's: of its status where it was answered, else of the way there.
func settle(code int32, answered bool, err error) error {
	if answered && code < 0 {
		return fault(code, err)
	}
	if f := rpcFault(err); f != nil {
		return f
	}
	return err
}

// unknown marks what is not known to have been refused.
func unknown(err error) error {
	var f *cim.Fault
	if errors.As(err, &f) && !errors.Is(err, cim.ErrTimedOut) || errors.Is(err, errKilled) || errors.Is(err, cim.ErrArgument) {
		return err
	}
	return &cim.UnknownError{Err: err}
}

func about(op, object string, err error) error {
	const most = 400
	if len(object) > most {
		object = strings.ToValidUTF8(object[:most], "") + "…"
	}
	return &cim.OpError{Op: op, Object: object, Err: err}
}

func malformed(format string, args ...any) error {
	return fmt.Errorf("%w: %s", cim.ErrMalformed, fmt.Sprintf(format, args...))
}
