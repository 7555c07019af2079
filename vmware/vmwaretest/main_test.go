package vmwaretest

import (
	"io"
	"log"
	"os"
	"testing"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	if os.Getenv("HIKAE_TEST_VERBOSE") == "" {
		log.SetOutput(io.Discard) // the simulator talks
	}
	goleak.VerifyTestMain(m)
}
