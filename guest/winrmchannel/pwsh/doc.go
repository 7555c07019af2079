// Package pwsh makes command lines for Windows' PowerShell out of a fixed script and words that are data. A word may hold
// anything: it is base64 inside the script and is never read as PowerShell, by cmd or by another shell.
//
// The scripts of this package were checked as text and by the words that they carry; PowerShell itself was not at hand where
// they were tested.
package pwsh
