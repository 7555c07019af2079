//go:build linux

// Fxguest is the only program of the test guest besides the guest agent: as process 1 it brings the machine up, as
// journal it writes numbered records for ever, as shutdown it ends the machine, and as fx it does single things that a
// test asks for.
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
