//go:build unix

package main

import (
	"context"
	"os"
	"os/signal"
	"sync"
	"syscall"
)

// hearPauses lets SIGUSR1 pause the run and SIGUSR2 have it go on, until stop is called.
func (r *jobRun) hearPauses(ctx context.Context) (stop func()) {
	ctx, cancel := context.WithCancel(ctx)
	heard := make(chan os.Signal, 4)
	signal.Notify(heard, syscall.SIGUSR1, syscall.SIGUSR2)
	var hearing sync.WaitGroup
	hearing.Go(func() {
		for {
			select {
			case <-ctx.Done():
				return
			case s := <-heard:
				if s == syscall.SIGUSR1 {
					r.control.Pause(false)
				} else {
					r.control.Resume()
				}
			}
		}
	})
	return func() {
		signal.Stop(heard)
		cancel()
		hearing.Wait()
	}
}
