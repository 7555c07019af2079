// Package winrm carries messages of WS-Management to a Windows machine: it connects, logs on, encrypts, and makes one
// exchange of a message and its answer. Who writes the messages is above it: remote shells (guest/winrmchannel) and CIM
// (hyperv/cim).
//
// # What goes over the line
//
//	TLS    NTLM bound to the certificate, Kerberos, Basic or a client certificate log on; messages go as they are
//	HTTP   NTLM or Kerberos log on and encrypt each message; nothing goes in clear text, and there is no switch for it
//
// An encrypted message is two parts of a multipart document, the second of them a length, a signature and sealed bytes:
//
//	--Encrypted Boundary
//	    Content-Type: application/HTTP-SPNEGO-session-encrypted      (HTTP-Kerberos-session-encrypted)
//	    OriginalContent: type=application/soap+xml;charset=UTF-8;Length=N
//	--Encrypted Boundary
//	    Content-Type: application/octet-stream
//	LLLL signature[LLLL] sealed[N]--Encrypted Boundary--
//
// A failure is an [*Error] that says at which step it happened, and whether the server may have got the message.
//
// Sources: [MS-WSMV] 2.2.9.1, [MS-NLMP], RFC 4121 and RFC 4120 for Kerberos. It met only our own listener.
package winrm
