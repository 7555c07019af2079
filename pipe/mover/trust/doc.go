// Package trust says who is who among movers. Reach for it to let two machines talk that know each other, and nobody
// else; it knows nothing of what they say.
//
// # Keys and pins
//
// Each machine has one long-lived Ed25519 key, its [Identity], in a file that only it may read. A key is known by its
// [Pin], the SHA-256 of its SubjectPublicKeyInfo. There is no authority and no chain: whoever shows the key that was
// written down is the peer, and nobody else is.
//
//	client                                              server
//	identity.key ── pin ──────────────── written in ──▶ peers.book: name, role, pin
//	server's pin ◀─ written in the token ────────────── identity.key
//
// Connections are TLS 1.3 with a certificate on both sides, in one shape that is not negotiated (see [ServerTLS]).
// One port may serve several protocols by that scheme, to peers of one book; ALPN says which.
// Certificates are made in memory, are signed by their own key and end after a week; both sides check that. A peer that
// is not in the book fails in the handshake: the server sends it an alert and not a byte of anything else.
//
// In TLS 1.3 the client is done before the server has looked at its certificate. A client therefore learns of a refusal
// at its first read; [Explain] says what it means.
//
// # Enrolment
//
// A [Token] is made on the server and carried to the client by hand. It holds the server's pin and a secret, from which
// a key comes that stands in the book with a name, a role and an end. The client connects with that key and may do
// nothing but put its own key in the place of the token's, once ([Book.Enrol]).
//
// A client whose answer got lost finds its token used; then its own key is in the book already, and it only has to try
// that.
//
// # A peer's life
//
//	AddToken ─▶ token ──Enrol─▶ peer ──Rotate─▶ peer, two keys ──new key is used─▶ peer
//	              │               │                    │
//	              └── end, Revoke ┴────── Revoke ──────┴─▶ gone
//
// The book remembers the keys that are gone, so that a log can tell a revoked peer from a stranger. A name that was
// revoked may be given again: to a machine that takes another's place.
//
// # What may run at the same time
//
//	[Book], one value         any methods, from any goroutines
//	several processes         all of it: writers take a lock on trust.lock, readers see a whole book at any moment
//	Enrol with one token      exactly one wins
//	Revoke and a handshake    a handshake that begins after Revoke returned is refused, in every process
//	Revoke and open sessions  [Book.Watch] tells within 2 s; who serves sessions then asks [Book.Check]
package trust
