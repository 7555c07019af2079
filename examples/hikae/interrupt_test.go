package main

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
)

// interrupt runs a program, sends it N interrupts after WAIT, and holds that it ends with 130:
//
//	interrupt 1 300ms hikae backup …
//
// Its output goes to interrupted.out and interrupted.err.
func interrupt(ts *testscript.TestScript, neg bool, args []string) {
	need(ts, neg, len(args) >= 3, "interrupt N WAIT PROGRAM ARG…")
	n, err := strconv.Atoi(args[0])
	ts.Check(err)
	wait, err := time.ParseDuration(args[1])
	ts.Check(err)
	program, err := exec.LookPath(filepath.Join(filepath.SplitList(ts.Getenv("PATH"))[0], args[2]))
	ts.Check(err)
	var out, errs bytes.Buffer
	cmd := exec.Command(program, args[3:]...)
	cmd.Dir, cmd.Stdout, cmd.Stderr = ts.MkAbs("."), &out, &errs
	for _, name := range []string{"HIKAE_PASSWORD", "HIKAE_STATE_DIR", "HIKAE_CACHE_DIR", "HOME", "PATH", "GORACE"} {
		cmd.Env = append(cmd.Env, name+"="+ts.Getenv(name))
	}
	ts.Check(cmd.Start())
	killed := time.AfterFunc(time.Minute, func() { cmd.Process.Kill() })
	defer killed.Stop()
	for range n {
		time.Sleep(wait)
		ts.Check(cmd.Process.Signal(os.Interrupt))
	}
	got := exitStatus(ts, cmd.Wait())
	ts.Check(os.WriteFile(ts.MkAbs("interrupted.out"), out.Bytes(), 0o600))
	ts.Check(os.WriteFile(ts.MkAbs("interrupted.err"), errs.Bytes(), 0o600))
	if got != 130 {
		ts.Fatalf("exit status %d where 130 was expected\n%s%s", got, out.String(), errs.String())
	}
}
