package wire

// Code says what kind of failure it is, so that the caller's error is one that can be acted on.
type Code uint16

// The codes.
const (
	CodeFailed      Code = 1  // anything else; the text says what
	CodeVersion     Code = 2  // the other side speaks another version
	CodeForbidden   Code = 3  // the peer's role does not allow it
	CodeNotFound    Code = 4  // no such point, disk, blob, image, object
	CodeExists      Code = 5  // there is one already
	CodeInvalid     Code = 6  // the request makes no sense
	CodeLost        Code = 7  // the session is not known here: it ended, or this side was started anew
	CodeFenced      Code = 8  // another session has taken this one's place
	CodeBusy        Code = 9  // no room now; come back later
	CodeNeedBlock   Code = 10 // the block's content is needed
	CodeMismatch    Code = 11 // content does not match its id
	CodeCorrupt     Code = 12 // what is stored is damaged; object and range say where
	CodeNoSpace     Code = 13 // the target's disk is full
	CodeReadOnly    Code = 14 // the repository takes no writes
	CodeForgotten   Code = 15 // the point was removed
	CodeUnsupported Code = 16 // this mover does not do that
	CodeClosed      Code = 17 // the handle is closed
	CodeRevoked     Code = 18 // the session's lease was revoked
	CodeDeadline    Code = 19 // it took too long
	CodeNotDurable  Code = 20 // it could not be made durable
	CodeNoBase      Code = 21 // Unchanged without a base
	CodeIncomplete  Code = 22 // a disk was sealed, or a point committed, with something missing
	CodeForeign     Code = 23 // something else sits at the object's name

	codeLast = CodeForeign
)
