package winsvc

import (
	"context"
	"errors"
	"os"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
)

// serviceWord makes this binary the service that TestService installs; the file that it writes follows.
const serviceWord = "be-a-service"

func TestMain(m *testing.M) {
	if len(os.Args) == 3 && os.Args[1] == serviceWord {
		err := RunService("hikae-test", func(ctx context.Context, ready func()) error {
			time.Sleep(300 * time.Millisecond) // it takes its time, and is waited for
			err := os.WriteFile(os.Args[2], []byte("runs"), 0o600)
			ready()
			<-ctx.Done()
			return errors.Join(err, os.WriteFile(os.Args[2], []byte("ended"), 0o600))
		})
		if err != nil {
			os.Exit(1)
		}
		return
	}
	goleak.VerifyTestMain(m)
}

// A service is made, started, stopped and removed; doing the last again is no error.
func TestService(t *testing.T) {
	self, err := os.Executable()
	require.NoError(t, err)
	dir, err := os.MkdirTemp("", "with space ")
	require.NoError(t, err)
	file := dir + `\said`
	defer func() { os.Remove(file); os.Remove(dir) }()
	require.NoError(t, RemoveService(t.Context(), "hikae-test"), "what is not there is removed")
	note, err := InstallService(t.Context(), Service{Name: "hikae-test", Title: "Hikae test", Program: self, Args: []string{serviceWord, file}})
	require.NoError(t, err)
	if !emulated() {
		require.Empty(t, note)
	}
	b, err := os.ReadFile(file)
	require.NoError(t, err, "it runs when it said that it is ready, and not before")
	require.Equal(t, "runs", string(b))
	_, err = InstallService(t.Context(), Service{Name: "hikae-test", Program: self})
	require.Error(t, err, "it is there")
	require.NoError(t, RemoveService(t.Context(), "hikae-test"))
	require.Eventually(t, func() bool { b, _ := os.ReadFile(file); return string(b) == "ended" }, 10*time.Second, 50*time.Millisecond)
	require.NoError(t, RemoveService(t.Context(), "hikae-test"))

	require.Error(t, RunService("hikae-test", func(context.Context, func()) error { return nil }), "nobody started this process as a service")
	_, err = InstallService(t.Context(), Service{Name: "bad name"})
	require.Error(t, err)
}
