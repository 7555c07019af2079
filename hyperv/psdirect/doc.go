// Package psdirect reaches Windows guests of Hyper-V by PowerShell Direct: over the machine's own bus, so that no network has
// to lead to the guest. Reach for it where a guest is closed off, its host can be reached by WinRM, and an account in the
// guest is known.
//
// # What to know first
//
// PowerShell Direct works from the Hyper-V host alone. So there are two accounts: the host's, which the caller has opened a
// channel with (package guest/winrmchannel), and the guest's, which this package hands to a script on the host by its
// standard input: never in a command line, an environment or a file. The host is Windows 10 or Windows Server 2016 or newer
// with PowerShell 5, the guest too; what fails says which of them it is.
//
// Each call makes a session into the guest and takes it away. There is one script for each kind of call, in script.go and,
// as it goes to a host, in testdata; names, command lines and files come to it as data.
//
// # Not yet verified on Windows
//
// PowerShell never ran these scripts. They were checked as text, and by the data that goes in and comes out.
package psdirect
