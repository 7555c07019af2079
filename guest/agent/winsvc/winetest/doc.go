// Package winetest runs the tests of the Windows parts under wine, where there is one: the pipe and the service for what
// they are, the requester of VSS against a library of ours in vssapi.dll's place (testdata/vssapi.c), built from the
// published headers that mingw-w64 has. On a real Windows those tests run by themselves, but for the ones that need that
// library. It is for whoever changes these parts; there is nothing to import.
//
// What wine 8 lacks, found out here: bcryptprimitives.dll (testdata/prng.c stands in), FileDispositionInformationEx and
// with it os.RemoveAll, delayed start and recovery actions of services, and Volume Shadow Copies altogether.
package winetest
