// Package outcome says how a command ended: its exit status, and the error as a document for scripts and as a few
// lines for people. All of that is decided here, by one table, so that no command decides it for itself.
package outcome

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"regexp"
	"slices"
	"strings"
	"syscall"

	"github.com/hikae/hikae"
	"github.com/hikae/hikae/hyperv/vhdx"
	"github.com/hikae/hikae/job"
	"github.com/hikae/hikae/job/diskvm"
	"github.com/hikae/hikae/pipe"
	"github.com/hikae/hikae/pipe/diskfile"
	"github.com/hikae/hikae/pipe/mover"
	"github.com/hikae/hikae/pipe/mover/session"
	"github.com/hikae/hikae/pipe/mover/trust"
	"github.com/hikae/hikae/pipe/qcow2"
	"github.com/hikae/hikae/repo"
	"github.com/hikae/hikae/repo/store"
	"github.com/hikae/hikae/repo/store/s3store"
	"github.com/hikae/hikae/vmware/vmdk"
)

// Status is an exit status. Scripts depend on the numbers.
type Status int

const (
	Done        Status = 0
	Failed      Status = 1 // also when one of several VMs failed
	Misused     Status = 2 // the command line is wrong, or asks for what does not exist yet
	Warned      Status = 3 // done, with something that a person should look at
	Damaged     Status = 4 // damage was found, and is left
	Interrupted Status = 130
)

// Kind is the word for an error that scripts branch on.
type Kind string

const (
	KindUsage       Kind = "usage"
	KindUnsupported Kind = "unsupported"
	KindSecret      Kind = "secret"
	KindNotFound    Kind = "not-found"
	KindExists      Kind = "exists"
	KindAmbiguous   Kind = "ambiguous"
	KindLocked      Kind = "locked"
	KindChanged     Kind = "changed"
	KindBusy        Kind = "busy"
	KindForgotten   Kind = "forgotten"
	KindCorrupt     Kind = "corrupt"
	KindRollback    Kind = "rollback"
	KindReadOnly    Kind = "read-only"
	KindNoSpace     Kind = "no-space"
	KindPermission  Kind = "permission"
	KindImage       Kind = "image"
	KindDeadline    Kind = "deadline"
	KindInterrupted Kind = "interrupted"
	KindFailed      Kind = "failed"
)

// Error is an error that a command raises itself, or another one with what the command knows about it. Empty fields
// are filled in from what it wraps.
type Error struct {
	Kind   Kind
	Text   string // in front of Err, where both are there
	Object string
	Place  string // the object where nothing that is wrapped names one
	Hint   string // what to do next
	Err    error
}

func (e *Error) Error() string {
	switch {
	case e.Err == nil:
		return e.Text
	case e.Text == "":
		return e.Err.Error()
	}
	return e.Text + ": " + e.Err.Error()
}

func (e *Error) Unwrap() error { return e.Err }

// Usage is a wrong command line.
func Usage(hint, format string, args ...any) *Error {
	return &Error{Kind: KindUsage, Text: fmt.Sprintf(format, args...), Hint: hint}
}

// Problem is what is known about an error. Its JSON names are a contract with scripts; all of them are always there,
// and offset and length are null where no range is known.
type Problem struct {
	Kind    Kind   `json:"kind"`
	Message string `json:"message"`
	Object  string `json:"object"`
	Offset  *int64 `json:"offset"`
	Length  *int64 `json:"length"`
	Hint    string `json:"hint"`

	status Status
}

// Status is the exit status that the problem ends a command with.
func (p Problem) Status() Status { return p.status }

// rule is one line of the table: an error, what scripts and people are told of it, and how the command exits.
type rule struct {
	match  func(error) bool
	kind   Kind
	status Status
	hint   string
}

func is(target error) func(error) bool {
	return func(err error) bool { return errors.Is(err, target) }
}

func as[T error](err error) bool {
	_, ok := errors.AsType[T](err)
	return ok
}

// RollbackHint is what to do about a log that is older than this machine remembers.
const RollbackHint = "Reading still works. If nobody put an old copy there, `hikae repo mend-log --repo REPO --dry-run` says which points are there without a record. " +
	"`hikae repo adopt --repo REPO` goes on with what the records say, and a prune removes the rest."

// LogHint is what to do about a log that lacks a record.
const LogHint = "`hikae repo mend-log --repo REPO --dry-run` says what can be put back, and what going on without the rest would mean."

func isHeader(err error) bool { return isObject(err, "header") }

func isSlot(err error) bool { return isObject(err, "slot") }

