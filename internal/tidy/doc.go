// Package tidy holds the tests over the tree itself: which package may import which (layering_test.go), and what every
// file owes its reader (tidy_test.go, docs_test.go). It has no code of its own.
//
// A failure names the file and what to do. Where a rule is wrong for one file, the exception goes into that rule's
// table together with its reason.
package tidy
