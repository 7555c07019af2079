package mover

import "github.com/hikae/hikae/pipe/mover/wire"

// Observer is told what a mover does, for figures. Its methods are called from many goroutines and must be quick. No
// value says anything of content.
type Observer interface {
	// Session is told that a peer's session began (+1) or ended (-1).
	Session(peer string, delta int)
	// Wire is told how many bytes went over connections, as they are on the wire.
	Wire(in, out int64)
	// Blocks is told what a peer's blocks came to.
	Blocks(peer string, b BlockCount)
	// Failed is told that a call was answered with a failure.
	Failed(peer string, kind wire.Kind, code wire.Code)
	// Refused is told that a connection was turned away before it had shown who it is, and why in a word: limit,
	// handshake, unknown, revoked, expired.
	Refused(why string)
}

// BlockCount is what became of blocks. Known and Missing are of questions, the others of what was put.
type BlockCount struct {
	Known, Missing int64 // blocks
	PlainBytes     int64 // placed, decoded
	WireBytes      int64 // of those, brought as content
	Stored         int64 // bytes that were added to the backend
}

// unobserved is the observer of who wants none.
type unobserved struct{}

func (unobserved) Session(string, int)                 {}
func (unobserved) Wire(in, out int64)                  {}
func (unobserved) Blocks(string, BlockCount)           {}
func (unobserved) Failed(string, wire.Kind, wire.Code) {}
func (unobserved) Refused(string)                      {}