func isObject(err error, name string) bool {
	corrupt, ok := errors.AsType[*repo.ErrCorrupt](err)
	return ok && corrupt.Object == name
}

// isLog is damage that stops all of a repository: no repair goes on without the history.
func isLog(err error) bool {
	corrupt, ok := errors.AsType[*repo.ErrCorrupt](err)
	return ok && strings.HasPrefix(corrupt.Object, "log/")
}

// rules are tried from the top: what says more comes first. They are a function for want of constant slices.
func rules() []rule {
	return append(slices.Concat(vsphereRules(), hypervRules(), stripeRules()), []rule{
		{isSlot, KindCorrupt, Damaged, "Put the folder slot back from any copy of this repository, or one of its copies (copy1/slot, copy2/slot). Without a slot nothing opens."},
		{isHeader, KindCorrupt, Damaged, "Put a header back from any copy of this repository: the files header, copy1/header and copy2/header are the same. Without one nothing opens."},
		{isLog, KindCorrupt, Damaged, LogHint},
		{as[*repo.PointError], KindCorrupt, Damaged, "Run `hikae verify --repo REPO --repair`; if it stays lost, `hikae forget` with the point's id, not a name, gives it up."},
		{as[*repo.ErrCorrupt], KindCorrupt, Damaged, "Run `hikae verify --repo REPO --repair` to mend what can be mended, or `hikae restore --salvage` to get the rest."},
		{as[*repo.ErrUnsupported], KindUnsupported, Failed, "Use a newer version of Hikae for this repository."},
		{as[*repo.ErrRollback], KindRollback, Failed, RollbackHint},
		{is(s3store.ErrNoBucket), KindNotFound, Failed, "Make the bucket first; docs/s3.md says with which settings."},
		{is(s3store.ErrCredentials), KindPermission, Failed, "Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE; they may have expired."},
		{is(s3store.ErrClock), KindFailed, Failed, "Set this machine's clock, best by NTP."},
		{is(s3store.ErrDefaultRetention), KindFailed, Failed, "Take the bucket's default retention off; docs/s3.md says why."},
		{is(store.ErrLocked), KindPermission, Failed, "It is kept until its time has come; that is what the lock is for."},
		{is(repo.ErrRevokedSlot), KindSecret, Failed, "Use a key that is in force; `hikae key list` shows them to whoever has one."},
		{is(repo.ErrLastSlot), KindUsage, Failed, "Give the key that stays with --password-file, --key-file or --identity."},
		{is(repo.ErrNotEncrypted), KindUsage, Failed, "Make an encrypted repository with `hikae init`, and copy the points with `hikae copy`."},
		{as[*repo.BusyError], KindBusy, Failed, "Wait until it is through. If it has died, the next prune finds that out within a minute or two."},
		{is(repo.ErrOtherIDs), KindUsage, Failed, "Only a repository that was made with `hikae init --copy-parameters-from` shares its ids."},
		{as[*repo.HeldError], KindBusy, Failed, "`hikae unhold --repo REPO POINT` lets it go."},
		{is(repo.ErrSecret), KindSecret, Failed, "Check HIKAE_PASSWORD, or the file given by --password-file, --key-file or --identity."},
		{is(repo.ErrNotRepository), KindNotFound, Failed, "Check the path, or make a repository there with `hikae init REPO`."},
		{is(repo.ErrExists), KindExists, Failed, "Choose an empty folder. If this is a repository, there is nothing to initialise: use it."},
		{is(repo.ErrAmbiguous), KindAmbiguous, Failed, "Write more digits of the id; `hikae points --repo REPO` lists them."},
		{is(repo.ErrForgotten), KindForgotten, Failed, "The point was removed. `hikae points --repo REPO` lists those that are left."},
		{is(repo.ErrReadOnly), KindReadOnly, Failed, "A warning above says why, where it is known: members of a striped store are away, this user may not write there, or another client writes to a store that only one may write to."},
		{is(repo.ErrRevoked), KindBusy, Failed, "Run the command again; blocks that are stored already are not sent twice."},
		{as[*hikae.BusyError], KindBusy, Failed, "Wait for the other session, or end it."},
		{as[*diskvm.UsageError], KindUsage, Misused, ""},
		{as[*diskvm.LiveError], KindLocked, Failed, "Shut the VM down, or take a snapshot of it. With --force-live the file is read all the same: the copy is then of no one moment."},
		{as[*diskfile.LockedError], KindLocked, Failed, "Shut the VM down first."},
		{as[*diskfile.ChangedError], KindChanged, Failed, "Somebody writes to the disk. Shut the VM down, or back up a snapshot of it; --force-live takes it as it is."},
		{as[*diskfile.FormatError], KindUnsupported, Failed, "Convert the disk to raw or qcow2 first, for instance with qemu-img convert."},
		{as[*qcow2.UnsupportedError], KindUnsupported, Failed, "Convert the disk first: qemu-img convert -O qcow2 OLD NEW."},
		{as[*qcow2.ReferenceError], KindImage, Failed, "Backing and data files are opened only in the folder of the image itself."},
		{is(qcow2.ErrCorrupt), KindImage, Failed, "Look at it with `qemu-img check`."},
		{is(vmdk.ErrCorrupt), KindImage, Failed, "Look at it with `qemu-img check`."},
		{as[*vhdx.CorruptError], KindImage, Failed, "Look at it with `qemu-img check`."},
		{as[*vmdk.ReferenceError], KindImage, Failed, "Extents and parents are opened only in the folder of the disk itself."},
		{as[*vmdk.UnsupportedError], KindUnsupported, Failed, "Convert the disk first: qemu-img convert -O qcow2 OLD NEW."},
		{as[*job.DiffersError], KindFailed, Failed, "What was written cannot be trusted. Check the target's disk and memory, and restore again."},
		{is(job.ErrAmbiguous), KindAmbiguous, Failed, "Write more of the name."},
		{is(diskfile.ErrNotDisk), KindImage, Failed, "Name a disk image file or a block device."},
		{is(diskfile.ErrNoSpace), KindNoSpace, Failed, "Make room, or choose another place."},
		{isFull, KindNoSpace, Failed, "Make room, or choose another place."},
		{is(trust.ErrWrongServer), KindPermission, Failed, wrongServer},
		{is(trust.ErrRefused), KindPermission, Failed, refused},
		{is(trust.ErrNameTaken), KindExists, Failed, "`hikae mover list` shows who has it. Let that machine in no more with `hikae mover revoke`, or choose another name."},
		{wasRevoked, KindPermission, Failed, "If that was not meant, enrol it again with a new token: `hikae mover token` on the mover's machine."},
		{notForRole, KindPermission, Failed, appendOnly},
		{is(mover.ErrCorrupt), KindCorrupt, Damaged, "Run `hikae verify --repair` on the repository's machine, or `hikae restore --salvage` to get the rest."},
		{is(mover.ErrForgotten), KindForgotten, Failed, "The point was removed. `hikae points --repo REPO` lists those that are left."},
		{is(mover.ErrBusy), KindBusy, Failed, "The mover is full. Run the command again later."},
		{is(mover.ErrFenced), KindBusy, Failed, "Another backup of this VM from this machine has taken over."},
		{is(mover.ErrRevoked), KindBusy, Failed, "Run the command again; blocks that are stored already are not sent twice."},
		{is(mover.ErrVersion), KindUnsupported, Failed, "Use the same version of Hikae on both machines."},
		{is(session.ErrGaveUp), KindDeadline, Failed, "Run the command again when the line is back; blocks that have arrived are not sent twice."},
		{is(syscall.ECONNREFUSED), KindFailed, Failed, "Is a mover running there? On its machine: hikae mover serve."},
		{is(syscall.EADDRINUSE), KindBusy, Failed, "Another program listens there, perhaps a mover that runs already. End it, or choose another port."},
		{is(syscall.EROFS), KindReadOnly, Failed, ""},
		{is(fs.ErrNotExist), KindNotFound, Failed, ""},
		{is(fs.ErrExist), KindExists, Failed, "Choose another name, or allow replacing it with --force."},
		{is(fs.ErrPermission), KindPermission, Failed, "Run as a user who may read and write there."},
		{is(context.DeadlineExceeded), KindDeadline, Failed, "Run the command again."},
	}...)
}

