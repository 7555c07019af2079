// Package cell cuts the stream of one object into cells of 4 KiB that each prove themselves, and adds parity cells, so
// that damage is found and mended without any key. It is section 2 of FORMAT.md.
//
//	stream:  │ 4032 B │ 4032 B │ … │ rest, zero bytes │
//	             │        │                │
//	file:    │ cell 0 │ cell 1 │ … │    cell n-1      │ parity n │ … │ parity n+m-1 │
//	             │
//	             └─ │ 4032 B of payload │ 64 B of trailer: object, ordinal, n, m, code, length, two XXH64 │
//
// # Writing
//
// A [Writer] builds a whole file in one buffer, which it keeps for the next object: [Writer.Write] scatters the stream
// over the cells, [Writer.Finish] computes parity and trailers in place.
//
// # Reading
//
// [Decode] gives the stream of a whole file back and mends up to m cells on the way, [Repair] gives the whole file
// back byte for byte as it was written, [Check] only looks. A range of the stream takes one read: [StreamSpan] says
// which bytes of the file, [Strip] takes the payloads out, and where what lies in them does not open, [CheckSpan] says
// which cells are to blame.
//
// # What to know first
//
// The tags find damage by chance, never by intent: whoever can write a cell can write its tags. What must resist a
// forger is sealed one layer up, in package object. Everything here may be given any bytes at all and neither panics
// nor takes more memory than a small multiple of what [MaxStream] and the input allow.
package cell
