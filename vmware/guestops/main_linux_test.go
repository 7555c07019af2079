package guestops

import (
	"io"
	"log"
	"os"
	"path/filepath"
	"testing"

	"github.com/hikae/hikae/guest/guesttest"
	"go.uber.org/goleak"
)

// fakeDocker is what the simulator takes for a container's program: the guest is this machine, and all that is done in it
// is done here.
const fakeDocker = `#!/bin/sh
verb=$1; shift
case $verb in
create) echo c0ffee;;
inspect) echo '[{"Config":{"Hostname":"web1"},"State":{"Running":true},"NetworkSettings":{"IPAddress":"192.0.2.1","Networks":{}}}]';;
exec)
	while :; do case $1 in -i) shift;; -w|-e) shift 2;; *) break;; esac; done
	shift; exec "$@";;
esac
`

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "g")
	if err != nil {
		panic(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "docker"), []byte(fakeDocker), 0o700); err != nil {
		panic(err)
	}
	os.Setenv("PATH", dir+":"+os.Getenv("PATH"))
	log.SetOutput(io.Discard) // the simulator tells of every command that fails
	goleak.VerifyTestMain(m,
		// The simulator keeps what it knows of a process for five minutes, and watches containers for ever.
		goleak.IgnoreAnyFunction("github.com/vmware/govmomi/toolbox/process.(*Manager).Start.func1"),
		goleak.IgnoreAnyFunction("github.com/vmware/govmomi/simulator.(*container).watchContainer.func1"),
		goleak.IgnoreAnyFunction("github.com/vmware/govmomi/simulator.(*eventWatcher).monitor"),
		goleak.Cleanup(func(status int) {
			os.RemoveAll(dir)
			guesttest.RemoveAgents()
			os.Exit(status)
		}))
}