// byKind are the exit statuses of errors that commands raise themselves.
func byKind(k Kind) Status {
	switch k {
	case KindUsage:
		return Misused
	case KindCorrupt:
		return Damaged
	case KindInterrupted:
		return Interrupted
	}
	return Failed
}

// Of finds out what an error means. The first rule that matches gives kind, status and hint; what the command said
// itself goes before it.
func Of(err error) Problem {
	p := Problem{Message: clean(message(err)), Kind: KindFailed, status: Failed}
	for _, r := range rules() {
		if r.match(err) {
			p.Kind, p.status, p.Hint = r.kind, r.status, r.hint
			break
		}
	}
	if hint := hypervHint(err); hint != "" {
		p.Hint = hint
	}
	own, ok := errors.AsType[*Error](err)
	if ok {
		p.own(own)
	}
	p.locate(err)
	if p.Object == "" && ok {
		p.Object = own.Place
	}
	p.Message, p.Object, p.Hint = redactWithin(p.Message), Redact(p.Object), redactWithin(p.Hint)
	return p
}

// withUser finds places that somebody wrote a password into, although none takes one: wholly, which only who knows where
// the place ends can do, and as far as the next blank.
var (
	wholeUser = regexp.MustCompile(`((?:smb|mover|s3)://).*@`)
	withUser  = regexp.MustCompile(`((?:smb|mover|s3)://)[^\s@]*@`)
)

