package object

// TypeVoid marks a frame whose content failed its check: it stays where it is, because its nonce is spent, and is
// never read.
const TypeVoid uint8 = 6

// TypeAnchors: the anchors of one pack's blocks, in an anchor object.
const TypeAnchors uint8 = 7

// Void makes the entry of a frame say that it holds nothing.
func (b *Builder) Void(ref FrameRef) {
	e := b.table[int(ref.Ordinal)*entryLen:][:entryLen]
	clear(e[:32])
	e[32] = TypeVoid
}
