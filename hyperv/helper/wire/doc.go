// Package wire is the protocol between a backup server and the program that asks a Hyper-V host's shadow copy service for it: frames
// on one stream that somebody has secured (a named pipe on a signed SMB session). The set of messages is closed, and every one is
// bounded before memory is taken for it.
//
// # A frame
//
//	0   4  length of the payload, bytes
//	4   1  kind
//	5   3  zero
//	8   4  call, not 0: requests and answers of one call have the same
//	12     payload
//
// Numbers are unsigned and big-endian. A text is 2 bytes of length and that many of UTF-8; a long text has 4. A list is 4 bytes
// of count and its members. A bool is 0 or 1. Nothing may follow the last field.
//
// # Kinds
//
//	1   Hello       magic HKHV, version 2 bytes, lease 4 (ms), session text
//	2   Components
//	3   Take        mark text, flags 1 byte (1 full, 2 transportable), limit 4 (ms), VMs list of text
//	4   Open        set 4, name text
//	5   Read        file 4, offset 8, length 4
//	6   Shut        file 4
//	7   List        set 4, folder text
//	8   Finish      set 4, VMs that are good list of text
//	9   Delete      set 4
//	10  Sweep       mark text
//	11  Ping
//	12  Cancel      the call that it has the number of; it has no answer of its own
//	13  Bye
//	112 Progress    of a Take, any number of times: stage text, detail text, elapsed 4 (ms)
//	+128            the answer to a request: see the structs named …Answer
//	255 Failure     instead of an answer: code 1 byte, again bool, operation text, message text, hint text
//
// The first frame is a Hello, with the call 1. Up to MaxCalls calls are open at once, and of them answers come in any order. What a
// Read gives beyond the file's end is not there: its answer is shorter.
//
// # How much is on its way
//
// A client asks for at most MaxRead bytes at once and has at most MaxCalls calls open: that is the window, and what either side
// holds in memory.
package wire
