// Package pack is the form in which components travel to an installer service: a program behind a short signed header.
// Reach for it to make packages, or to check one before anything of it is written where it can run.
//
// # The file
//
//	hikae-package 1
//	name hikae-agent
//	version 1.4.0
//	os linux
//	arch amd64
//	size 5242880
//	sha256 9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08
//	downgrade no
//	signature 3q2+7w…
//	                     (an empty line, and then the program's bytes)
//
// Lines end with a line feed. The signature is Ed25519 (RFC 8032) over all lines before it, in base64 (RFC 4648) with
// padding. There is one way to write a header, and everything else is refused, so nothing that was not signed can be
// read out of it. The signature covers the program by its length and SHA-256.
//
// # Who may sign
//
// An installer service trusts the keys that were laid down when it was installed, and no others; a package cannot bring
// a key. A version that is lower than the highest that was ever installed is refused, however well it is signed, unless
// its signer wrote "downgrade yes": whoever holds an old package with a known hole must not be able to put it back.
package pack
