package kvm

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// A backup job of QEMU before 10.1 stops the guest when its fleecing image cannot take any more. Before 7.1 there is no
// filter that gives the snapshot up instead. So we do, in time: a watch looks at what the images take up of their file
// system, and ends the jobs long before it is full. Asking the file system costs no turn of the monitor; but the monitor
// is held for as long, so that nobody is in the way when it is needed.

const (
	// watchEvery bounds what the guest can write unseen: at 2 GB/s some 20 MB.
	watchEvery = 10 * time.Millisecond
	// giveUpWithin is for one attempt.
	giveUpWithin = 30 * time.Second
)

// watch runs beside a snapshot that is kept by backup jobs.
type watch struct {
	cancel context.CancelFunc
	ended  chan struct{}
}

// startWatch begins to watch. A quarter of what is free now is never touched, whoever fills the rest.
func (s *snapshot) startWatch() {
	ctx, cancel := context.WithCancel(context.Background()) // until the release, whatever becomes of the session's context
	s.watch = &watch{cancel: cancel, ended: make(chan struct{})}
	reserve := int64(0)
	if free, err := FreeBytes(s.Dir); err == nil {
		reserve = free / 4
	}
	go func() {
		defer close(s.watch.ended)
		s.patrol(ctx, reserve)
	}()
}

// unwatch ends the watch, which leaves the monitor.
func (s *snapshot) unwatch() {
	if s.watch == nil {
		return
	}
	s.watch.cancel()
	<-s.watch.ended
	s.watch = nil
	s.disconnect() // it may be one that has ended long ago
}

func (s *snapshot) patrol(ctx context.Context, reserve int64) {
	tick := time.NewTicker(watchEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		if full := s.full(reserve); full != nil {
			s.giveUp(ctx, full)
			return
		}
	}
}

// full says what is full. A file that cannot be looked at is not known to have room.
func (s *snapshot) full(reserve int64) error {
	for i, d := range s.Disks {
		used, err := allocatedBytes(s.file(i))
		if err != nil {
			return err
		}
		if used > d.limit {
			return fmt.Errorf("the fleecing image of disk %s has grown to %d bytes", d.Key, used)
		}
	}
	free, err := FreeBytes(s.Dir)
	if err == nil && free < reserve {
		err = fmt.Errorf("%s has %d bytes left", s.Dir, free)
	}
	return err
}

// giveUp ends the jobs, so that the guest can write on, and with them the snapshot.
func (s *snapshot) giveUp(ctx context.Context, why error) {
	err := fmt.Errorf("%w: %w", ErrBroken, why)
	s.broken.Store(&err) // before: what is read from now on is not believed
	ctx, cancel := context.WithTimeout(ctx, giveUpWithin)
	defer cancel()
	failed := s.cancelJobs(ctx, s.mon)
	if failed != nil {
		failed = errors.Join(err, fmt.Errorf("give the snapshot up: %w", failed))
		s.broken.Store(&failed)
	}
}

// failure is why the snapshot was given up, nil while it stands.
func (s *snapshot) failure() error {
	if err := s.broken.Load(); err != nil {
		return *err
	}
	return nil
}
