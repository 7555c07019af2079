// Package winrmtest is a WinRM listener for tests, made from [MS-WSMV] and [MS-NLMP] and sharing no code with the client: its
// own reading of messages, and the NTLM of package internal/winrm/listener. What it is asked to run is a function of the test's.
//
// [Windows] stands in for a guest as far as our scripts go: it takes each for what its text says, works on the data that it
// carries, and keeps files in memory. No PowerShell runs.
package winrmtest
