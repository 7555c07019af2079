// Package wsman writes and reads the messages by which a command runs in a Windows Remote Shell: bytes in, bytes out, whoever
// carries them.
//
//	Create   → a shell's id          Send     input of a command, and its end
//	Command  → a command's id        Receive  → output, and the exit code when it has ended
//	Delete   ends a shell            Signal   ends a command
//
// What is read is a peer's word: the caller bounds its size, and here a document is read once, from beginning to end, without
// a tree of it. A failure that the peer tells is a [Fault].
//
// Source: [MS-WSMV] 2.2.4 and 3.1.4, with the worked messages of its section 4.
package wsman
