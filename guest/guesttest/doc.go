// Package guesttest has real servers for tests that reach into a guest. Reach for it wherever a session, a channel or a
// proxy is tested: [SSHD] starts OpenSSH's own server on the loopback, with keys, accounts and file systems that nobody else
// sees, [QGA] QEMU's guest agent, [Far] puts a delay before any server, [Agents] builds the component.
//
// A server lives in namespaces of its own: /tmp, /var/tmp, /run, /root and /home are empty and private, the accounts are
// made up, and with the test all its processes are gone. That needs root; without it the test is skipped. Without
// CAP_SYS_ADMIN, which it has only where a test asks for it, nothing in there can freeze a file system of the machine.
//
// Nothing here is for use outside of tests. It works on Linux; where a program is missing the test is skipped with its
// name.
package guesttest
