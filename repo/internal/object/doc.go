// Package object seals content into objects and opens it again. It is section 3 of FORMAT.md.
//
//	stream:  │ header │ frame 0 │ frame 1 │ … │ sealed table │ its length │        cut into cells by package cell
//	             │         └─ one piece of content, encoded, AES-256-GCM, nonce 0, 1, 2 …
//	             └─ who it is; commitment to its data key; 1 … 16 wraps of that key
//
// # Writing
//
// A [Builder] makes one object after another in one buffer. Each gets a random id and a random data key, which is
// wrapped by every [Wrapper]; [Builder.Append] seals a frame, [Builder.Check] opens it again from where it will be
// written from, [Builder.Seal] gives the file. Ordinals, and so nonces, are assigned inside and never come back.
//
// # Reading
//
// [OpenFile] and [Open] take a whole small object. Of a pack, [ReadTable] reads the header, the table and nothing else;
// the [Cipher] it returns opens single frames, from any goroutine.
//
// # What to know first
//
// A frame opens only in its own place: repository, object, kind, suite, ordinal, type, codec and plain length are all
// authenticated. AES-GCM does not commit to a key, so the header does. In suite 0, for repositories without
// encryption, the data key stands in the header and the same seals only find damage.
// Pass [Clear] as a key only for such a repository: for any other, an object in suite 0 is a forgery, and without Clear
// among the keys it is ErrNoKey.
package object
