package hikae

import (
	"os"
	"testing"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	if dir := os.Getenv(childEnv); dir != "" {
		journalChild(dir)
		return
	}
	goleak.VerifyTestMain(m)
}
