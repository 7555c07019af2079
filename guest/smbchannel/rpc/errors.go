package rpc

import "fmt"

// BindError says that a machine does not have the interface.
type BindError struct {
	Result, Reason uint16 // C706 12.6.3.1
	Nak            bool   // it refused the association itself, and Reason says why
}

func (e *BindError) Error() string {
	if e.Nak {
		return fmt.Sprintf("the association was refused, reason %d", e.Reason)
	}
	return fmt.Sprintf("the interface was refused, result %d, reason %d", e.Result, e.Reason)
}

// Fault is what a machine answers instead of results.
type Fault struct{ Status uint32 }

// Statuses of faults (C706 appendix E, MS-ERREF 2.2).
const (
	FaultUnknownProcedure = 0x1c010002
	FaultBadStub          = 0x000006f7
	FaultAccessDenied     = 0x00000005
	FaultContext          = 0x1c00001a // an unknown handle
)

func (f *Fault) Error() string {
	words := ""
	switch f.Status {
	case FaultUnknownProcedure:
		words = ": no such procedure"
	case FaultBadStub:
		words = ": arguments that it cannot read"
	case FaultAccessDenied:
		words = ": access denied"
	case FaultContext:
		words = ": an unknown handle"
	}
	return fmt.Sprintf("fault %#08x%s", f.Status, words)
}
