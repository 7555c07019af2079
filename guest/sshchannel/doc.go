// Package sshchannel reaches guests by SSH: any system that runs OpenSSH or another server of that protocol, on one TCP
// port. Reach for it where a guest is on a network that the backup server can see and an account there is known.
//
// # What to know first
//
// Host keys are always checked: against files in the form of known_hosts (with certificate authorities), against
// fingerprints, or, only where a file for it is named, trusted the first time and held to from then on. A key that has
// changed is told apart from one that is not known: see [HostKeyError].
//
// One TCP connection carries everything. Files go by SFTP, or through cat where the server has none. Whatever an account's
// start files print is cut off, and what is printed to the standard error is never a failure by itself.
//
// Words are handed to the guest's shell so that every login shell in use (sh, bash, dash, zsh, ksh, csh, tcsh, fish) reads
// the same ones: see quote.go.
//
// A component acts as root: the account is root's, or may run sudo without a password. Nobody is asked for one.
//
// Windows with OpenSSH is recognised, whether its shell is cmd or PowerShell. That was not yet verified on Windows.
package sshchannel
