// Package smbtest is a double of a Windows guest for tests, over a real wire: a Samba server of the test's own whose
// ADMIN$ is a folder, and behind its named pipes the fake service control manager of guest/smbchannel/scm/scmtest, the
// server service, and the pipes of the programs that services start.
//
// Samba hands each pipe that it does not know to a unix socket of that name, so that what a client sees of pipes is what
// a real server makes of them: blocking reads beside writes, ends, credits, signatures.
package smbtest
