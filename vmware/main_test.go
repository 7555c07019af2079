package vmware

import (
	"runtime/debug"
	"testing"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	debug.SetGCPercent(400) // the race detector makes each collection dear
	goleak.VerifyTestMain(m)
}
