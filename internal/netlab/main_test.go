package netlab

import (
	"os"
	"testing"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// Where there can be no lab, somebody is told why.
func TestCheckSaysWhatIsMissing(t *testing.T) {
	if err := Check(); err != nil {
		t.Logf("no lab here: %v", err)
		if err.Error() == "" {
			t.Fatal("no reason given")
		}
	}
}

func long() bool {
	tier := os.Getenv("HIKAE_TEST_TIER")
	return tier == "long" || tier == "release"
}
