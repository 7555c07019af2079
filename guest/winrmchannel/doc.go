// Package winrmchannel reaches Windows guests by WinRM, the remote management that Windows Server has running from the start:
// TCP 5986 with TLS, or 5985 with messages that are encrypted one by one. Reach for it where SMB is closed; and for Hyper-V
// hosts, from which package hyperv/psdirect goes on.
//
// # What to know first
//
// Nothing goes in clear text, and there is no switch for it. With TLS the server's certificate is checked against authorities
// or against its thumbprint; then NTLM, Kerberos, Basic or a client certificate log on. Without TLS it is NTLM or Kerberos that logs
// on and encrypts; a server that does not is refused before it has got any message.
//
// A program is started without a shell in between, in a remote shell of its own; deleting that shell ends the program. A
// component is spoken to over its standard streams in such a shell: see [guest.Launcher]. Whatever a script of ours works
// on is data to it and never part of its text.
//
// Only NTLMv2 with session security, 128 bit keys and sealing is spoken. Over TLS the logon is bound to the server's
// certificate.
//
// # Not yet verified on Windows
//
// What was tested is a listener of our own (package winrmtest), made from the protocol's documents. PowerShell never ran:
// its scripts were checked as text and by the data that they carry. Kerberos was tested with tickets of our own making; no
// domain controller gave one.
package winrmchannel
