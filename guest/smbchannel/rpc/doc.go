// Package rpc makes remote procedure calls to a Windows machine over one of its named pipes: bind to an interface, call
// a procedure by its number, get the answer's bytes. Reach for it to write the client or the server of one more
// interface; package guest/smbchannel/scm is an example of both.
//
// It is the connection-oriented protocol of DCE 1.1 (The Open Group, C706, chapters 12 and 14), as far as MS-RPCE needs
// it over SMB: version 5.0, little-endian, NDR 2.0, one presentation context, no security of its own. Who is who was
// settled by the SMB session that carries the pipe, which also signs every message.
//
// # Fragments
//
//	 0  1  version: 5             16  body:
//	 1  1  minor version: 0       bind      4 sizes  4 group  contexts
//	 2  1  type                   bind_ack  4 sizes  4 group  address  results
//	 3  1  flags: 1 first 2 last  request   4 hint  2 context  2 procedure  arguments
//	 4  4  data: 10 00 00 00      response  4 hint  2 context  2 zero       results
//	 8  2  length of it all       fault     4 hint  2 context  2 zero       4 status
//	10  2  length of security: 0
//	12  4  number of the call
//
// The machine at the other end is not trusted: every length is held against what arrived before a byte of memory is
// taken for it, and an answer that is shorter or longer than what the procedure gives is an error.
package rpc
