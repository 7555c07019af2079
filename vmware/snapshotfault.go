package vmware

import (
	"slices"
	"strings"

	"github.com/vmware/govmomi/fault"
	"github.com/vmware/govmomi/vim25/types"
)

// seeFault is shown a fault with the server's words for it. True: that was the one.
type seeFault func(f types.BaseMethodFault, text string, messages []types.LocalizableMessage) bool

// faultsOf shows each fault in an error, those of calls and those of tasks, and reports whether it was one of them.
func faultsOf(err error, see seeFault) bool {
	switch e := err.(type) {
	case nil:
		return false
	case *TaskError:
		return causes(e.Fault, e.Text, see)
	case interface{ Fault() types.BaseMethodFault }:
		return causes(e.Fault(), err.Error(), see)
	case interface{ Unwrap() error }:
		return faultsOf(e.Unwrap(), see)
	case interface{ Unwrap() []error }:
		return slices.ContainsFunc(e.Unwrap(), func(err error) bool { return faultsOf(err, see) })
	}
	return false
}

// causes shows a fault, and what it says that it came from.
func causes(f types.BaseMethodFault, text string, see seeFault) (found bool) {
	if f == nil {
		return false
	}
	fault.In(&types.LocalizedMethodFault{Fault: f, LocalizedMessage: text}, func(f types.BaseMethodFault, text string, m []types.LocalizableMessage) bool {
		found = see(f, text, m)
		return found
	})
	return found
}

// faultAs finds a fault of a type.
func faultAs[T types.BaseMethodFault](err error) (found T, ok bool) {
	faultsOf(err, func(f types.BaseMethodFault, _ string, _ []types.LocalizableMessage) bool {
		found, ok = f.(T)
		return ok
	})
	return found, ok
}

func isFault[T types.BaseMethodFault](err error) bool {
	_, ok := faultAs[T](err)
	return ok
}

// isGone: the object is not there any more.
func isGone(err error) bool { return isFault[*types.ManagedObjectNotFound](err) }

// isAnswer reports whether an error is what the server said, and not a call or a wait whose outcome nobody knows.
func isAnswer(err error) bool {
	return faultsOf(err, func(f types.BaseMethodFault, _ string, _ []types.LocalizableMessage) bool {
		_, asks := f.(*types.NotAuthenticated)
		return !asks
	})
}

// cannot: the server does not know the method, or does not let this user call it.
func cannot(err error) bool {
	return isFault[*types.MethodNotFound](err) || isFault[*types.NotSupported](err) || isFault[*types.NoPermission](err) ||
		isFault[*types.InvalidRequest](err) || isFault[*types.RestrictedVersion](err)
}

// saysOf reports whether an error is about something, in any of the server's words or keys.
func saysOf(err error, word string) bool {
	return faultsOf(err, func(f types.BaseMethodFault, text string, messages []types.LocalizableMessage) bool {
		if strings.Contains(strings.ToLower(text), word) {
			return true
		}
		return slices.ContainsFunc(messages, func(m types.LocalizableMessage) bool {
			return strings.Contains(strings.ToLower(m.Key+" "+m.Message), word)
		})
	})
}
