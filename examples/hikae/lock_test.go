package main

import (
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/hikae/hikae/repo/store/s3store/s3test"
)

// H12, H49: a bucket with Object Lock of a server that keeps locks, through the tool.
func TestLockedBucket(t *testing.T) {
	srv := s3test.Start(t)
	testscript.Run(t, testscript.Params{
		Dir: "testdata/bucket", Deadline: time.Now().Add(4 * time.Minute), RequireExplicitExec: true,
		Setup: func(e *testscript.Env) error {
			e.Setenv("LOCKED", "s3://"+srv.Host+"/"+srv.Bucket(t, s3test.Locked)+"/hikae?tls=off")
			e.Setenv("VERSIONED", "s3://"+srv.Host+"/"+srv.Bucket(t, s3test.Versioned)+"/hikae?tls=off")
			e.Setenv("AWS_ACCESS_KEY_ID", srv.AccessKey)
			e.Setenv("AWS_SECRET_ACCESS_KEY", srv.SecretKey)
			e.Setenv("HIKAE_STATE_DIR", e.WorkDir+"/.state")
			e.Setenv("HIKAE_CACHE_DIR", e.WorkDir+"/.cache")
			e.Setenv("HIKAE_PASSWORD", "a passphrase")
			e.Setenv("GORACE", "atexit_sleep_ms=0")
			return nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){"json": jsonIs, "sample": sample, "same": same, "status": status},
	})
}
