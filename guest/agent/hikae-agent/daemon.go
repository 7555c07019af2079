package main

import (
	"bufio"
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"time"

	"github.com/hikae/hikae/guest/agent"
)

// readyLimit is how long a daemon may take to get ready.
const readyLimit = 20 * time.Second

const ready = "ready"

// daemon starts a component that stays when we end, and says so when it listens.
func daemon(ctx context.Context, args []string) error {
	p, err := place(args)
	if err != nil {
		return err
	}
	exe, err := os.Executable()
	if err != nil {
		return err
	}
	cmd := exec.Command(exe, "stay", "--dir", p.Dir())
	detach(cmd)
	out, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	said := make(chan string, 1)
	go func() {
		line, _ := bufio.NewReaderSize(out, 4<<10).ReadString('\n')
		said <- strings.TrimSpace(line)
	}()
	select {
	case line := <-said:
		if line != ready {
			cmd.Process.Kill()
			cmd.Wait()
			return fmt.Errorf("the component did not stay: %s", cmp.Or(line, "it ended"))
		}
	case <-time.After(readyLimit):
		cmd.Process.Kill()
		return fmt.Errorf("the component did not get ready within %v", readyLimit)
	case <-ctx.Done():
		cmd.Process.Kill()
		return ctx.Err()
	}
	fmt.Println(ready)
	return nil
}

// stay is the daemon's own process. Its first line says that it listens, or why it does not. The folder goes however it
// ends, but for its name: that stays taken until nobody runs what lay in it any more, or until whoever takes the component
// away ends this process.
func stay(ctx context.Context, args []string) error {
	p, err := place(args)
	if err != nil {
		fmt.Println(err)
		return err
	}
	l, err := agent.Listen(p)
	if err != nil {
		fmt.Println(err)
		return err
	}
	fmt.Println(ready)
	os.Stdout.Close()
	err = relayedComponent(p).Relay().Serve(ctx, l)
	return errors.Join(err, p.RemoveLater(ctx))
}

// relay brings bytes of one call to the daemon and bytes back.
func relay(ctx context.Context, args []string) error {
	var dir string
	var call uint
	var wait int64
	var ask agent.Ask
	err := flags(args, func(s *flag.FlagSet) {
		s.StringVar(&dir, "dir", "", "")
		s.UintVar(&call, "call", 0, "")
		s.Int64Var(&ask.In, "in", 0, "")
		s.Int64Var(&ask.Out, "out", 0, "")
		s.Int64Var(&wait, "wait", 0, "")
		s.IntVar(&ask.Max, "max", 0, "")
	})
	if err != nil {
		return err
	}
	if call == 0 || call > 1<<32-1 || wait < 0 || wait > agent.MaxAskWait.Milliseconds() {
		return errUsage
	}
	ask.Call, ask.Wait = uint32(call), time.Duration(wait)*time.Millisecond
	return agent.Bring(ctx, dir, ask, os.Stdin, os.Stdout)
}
