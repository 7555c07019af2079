package cim

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"strconv"
	"strings"

	"github.com/hikae/hikae/internal/winrm"
)

// What errors.Is finds in a Fault, besides fs.ErrNotExist and fs.ErrPermission.
var (
	ErrTimedOut = errors.New("the service needs more time")
	ErrBusy     = errors.New("a limit of the service is reached")
	ErrTooLarge = errors.New("what was asked for does not fit an answer")
	ErrQuery    = errors.New("the service does not take this query")
	ErrArgument = errors.New("an argument is not what is expected")
)

// Fault is what the service says that went wrong.
type Fault struct {
	Subcode  string // AccessDenied, TimedOut, DestinationUnreachable …, as the protocol calls it
	Detail   string // the last word of the detail's URI; empty where there is none
	Code     uint32 // of WS-Management on Windows; zero where there is none
	HRESULT  uint32 // of WMI, where it came from there: 0x80041002 …; zero where it did not
	Reason   string // in words, at most 2000 bytes
	Provider string // what the class's provider said; empty where it said nothing
}

func (f *Fault) Error() string {
	s := f.Subcode
	if f.HRESULT != 0 {
		s += fmt.Sprintf(" (WMI 0x%08X)", f.HRESULT)
	} else if f.Code != 0 {
		s += fmt.Sprintf(" (0x%08X)", f.Code)
	}
	if f.Provider != "" && f.Provider != f.Reason {
		return s + ": " + line(f.Reason) + ": " + line(f.Provider)
	}
	return s + ": " + line(f.Reason)
}

func line(s string) string { return strings.Join(strings.Fields(s), " ") }

// Codes: WBEM_E_* of WMI, ERROR_WSMAN_* of the service.
const (
	wmiNotFound     = 0x80041002
	wmiDenied       = 0x80041003
	wmiParameter    = 0x80041008
	wmiNamespace    = 0x8004100E
	wmiClass        = 0x80041010
	wmiQuery        = 0x80041017
	wmiNoMethod     = 0x80041055
	winDenied       = 5
	manTimedOut     = 0x80338029
	manQuotaUser    = 0x803381A5
	manConcurrent   = 0x803381A6
	manBadSelectors = 0x8033805B
)

// Is sorts a fault under what callers act on.
func (f *Fault) Is(target error) bool {
	switch target {
	case fs.ErrNotExist:
		return f.Subcode == "DestinationUnreachable" || f.Subcode == "InvalidSelectors" || f.Code == manBadSelectors ||
			f.HRESULT == wmiNotFound || f.HRESULT == wmiNamespace || f.HRESULT == wmiClass
	case fs.ErrPermission:
		return f.Subcode == "AccessDenied" || f.Code == winDenied || f.HRESULT == wmiDenied
	case ErrTimedOut:
		return f.Subcode == "TimedOut" || f.Code == manTimedOut
	case ErrBusy:
		return f.Subcode == "QuotaLimit" || f.Subcode == "Concurrency" || f.Code == manQuotaUser || f.Code == manConcurrent
	case ErrTooLarge:
		return f.Subcode == "EncodingLimit"
	case ErrQuery:
		return f.Subcode == "CannotProcessFilter" || f.Subcode == "FilteringNotSupported" || f.Subcode == "FilterDialectRequestedUnavailable" ||
			f.HRESULT == wmiQuery
	case ErrArgument:
		return f.Subcode == "InvalidParameter" || f.HRESULT == wmiParameter || f.HRESULT == wmiNoMethod
	}
	return false
}

const maxWords = 2000

func cut(s string) string { return s[:min(len(s), maxWords)] }

// readFault takes what a fault has: DSP0226 14, [MS-WSMV] 2.2.4.43 to 2.2.4.45.
func readFault(n *node) *Fault {
	f := &Fault{Reason: cut(n.child(nsSOAP, "Reason").child(nsSOAP, "Text").words())}
	code := n.child(nsSOAP, "Code")
	sub := code.child(nsSOAP, "Subcode").child(nsSOAP, "Value").words()
	if sub == "" {
		sub = code.child(nsSOAP, "Value").words()
	}
	f.Subcode = cut(sub[strings.LastIndexByte(sub, ':')+1:])
	d := n.child(nsSOAP, "Detail")
	uri := d.child(nsMan, "FaultDetail").words()
	f.Detail = cut(uri[strings.LastIndexByte(uri, '/')+1:])
	if w := d.find(nsFault, "WSManFault"); w != nil {
		f.Code = code32(w.attr("", "Code"))
		if f.Reason == "" {
			f.Reason = cut(w.child(nsFault, "Message").words())
		}
		f.provider(w)
	}
	if f.HRESULT == 0 && f.Code>>12 == 0x80041 {
		f.HRESULT = f.Code
	}
	return f
}

// provider takes what a provider said: an inner fault, or an instance of MSFT_WmiError, whose namespace varies.
func (f *Fault) provider(w *node) {
	p := w.find(nsFault, "ProviderFault")
	if p == nil {
		return
	}
	if inner := p.find(nsFault, "WSManFault"); inner != nil {
		f.HRESULT = code32(inner.attr("", "Code"))
		f.Provider = cut(inner.child(nsFault, "Message").words())
	}
	walk(p, func(n *node) {
		switch n.name {
		case "error_Code", "HRESULT":
			if c := code32(n.words()); c>>16 == 0x8004 {
				f.HRESULT = c
			}
		case "Message":
			if t := n.words(); t != "" && f.Provider == "" {
				f.Provider = cut(t)
			}
		}
	})
}

func walk(n *node, see func(*node)) {
	see(n)
	for _, k := range n.kids {
		walk(k, see)
	}
}

// code32 reads a code in decimal, with or without a sign.
func code32(s string) uint32 {
	v, err := strconv.ParseInt(strings.TrimSpace(s), 10, 64)
	if err != nil || v < -1<<31 || v > 1<<32-1 {
		return 0
	}
	return uint32(v)
}

// UnknownError says that it is not known whether the service did what it was asked.
type UnknownError struct{ Err error }

func (e *UnknownError) Error() string { return "it may have happened: " + e.Err.Error() }
func (e *UnknownError) Unwrap() error { return e.Err }

// unknown marks the errors after which something may have happened.
func unknown(err error) error {
	var link *winrm.Error
	var fault *Fault
	switch {
	case errors.As(err, &link):
		if !link.Sent {
			return err
		}
	case errors.As(err, &fault):
		if !fault.Is(ErrTimedOut) {
			return err
		}
	case errors.Is(err, winrm.ErrClosed):
		return err
	case !errors.Is(err, ErrMalformed) && !errors.Is(err, context.Canceled) && !errors.Is(err, context.DeadlineExceeded):
		return err
	}
	return &UnknownError{err}
}
