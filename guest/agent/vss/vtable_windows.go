package vss

import (
	"runtime"
	"syscall"
	"unsafe"

	"golang.org/x/sys/windows"
)

// object is any COM object: a pointer to its table of methods. It lies in the service's memory, never in Go's.
type object struct{ methods *[64]uintptr }

// The slots of methods, in the order of their declarations in Microsoft's published headers vsbackup.h, vswriter.h and
// vss.h. 0 to 2 are QueryInterface, AddRef and Release.
const (
	slotRelease = 2

	// IVssBackupComponents
	slotInitializeForBackup    = 5
	slotSetBackupState         = 6
	slotGatherWriterMetadata   = 9
	slotGetWriterMetadataCount = 10
	slotGetWriterMetadata      = 11
	slotFreeWriterMetadata     = 12
	slotAddComponent           = 13
	slotPrepareForBackup       = 14
	slotAbortBackup            = 15
	slotGatherWriterStatus     = 16
	slotGetWriterStatusCount   = 17
	slotFreeWriterStatus       = 18
	slotGetWriterStatus        = 19
	slotSetBackupSucceeded     = 20
	slotSaveAsXML              = 26
	slotBackupComplete         = 27
	slotSetContext             = 35
	slotStartSnapshotSet       = 36
	slotAddToSnapshotSet       = 37
	slotDoSnapshotSet          = 38
	slotDeleteSnapshots        = 39
	slotGetSnapshotProperties  = 42
	slotQuery                  = 43
	slotIsVolumeSupported      = 44
	slotEnableWriterClasses    = 46

	// IVssExamineWriterMetadata
	slotGetIdentity       = 3
	slotGetFileCounts     = 4
	slotGetComponent      = 7
	slotMetadataSaveAsXML = 12

	// IVssWMComponent
	slotGetComponentInfo   = 3
	slotFreeComponentInfo  = 4
	slotGetFile            = 5
	slotGetDatabaseFile    = 6
	slotGetDatabaseLogFile = 7

	// IVssWMFiledesc
	slotGetPath      = 3
	slotGetFilespec  = 4
	slotGetRecursive = 5

	// IVssEnumObject
	slotNext = 3

	// IVssAsync
	slotCancel      = 3
	slotWait        = 4
	slotQueryStatus = 5
)

// method begins a call of one method.
func (o *object) method(slot int) *call {
	c := &call{at: o.methods[slot]}
	c.pointer(unsafe.Pointer(o))
	return c
}

// release gives the object back. A nil one is none.
func (o *object) release() {
	if o != nil {
		o.method(slotRelease).do()
	}
}

// call collects the arguments of one call. What they point to stays where it is until the call is over.
type call struct {
	at   uintptr
	args []uintptr
	pins runtime.Pinner
}

func (c *call) number(n uintptr) *call {
	c.args = append(c.args, n)
	return c
}

func (c *call) flag(b bool) *call {
	if b {
		return c.number(1)
	}
	return c.number(0)
}

// pointer takes memory of the service, which nothing moves.
func (c *call) pointer(p unsafe.Pointer) *call { return c.number(uintptr(p)) }

// out is a place in our memory that the call fills in or reads.
func out[T any](c *call, p *T) *call {
	c.pins.Pin(p)
	return c.number(uintptr(unsafe.Pointer(p)))
}

// text is a string, or NULL where it is empty and that is allowed. A NUL cuts it off, as it would anywhere on Windows.
func (c *call) text(s string, null bool) *call {
	if s == "" && null {
		return c.number(0)
	}
	p, err := windows.UTF16PtrFromString(s)
	if err != nil {
		p = new(uint16)
	}
	return out(c, p)
}

// guid passes an identifier by value, which each processor does in its own way: by the address of a copy, in two
// registers, or on the stack.
func (c *call) guid(g GUID) *call {
	copied := &g
	switch runtime.GOARCH {
	case "amd64":
		return out(c, copied)
	default:
		words := unsafe.Slice((*uintptr)(unsafe.Pointer(copied)), unsafe.Sizeof(g)/unsafe.Sizeof(uintptr(0)))
		c.args = append(c.args, words...)
		return c
	}
}

// do makes the call.
func (c *call) do() HResult {
	r, _, _ := syscall.SyscallN(c.at, c.args...)
	c.pins.Unpin()
	return HResult(uint32(r))
}

// run makes the call and names what failed.
func (c *call) run(op, on string) error {
	if hr := c.do(); hr.Failed() {
		return &Error{Op: op, Object: on, Code: hr}
	}
	return nil
}

// bstr is a string that the service allocated.
type bstr struct{ p *uint16 }

// take is the string, and frees it. One that is longer than limit units is cut off.
func (b *bstr) take(limit int) string {
	if b.p == nil {
		return ""
	}
	n, _, _ := procSysStringLen.Call(uintptr(unsafe.Pointer(b.p)))
	s := windows.UTF16ToString(unsafe.Slice(b.p, min(int(uint32(n)), limit)))
	procSysFreeString.Call(uintptr(unsafe.Pointer(b.p)))
	b.p = nil
	return s
}

// peek is the string, which stays the service's.
func peek(p *uint16, limit int) string {
	if p == nil {
		return ""
	}
	n, _, _ := procSysStringLen.Call(uintptr(unsafe.Pointer(p)))
	return windows.UTF16ToString(unsafe.Slice(p, min(int(uint32(n)), limit)))
}
