package kvm

import (
	"context"
	"os"
	"testing"

	"go.uber.org/goleak"
)

// toolDir is where the command-line tool is built to, once for all tests of this process; empty: it was not needed.
var toolDir string

func TestMain(m *testing.M) {
	if len(os.Args) == 3 && os.Args[1] == guardArg { // first: a victim's guard has the victim's environment
		if err := RunGuard(context.Background(), os.Args[2], os.Stdin, os.Stdout); err != nil {
			os.Exit(1)
		}
		return
	}
	if os.Getenv(victimEnv) != "" {
		os.Exit(victim())
	}
	goleak.VerifyTestMain(m, goleak.Cleanup(func(status int) {
		if toolDir != "" {
			os.RemoveAll(toolDir)
		}
		os.Exit(status)
	}))
}

// long reports whether the tests that take minutes are wanted too.
func long() bool {
	tier := os.Getenv("HIKAE_TEST_TIER")
	return tier == "long" || tier == "release"
}
