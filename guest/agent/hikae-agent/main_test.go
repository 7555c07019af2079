package main

import (
	"os"
	"path/filepath"
	"testing"

	"go.uber.org/goleak"
)

// asComponent in the environment makes this binary the component: tests start it as one.
const asComponent = "HIKAE_TEST_COMPONENT"

const componentName = "hikae-agent"

func TestMain(m *testing.M) {
	// A component starts others of itself, some with an environment of their own. By its name too it is known, for one
	// that took itself for the tests would start them all again, and so would each of those.
	if os.Getenv(asComponent) != "" && len(os.Args) == 4 && os.Args[1] == "controller" {
		otherEnd(os.Args[2], os.Args[3])
		os.Exit(1)
	}
	if os.Getenv(asComponent) != "" || filepath.Base(os.Args[0]) == componentName {
		main()
		os.Exit(3) // main does not return
	}
	os.Setenv(asComponent, "yes")
	os.Setenv("GORACE", "atexit_sleep_ms=0")
	goleak.VerifyTestMain(m)
}
