// Command mutate changes one decision at a time in a Go file, and asks the package's tests whether they notice.
//
//	go run ./internal/mutate -run 'TestKeep|TestForget' -n 40 -seed 1 ./repo/retain.go ./repo/deletion.go
//
// A mutant that no test notices is printed with its place: either a test is missing, or the code decides nothing there. The tree is
// not touched: each mutant is compiled from an overlay. Mutants are drawn at random by a seed that is printed, so that a figure can
// be measured again.
//
// # Operators
//
//	== !=   < <= > >=   && ||   + -      turned into each other
//	if c                                 if !(c)
//	break continue                       turned into each other
//	return nil, and a last result of err taken for nil
//	a statement that is a call           left out
//
// # What a figure means
//
// Only the tests that -run names are asked, within -timeout: a survivor of few tests may be killed by others. Mutants that do not
// compile are not counted; those that make the tests run out of time are killed.
package main
