//go:build linux

// Fxguest is the program of the test guests that is not stock: as process 1 it brings the machine up, as journal it
// writes numbered records for ever, as shutdown it ends the machine, as fsfreeze-hook it notes when the agent freezes
// and thaws, and as fx it does single things that a test asks for.
//
// There are two guests. The small one has all of it in memory and one file system on a disk. The server has its root on
// a disk, a swap area, PostgreSQL and SQLite; see [bootServer].
package main

import (
	"fmt"
	"os"
	"path/filepath"
)

func main() {
	name := filepath.Base(os.Args[0])
	args := os.Args[1:]
	switch {
	case os.Getpid() == 1:
		boot()
	case name == "shutdown":
		fail(shutdown())
	case name == "fsfreeze-hook" && len(args) == 1:
		fail(noteHook(args[0]))
	case len(args) == 0:
		fail(fmt.Errorf("usage: fx VERB …"))
	case args[0] == "journal":
		fail(journal(dataDir + "/journal"))
	default:
		fail(verb(args[0], args[1:]))
	}
}

func fail(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, "fx:", err)
		os.Exit(1)
	}
}
