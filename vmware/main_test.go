package vmware

import (
	"runtime/debug"
	"testing"

	"go.uber.org/goleak"
)

// Tests run one after the other: simulators share default devices and a licence within the library, so that two of them at once
// are a data race.
func TestMain(m *testing.M) {
	debug.SetGCPercent(400) // the race detector makes each collection dear
	goleak.VerifyTestMain(m)
}
