package requestertest

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"github.com/hikae/hikae/hyperv/helper/requester"
)

// Service is a [requester.VSS].
type Service struct {
	Volumes map[string]string // mount (C:\) to a folder of this machine
	VMs     []requester.Component
	// Fault is asked before each call, by its name; it may be nil. It may take its time.
	Fault func(ctx context.Context, call string) error
	// WriterErr is how the writer is when it is asked after the snapshot.
	WriterErr error
	// Persist has shadow copies stay when their requester goes, as after a crash of the service.
	Persist bool

	mu     sync.Mutex
	calls  []string
	copies map[string]*copied // by device
	open   int
	live   int
	making *backup
	last   int
}

type copied struct {
	requester.Snapshot
	root string
}

var _ requester.VSS = (*Service)(nil)

// Writer is the instance of the writer.
const Writer requester.ID = "{11111111-2222-3333-4444-555555555555}"

func (s *Service) say(ctx context.Context, format string, args ...any) error {
	call := fmt.Sprintf(format, args...)
	s.mu.Lock()
	s.calls = append(s.calls, call)
	s.mu.Unlock()
	if s.Fault != nil {
		name, _, _ := strings.Cut(call, " ")
		if err := s.Fault(ctx, name); err != nil {
			return err
		}
	}
	return ctx.Err()
}

// Calls are those that were made so far, in their order.
func (s *Service) Calls() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.calls)
}

// Left is what there is: shadow copies, requesters and open files.
func (s *Service) Left() (list []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for device := range s.copies {
		list = append(list, "shadow copy "+device)
	}
	if s.live > 0 {
		list = append(list, fmt.Sprintf("%d requesters", s.live))
	}
	if s.open > 0 {
		list = append(list, fmt.Sprintf("%d open files", s.open))
	}
	return list
}

// Volume implements [requester.VSS].
func (s *Service) Volume(_ context.Context, file string) (requester.Volume, error) {
	best := ""
	for mount := range s.Volumes {
		if len(file) >= len(mount) && strings.EqualFold(file[:len(mount)], mount) && len(mount) > len(best) {
			best = mount
		}
	}
	if best == "" {
		return requester.Volume{}, fmt.Errorf("%s: %w", file, fs.ErrNotExist)
	}
	return requester.Volume{Name: nameOf(best), Mount: best}, nil
}

func nameOf(mount string) string { return `\\?\Volume{` + mount + `}\` }

func (s *Service) path(device, path string) (string, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	c := s.copies[device]
	if c == nil {
		return "", fmt.Errorf("%s: %w", device, fs.ErrNotExist)
	}
	return filepath.Join(c.root, filepath.FromSlash(strings.ReplaceAll(path, `\`, "/"))), nil
}

// Open implements [requester.VSS].
func (s *Service) Open(_ context.Context, device, path string) (requester.File, error) {
	name, err := s.path(device, path)
	if err != nil {
		return nil, err
	}
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	fi, err := f.Stat()
	if err != nil || !fi.Mode().IsRegular() {
		return nil, errors.Join(err, f.Close(), fs.ErrInvalid)
	}
	s.count(1)
	return &file{File: f, size: fi.Size(), service: s}, nil
}

func (s *Service) count(n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.open += n
}

type file struct {
	*os.File
	size    int64
	service *Service
}

func (f *file) Size() int64 { return f.size }

func (f *file) Close() error {
	f.service.count(-1)
	return f.File.Close()
}

// List implements [requester.VSS].
func (s *Service) List(_ context.Context, device, path string) (list []requester.Entry, err error) {
	name, err := s.path(device, path)
	if err != nil {
		return nil, err
	}
	entries, err := os.ReadDir(name)
	if err != nil {
		return nil, err
	}
	for _, e := range entries {
		one := requester.Entry{Name: e.Name(), Dir: e.IsDir()}
		if fi, err := e.Info(); err == nil && !e.IsDir() {
			one.Size = fi.Size()
		}
		list = append(list, one)
	}
	return list, nil
}

// New implements [requester.VSS].
func (s *Service) New(ctx context.Context) (requester.Backup, error) {
	if err := s.say(ctx, "New"); err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.live++
	return &backup{s: s}, nil
}
