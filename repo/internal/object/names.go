package object

import (
	"fmt"

	"github.com/hikae/hikae/pipe"
)

// Kinds of objects.
const (
	KindHeader     uint8 = 1
	KindSlot       uint8 = 2
	KindData       uint8 = 3
	KindMeta       uint8 = 4
	KindManifest   uint8 = 5
	KindLog        uint8 = 6
	KindCheckpoint uint8 = 7
	KindIndex      uint8 = 8
	KindBeat       uint8 = 9
	KindAnchor     uint8 = 10
)

// Suites.
const (
	SuiteClear uint8 = 0
	SuiteAES   uint8 = 1 // AES-256-GCM
)

// Types of frames.
const (
	TypeBlock    uint8 = 1
	TypePage     uint8 = 2
	TypeChunk    uint8 = 3
	TypeDocument uint8 = 4
	TypeTable    uint8 = 5 // table of one pack, in an index object

	typeOwnTable uint8 = 0 // the object's own table: never an entry of it
)

// Codecs of frames: those of package pipe.
const (
	CodecPlain = uint8(pipe.Plain)
	CodecS2    = uint8(pipe.S2)
	CodecZstd  = uint8(pipe.Zstd)

	// CodecAssembled: the content is a recipe, which names parts of other blocks. Only blocks have it.
	CodecAssembled uint8 = 3
)

// Types of wraps.
const (
	WrapClear      uint8 = 0
	WrapMaster     uint8 = 1
	WrapX25519     uint8 = 2
	WrapPassphrase uint8 = 3
	WrapKeyFile    uint8 = 4
	WrapAge        uint8 = 5
)

// Bounds.
const (
	Version   = 1
	Overhead  = 16      // bytes that sealing adds to a frame
	MaxFrames = 1 << 20 // in one object
	MaxWraps  = 16
	MaxWrap   = 8 << 10  // bytes of one wrap's body
	MaxPlain  = 64 << 20 // bytes of one frame's plain content

	// HeaderMax is the longest header. Without age wraps, which alone are longer than 88 bytes, every header fits into
	// the first cell.
	HeaderMax = fixedHeader + MaxWraps*(3+MaxWrap)
)

func knownSuite(suite uint8) error {
	if suite > SuiteAES {
		return &UnsupportedError{What: "suite", Value: int(suite)}
	}
	return nil
}

func knownKind(kind uint8) error {
	if kind < KindHeader || kind > KindAnchor {
		return fmt.Errorf("kind %d of object", kind)
	}
	return nil
}
