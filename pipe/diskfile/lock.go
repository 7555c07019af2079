package diskfile

// The byte-range locks by which QEMU processes tell each other what they do with an image file: one byte for each
// permission that is in use, from byte 100, and one for each that is not shared with others, from byte 200 (QEMU,
// block/file-posix.c and include/block/block-common.h). They are locks of the open file, shared ones on both sides; a
// conflict is found by asking for an exclusive lock, without taking it.
const (
	permBase   = 100
	sharedBase = 200

	permRead           = 0
	permWrite          = 1
	permWriteUnchanged = 2
	permResize         = 3
)

// Locked reports whether QEMU, or anybody else who keeps its rules, has the file open for writing, and who that is, in
// words and as far as it can be known. Nothing is locked by asking. It is false, never an error, on systems without
// such locks and for programs that take none.
func Locked(path string) (owner string, locked bool, err error) { return lockedByWriter(path) }

// lockState is what came of trying to lock a file.
type lockState int

const (
	lockUnknown lockState = iota // there are no such locks
	lockHeld                     // by us
	lockTaken                    // by somebody else
)
