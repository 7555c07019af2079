package freeze

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime/debug"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/hikae/hikae/guest/agent"
)

// again is how often a watchdog whose time is over thaws anew.
const again = 200 * time.Millisecond

// Watchdog is what the watchdog's process does, with the arguments that the component gives it: it says on out that it is
// armed, thaws when the hold is over or in ends, and ends when in says so, or has ended and everything is thawed. It
// touches no disk.
func Watchdog(args []string, in io.Reader, out io.Writer) error {
	c, err := parseCharge(args)
	if err != nil {
		return err
	}
	files := c.descriptors()
	for _, f := range files {
		if _, err := unix.FcntlInt(f.Fd(), unix.F_GETFD, 0); err != nil {
			return errUsage
		}
	}
	steady()
	thawAll([]*os.File{os.Stderr}) // so that what is needed later has run once; no file system's thaw is tried
	if _, err := fmt.Fprintln(out, wordArmed); err != nil {
		return err
	}
	over := time.NewTimer(c.hold)
	released := make(chan bool, 1) // false: our parent is gone
	go func() {
		word, _ := bufio.NewReaderSize(in, 64).ReadString('\n')
		released <- word == wordRelease+"\n"
	}()
	late := false
	for {
		select {
		case <-over.C:
			late = true
			thawAll(files)
			over.Reset(again)
		case told := <-released:
			if !told {
				thawAll(files)
				return c.sweep()
			}
			word := wordHeld
			if late {
				word = wordLate
			}
			_, err := fmt.Fprintln(out, word)
			return err
		}
	}
}

// steady makes it unlikely that anything but a SIGKILL of its own stops this process: signals that mean others, memory that
// would have to be read from a disk that stands still, the kernel's choice of a victim when there is none left. Each is
// done where it is allowed.
func steady() {
	signal.Ignore(syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP, syscall.SIGPIPE, syscall.SIGQUIT)
	debug.SetGCPercent(-1) // it lives for seconds
	os.WriteFile("/proc/self/oom_score_adj", []byte("-1000"), 0)
	unix.Setpriority(unix.PRIO_PROCESS, 0, -20)
	unix.Mlockall(unix.MCL_CURRENT | unix.MCL_FUTURE | unix.MCL_ONFAULT) // what was touched stays; a reserve takes nothing
}

// thawAll thaws at once what is frozen: one that hangs keeps no other, and one that lies on another waits for it by itself.
// It waits for them 5 s at most.
func thawAll(files []*os.File) {
	var group sync.WaitGroup
	for _, f := range files {
		group.Go(func() { thawUntil(int(f.Fd())) })
	}
	done := make(chan struct{})
	go func() {
		group.Wait()
		close(done)
	}()
	select {
	case <-done:
	case <-time.After(5 * time.Second):
	}
}

// thawUntil thaws until it is not frozen.
func thawUntil(fd int) {
	for range 50 {
		if err := ioctlThaw(fd); err == nil || errors.Is(err, unix.EINVAL) || errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.ENOTTY) {
			return
		}
		time.Sleep(again / 2)
	}
}

// sweep removes the folder that nobody else will.
func (c charge) sweep() error {
	if c.leave == "" {
		return nil
	}
	place, err := agent.OpenPlace(c.leave)
	if err != nil {
		return err
	}
	return place.Remove()
}
