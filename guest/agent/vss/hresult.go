package vss

import (
	"context"
	"errors"
	"fmt"
	"io/fs"

	"github.com/hikae/hikae/guest/agent/wire"
)

// HResult is a result code of COM. The highest bit is set in failures.
type HResult uint32

// The codes that something depends on.
const (
	ok                     HResult = 0
	sAsyncPending          HResult = 0x00042309
	sAsyncFinished         HResult = 0x0004230A
	sAsyncCancelled        HResult = 0x0004230B
	eNotImplemented        HResult = 0x80004001
	eAccessDenied          HResult = 0x80070005
	eChangedMode           HResult = 0x80010106
	eTooLate               HResult = 0x80010119
	BadState               HResult = 0x80042301
	SnapshotSetInProgress  HResult = 0x80042316
	eFlushWritesTimeout    HResult = 0x80042313
	eHoldWritesTimeout     HResult = 0x80042314
	InsufficientStorage    HResult = 0x8004231F
	eInconsistentSnapshot  HResult = 0x800423F0
	WriterTimeout          HResult = 0x800423F2
	WriterRetryable        HResult = 0x800423F3
	WriterNonRetryable     HResult = 0x800423F4
	eWriterNotResponding   HResult = 0x80042319
	eWriterStatusNotThere  HResult = 0x80042409
	eTransactionFreezeTime HResult = 0x80042328
)

// meaning is a code in words, and what to do.
type meaning struct{ name, words, hint string }

var meanings = map[HResult]meaning{
	0x80004001: {"E_NOTIMPL", "this system does not have it", ""},
	0x80004002: {"E_NOINTERFACE", "the service is of another version", ""},
	0x80004005: {"E_FAIL", "the service gave no reason", "look into the guest's application event log, source VSS"},
	0x80070005: {"E_ACCESSDENIED", "the service refused us, or a writer could not call back (event 8194)",
		"run the component as LocalSystem; see that the writer's account may use COM (dcomcnfg, access permissions)"},
	0x8007000E: {"E_OUTOFMEMORY", "the guest is out of memory", ""},
	0x80070057: {"E_INVALIDARG", "the service did not accept an argument", ""},
	0x80070422: {"ERROR_SERVICE_DISABLED", "the Volume Shadow Copy service is disabled", "set the service VSS to manual start"},
	0x800706BA: {"RPC_S_SERVER_UNAVAILABLE", "the service went away", "look whether the service VSS crashed"},
	0x80010106: {"RPC_E_CHANGED_MODE", "COM was set up otherwise in this thread", ""},
	0x80010108: {"RPC_E_DISCONNECTED", "the service went away", "look whether the service VSS crashed"},
	0x80042301: {"VSS_E_BAD_STATE", "not in this order", ""},
	0x80042302: {"VSS_E_UNEXPECTED", "the service failed inside", "look into the guest's application event log, source VSS"},
	0x80042304: {"VSS_E_PROVIDER_NOT_REGISTERED", "no such provider", "list them with: vssadmin list providers"},
	0x80042306: {"VSS_E_PROVIDER_VETO", "the provider refused", "look into the guest's event logs, source volsnap"},
	0x80042307: {"VSS_E_PROVIDER_IN_USE", "the provider is in use", "try again later"},
	0x80042308: {"VSS_E_OBJECT_NOT_FOUND", "no such volume or shadow copy", ""},
	0x8004230C: {"VSS_E_VOLUME_NOT_SUPPORTED", "this volume cannot have shadow copies", ""},
	0x8004230E: {"VSS_E_VOLUME_NOT_SUPPORTED_BY_PROVIDER", "this volume cannot have shadow copies of this provider", ""},
	0x8004230F: {"VSS_E_UNEXPECTED_PROVIDER_ERROR", "the provider failed inside", "look into the guest's event logs, source volsnap"},
	0x80042310: {"VSS_E_CORRUPT_XML_DOCUMENT", "a writer's document is damaged", "restart the service of that writer"},
	0x80042311: {"VSS_E_INVALID_XML_DOCUMENT", "a writer's document is not valid", "restart the service of that writer"},
	0x80042312: {"VSS_E_MAXIMUM_NUMBER_OF_VOLUMES_REACHED", "too many volumes for one snapshot set", "name the volumes that matter"},
	0x80042313: {"VSS_E_FLUSH_WRITES_TIMEOUT", "the volumes were not flushed in time", "try again while the disks are less busy"},
	0x80042314: {"VSS_E_HOLD_WRITES_TIMEOUT", "writes could not be held for that long", "try again while the disks are less busy"},
	0x80042315: {"VSS_E_UNEXPECTED_WRITER_ERROR", "a writer failed", "list them with: vssadmin list writers"},
	0x80042316: {"VSS_E_SNAPSHOT_SET_IN_PROGRESS", "another program makes a shadow copy right now", "try again; move one of the two schedules"},
	0x80042317: {"VSS_E_MAXIMUM_NUMBER_OF_SNAPSHOTS_REACHED", "there are too many shadow copies", "delete old ones with: vssadmin delete shadows"},
	0x80042318: {"VSS_E_WRITER_INFRASTRUCTURE", "the writers cannot be reached", "restart the services VSS and COM+ Event System"},
	0x80042319: {"VSS_E_WRITER_NOT_RESPONDING", "a writer does not answer", "restart the service of that writer"},
	0x8004231B: {"VSS_E_UNSUPPORTED_CONTEXT", "this kind of shadow copy is not possible here", ""},
	0x8004231D: {"VSS_E_VOLUME_IN_USE", "the volume is in use", "try again later"},
	0x8004231E: {"VSS_E_MAXIMUM_DIFFAREA_ASSOCIATIONS_REACHED", "no more shadow storage can be set up", ""},
	0x8004231F: {"VSS_E_INSUFFICIENT_STORAGE", "there is not enough room for the shadow copy",
		"free space on the volume, or enlarge its shadow storage with: vssadmin resize shadowstorage"},
	0x80042325: {"VSS_E_REVERT_IN_PROGRESS", "a volume is being reverted", "wait until it is done"},
	0x80042327: {"VSS_E_REBOOT_REQUIRED", "the guest must be restarted first", "restart it"},
	0x80042328: {"VSS_E_TRANSACTION_FREEZE_TIMEOUT", "file system transactions did not stop in time", "try again"},
	0x80042329: {"VSS_E_TRANSACTION_THAW_TIMEOUT", "file system transactions did not go on in time", "try again"},
	0x8004232D: {"VSS_E_VOLUME_NOT_LOCAL", "the volume is not on this machine", ""},
	0x80042336: {"VSS_E_WRITERERROR_PARTIAL_FAILURE", "the writer failed for some of its components", "look at its own event log entries"},
	0x800423F0: {"VSS_E_WRITERERROR_INCONSISTENTSNAPSHOT", "the snapshot set lacks volumes that the writer needs", "add all volumes on which its data is"},
	0x800423F1: {"VSS_E_WRITERERROR_OUTOFRESOURCES", "the writer ran out of memory or other resources", "free resources in the guest"},
	0x800423F2: {"VSS_E_WRITERERROR_TIMEOUT", "the writer was too slow between freeze and thaw (60 s at most, 20 s for mail stores)",
		"try again while the guest is less busy; spread jobs that hit the same disks"},
	0x800423F3: {"VSS_E_WRITERERROR_RETRYABLE", "the writer failed and may succeed when asked again", "try again; then restart its service"},
	0x800423F4: {"VSS_E_WRITERERROR_NONRETRYABLE", "the writer failed and will go on failing", "look at its own event log entries; restart its service"},
	0x800423F5: {"VSS_E_WRITERERROR_RECOVERY_FAILED", "the writer could not recover its data in the shadow copy", "look at its own event log entries"},
	0x800423FB: {"VSS_E_AUTORECOVERY_FAILED", "data could not be recovered in the shadow copy",
		"look at the writer's own event log entries; files *-AutoRecovery.avhdx that an earlier backup left are a known reason"},
	0x80042409: {"VSS_E_WRITER_STATUS_NOT_AVAILABLE", "the writer's state is not known", "restart the service of that writer"},
}

