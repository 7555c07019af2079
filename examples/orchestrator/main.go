// Command orchestrator shows how a program of one's own drives many backups at once. It needs nothing but Go:
//
//	go run ./examples/orchestrator
//
// It starts a fake vSphere of eight virtual machines on two hosts, and a repository in memory. Requests for backups come into its own queue;
// it works on them through package job/engine, shows what happens, retries what failed, keeps metrics for Prometheus, and can be cancelled:
// Ctrl-C ends all in good order, a line "cancel web3" one, "pause" and "resume" what they say. lab.go is what a real program has not:
// the fake. The rest is orchestrator.go.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"time"
)

func main() {
	ctx, stop := context.WithTimeout(context.Background(), 5*time.Minute)
	defer stop()
	buttons := make(chan os.Signal, 1)
	signal.Notify(buttons, os.Interrupt)
	if err := run(ctx, os.Stdout, os.Stdin, buttons); err != nil {
		fmt.Fprintln(os.Stderr, "orchestrator:", err)
		os.Exit(1)
	}
}

// run is two waves of requests over the fake.
func run(ctx context.Context, out io.Writer, commands io.Reader, buttons <-chan os.Signal) (err error) {
	dir, err := os.MkdirTemp("", "hikae-orchestrator-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	lab, err := newLab(ctx, dir)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, lab.close()) }()
	o, err := newOrchestrator(dir, out, lab.client, lab.repo)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, o.close()) }()
	go o.listen(commands, buttons)

	fmt.Fprintln(out, "Eight VMs are asked for, two at once on each host. web5's host refuses its first snapshot.")
	lab.refuseOnce("web5")
	for _, vm := range lab.server.VMs() {
		o.queue <- vm.Name()
	}
	if err := o.work(ctx); err != nil {
		return err
	}
	fmt.Fprintln(out, "\nThree guests write, and are asked for again: what changed is read, and nothing else.")
	for _, name := range []string{"web0", "web3", "web6"} {
		if err := lab.write(name, 2); err != nil {
			return err
		}
		o.queue <- name
	}
	if err := o.work(ctx); err != nil {
		return err
	}
	return o.figures(dir)
}