// Redact is a place without the user and password that may stand in it.
func Redact(place string) string { return wholeUser.ReplaceAllString(place, "${1}…@") }

// redactWithin redacts places in a text.
func redactWithin(text string) string { return withUser.ReplaceAllString(text, "${1}…@") }

func (p *Problem) own(e *Error) {
	if e.Kind != "" {
		p.Kind, p.status = e.Kind, byKind(e.Kind)
	}
	if e.Hint != "" {
		p.Hint = e.Hint
	}
	p.Object = e.Object
}

// locate finds the object and the range that an error is about.
func (p *Problem) locate(err error) {
	object := ""
	if e, ok := errors.AsType[*repo.ErrCorrupt](err); ok {
		object = e.Object
		if e.Length > 0 {
			p.Offset, p.Length = &e.Offset, &e.Length
		}
	} else if e, ok := errors.AsType[*pipe.RangeError](err); ok {
		p.Offset, p.Length = &e.Off, &e.Len
	}
	switch e, at := fileOf(err); {
	case object != "":
	case e != "":
		object = e
		if p.Offset == nil && at >= 0 {
			p.Offset = &at
		}
	default:
		object = cmp.Or(vsphereObject(err), hypervObject(err))
	}
	if p.Object == "" {
		p.Object = object
	}
}

// fileOf is the file that an error names, and the byte offset in it, -1 where it has none.
func fileOf(err error) (string, int64) {
	if e, ok := errors.AsType[*diskfile.Error](err); ok {
		return e.Path, e.Off
	}
	if e, ok := errors.AsType[*diskfile.LockedError](err); ok {
		return e.Path, -1
	}
	if e, ok := errors.AsType[*diskvm.LiveError](err); ok {
		return e.Path, -1
	}
	if e, ok := errors.AsType[*qcow2.CorruptError](err); ok {
		return e.Path, e.Offset
	}
	if e, ok := errors.AsType[*vmdk.CorruptError](err); ok {
		return e.Path, e.Offset
	}
	if e, ok := errors.AsType[*vhdx.CorruptError](err); ok {
		return e.Path, e.Offset
	}
	if e, ok := errors.AsType[*diskfile.ChangedError](err); ok {
		return e.Path, -1
	}
	if e, ok := errors.AsType[*diskfile.FormatError](err); ok {
		return e.Path, -1
	}
	if e, ok := errors.AsType[*fs.PathError](err); ok {
		return e.Path, -1
	}
	return "", -1
}

// Document is what stands on stdout where there is no result document.
type Document struct {
	Error Problem `json:"error"`
}

// WriteJSON writes one document, indented, with a line feed at its end.
func WriteJSON(w io.Writer, doc any) error {
	enc := json.NewEncoder(w)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "  ")
	return enc.Encode(doc)
}

// Text is the problem for people: what, where, and what to do next. word stands in front.
func (p Problem) Text(word string) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s %s\n", word, p.Message)
	where := p.Object
	switch {
	case p.Offset != nil && p.Length != nil:
		where = strings.TrimSpace(fmt.Sprintf("%s, bytes %d to %d", where, *p.Offset, *p.Offset+*p.Length))
	case p.Offset != nil:
		where = strings.TrimSpace(fmt.Sprintf("%s, byte %d", where, *p.Offset))
	}
	where = clean(strings.TrimPrefix(where, ", "))
	if where != "" && !strings.Contains(p.Message, where) {
		fmt.Fprintf(&b, "  where: %s\n", where)
	}
	if p.Hint != "" {
		fmt.Fprintf(&b, "  next:  %s\n", p.Hint)
	}
	return b.String()
}

// clean keeps names that came from elsewhere from writing on the terminal. Line ends stay visible as spaces.
func clean(s string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case r == '\n' || r == '\t':
			return ' '
		case r < ' ' || r == 0x7F || r >= 0x80 && r < 0xA0 || r >= 0x202A && r <= 0x202E || r >= 0x2066 && r <= 0x2069:
			return '\uFFFD'
		}
		return r
	}, s)
}

// Clean is s without characters that would steer a terminal.
func Clean(s string) string { return clean(s) }
