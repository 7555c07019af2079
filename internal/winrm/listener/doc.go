// Package listener is the server's side of what package winrm speaks, for tests: logging on by NTLM and Kerberos, and
// encrypted messages, made from [MS-NLMP], [MS-WSMV] 2.2.9.1, RFC 4120 and RFC 4121. It shares no code with the client. What
// a message says is for who uses it: a remote shell's listener, a Hyper-V host's.
package listener
