// Package scmtest is a service control manager that stands for a Windows machine's in tests: it has the procedures that
// package scm calls, keeps services as MS-SCMR says, and starts what its owner gives it to start.
//
// It speaks over anything that carries bytes; behind a real Samba it is what Samba has not (CreateServiceW,
// DeleteService). That our client gets along with it says nothing about Windows.
package scmtest
