package netlab

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// Lab owns spaces, cables and roads. It may be used by several goroutines at once.
type Lab struct {
	mu     sync.Mutex
	spaces []*Space
	roads  []*Road
	nets   int
	closed bool
}

// New returns an empty lab, and removes what dead processes left.
func New(ctx context.Context) (*Lab, error) {
	if err := Check(); err != nil {
		return nil, err
	}
	if err := Sweep(ctx); err != nil {
		return nil, err
	}
	return &Lab{}, nil
}

// Close ends the roads and removes the namespaces. A namespace lives on, without a name, while a socket or a process is
// in it.
func (l *Lab) Close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.closed = true
	var errs []error
	for _, r := range l.roads {
		errs = append(errs, r.close())
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	for _, s := range l.spaces {
		errs = append(errs, s.remove(ctx))
	}
	l.roads, l.spaces = nil, nil
	return errors.Join(errs...)
}

// spaces made by this process, for their names.
var made atomic.Int64

// namePrefix begins the names of our namespaces.
const namePrefix = "hikae-"

// spaceName is hikae-<process>-<its start>-<n>-<what>.
func spaceName(n int64, what string) string {
	return fmt.Sprintf("%s%d-%s-%d-%s", namePrefix, os.Getpid(), startOf(os.Getpid()), n, what)
}

// startOf is when a process started, in ticks since the machine did: with it an id names one process, not two in turn.
// It is empty where there is no such process.
func startOf(pid int) string {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return ""
	}
	_, after, _ := strings.Cut(string(stat[strings.LastIndexByte(string(stat), ')')+1:]), " ")
	fields := strings.Fields(after) // the first is the third of the file
	if len(fields) < 20 {
		return ""
	}
	return fields[19]
}

// Sweep removes namespaces that a process made which is gone.
func Sweep(ctx context.Context) error {
	entries, err := os.ReadDir(runDir)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	var errs []error
	for _, e := range entries {
		if orphan(e.Name()) {
			errs = append(errs, removeSpace(ctx, e.Name()))
		}
	}
	return errors.Join(errs...)
}

// orphan: the name is one of ours, and its process is gone.
func orphan(name string) bool {
	rest, ours := strings.CutPrefix(name, namePrefix)
	parts := strings.SplitN(rest, "-", 4)
	if !ours || len(parts) < 4 {
		return false
	}
	pid, err := strconv.Atoi(parts[0])
	return err == nil && pid > 0 && startOf(pid) != parts[1]
}

// removeSpace removes a namespace; one that somebody else removed meanwhile is gone all the same.
func removeSpace(ctx context.Context, name string) error {
	_, err := run(ctx, "ip", "netns", "del", name)
	if err != nil && errors.Is(unix.Access(runDir+"/"+name, 0), unix.ENOENT) {
		return nil
	}
	return err
}