// Name is the code's symbolic name, or its number.
func (h HResult) Name() string {
	if m, known := meanings[h]; known {
		return m.name
	}
	return fmt.Sprintf("0x%08X", uint32(h))
}

// Failed reports whether the code is a failure.
func (h HResult) Failed() bool { return h&0x80000000 != 0 }

// Retryable reports whether the same may succeed a little later.
func (h HResult) Retryable() bool {
	switch h {
	case SnapshotSetInProgress, eFlushWritesTimeout, eHoldWritesTimeout, WriterTimeout, WriterRetryable, eTransactionFreezeTime:
		return true
	}
	return false
}

// Hint says what to change; it may be empty.
func (h HResult) Hint() string { return meanings[h].hint }

// String is the code in words.
func (h HResult) String() string {
	m, known := meanings[h]
	if !known {
		return fmt.Sprintf("code 0x%08X", uint32(h))
	}
	return fmt.Sprintf("%s (%s, 0x%08X)", m.words, m.name, uint32(h))
}

// Error is a call that failed. It is fs.ErrPermission and errors.ErrUnsupported where the code says so.
type Error struct {
	Op     string // the method
	Object string // writer, component or volume; may be empty
	Code   HResult
}

func (e *Error) Error() string {
	if e.Object == "" {
		return fmt.Sprintf("%s: %v", e.Op, e.Code)
	}
	return fmt.Sprintf("%s %s: %v", e.Op, e.Object, e.Code)
}

// Is maps the codes that have a standard error.
func (e *Error) Is(target error) bool {
	switch target {
	case fs.ErrPermission:
		return e.Code == eAccessDenied
	case errors.ErrUnsupported:
		return e.Code == eNotImplemented
	}
	return false
}

// ErrStuck says that a call into the service did not come back even after it was cancelled. Its thread is lost until
// the process ends.
var ErrStuck = errors.New("the Volume Shadow Copy service does not answer")

// failure is an error as the component's client sees it.
func failure(err error) *wire.Failure {
	f := &wire.Failure{Code: wire.CodeFailed, Message: err.Error()}
	var e *Error
	if errors.As(err, &e) {
		f.Hint = e.Code.Hint()
	}
	switch {
	case errors.Is(err, fs.ErrPermission):
		f.Code = wire.CodeRights
	case errors.Is(err, errors.ErrUnsupported):
		f.Code = wire.CodeMissing
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		f.Code = wire.CodeCancelled
	}
	return f
}

// problem is an error in words with what to do, for an outcome.
func problem(err error) string {
	var e *Error
	if errors.As(err, &e) && e.Code.Hint() != "" {
		return err.Error() + ": " + e.Code.Hint()
	}
	return err.Error()
}
