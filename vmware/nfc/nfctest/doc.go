// Package nfctest is a host's network disk service for tests: the authentication daemon on TCP and the disk service behind
// it, over disks that the caller has. Reach for it to test a client of the service, or to be one without a host.
//
//	ss, err := nfctest.Listen("127.0.0.1:0", &nfctest.Options{Open: open})
//	err = ss.AddTicket(nfctest.Ticket{Session: id, Service: "vpxa-nfc"})
//	… a client connects to ss.Addr(), checks ss.Thumbprint(), and shows the ticket …
//	err = ss.Close()
//
// # What is true of it
//
// It says what the vectors in vmware/nfc/testdata/vectors say, which were made from published notes before it. It shares no
// code with the client in vmware/nfc. It has met no real client but that one, and where the vectors say guess, it guesses:
// do not take it for a host. FastLZ is not spoken: it answers uncompressed, which the protocol allows.
//
// # What may run beside what
//
//	reads                 at once, as many as the session has buffers, answered in any order
//	fragments of a read   in order, unless a [Fault] turns them round
//	writes                one after the other, as they come; the answer follows the last fragment
//	closing a file        after all that was asked before
//	methods of Server     at once
package nfctest
