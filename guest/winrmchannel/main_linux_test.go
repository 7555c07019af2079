package winrmchannel

import (
	"os"
	"testing"

	"github.com/hikae/hikae/guest/guesttest"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m, goleak.Cleanup(func(status int) {
		guesttest.RemoveAgents()
		os.Exit(status)
	}))
}
