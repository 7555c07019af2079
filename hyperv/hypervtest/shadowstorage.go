package hypervtest

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"strings"

	"github.com/hikae/hikae/pipe"
)

// Storage is the array that the host's volumes lie on, as its vendor's own software reaches it: it pins volumes by itself, beside
// the host's VSS, and brings them to a backup proxy. Where [VSSOptions].HardwareProvider is set, it brings transportable shadow
// copies of the host's there too.
type Storage struct{ v *hostVSS }

// Storage is that of this host.
func (h *Host) Storage() *Storage { return &Storage{h.hostVSS()} }

// storage is what it knows.
type storage struct {
	snaps  map[string]*storageSnap
	made   int
	counts StorageCounts
}

// StorageCounts are what the array did so far, and what it holds now.
type StorageCounts struct {
	Snapshots, Deleted, Mounts, Unmounts int // so far
	Held, Mounted                        int // now
}

// storageSnap is one snapshot of volumes, or a set of the host's VSS that was brought to the proxy.
type storageSnap struct {
	id, mark string
	shadows  []*shadow
	imported bool // the shadow copies are the host's
	mounted  bool
}

// ErrMounted is what the array says to the deletion of what is mounted.
var ErrMounted = errors.New("the snapshot is mounted on the proxy")

const storageOwner = "storage"

// Volume is the volume that a file lies on. A share is another machine's, and is errors.ErrUnsupported.
func (s *Storage) Volume(file string) (string, error) {
	mount, err := s.v.h.volumeOf(file)
	if err == nil && !s.v.supported(mount) {
		return "", fmt.Errorf("%s is no volume of this array: %w", mount, errors.ErrUnsupported)
	}
	return mount, err
}

// Snapshot pins volumes at one moment, which is the host's as after a power cut, and tells an id. The mark finds it again.
func (s *Storage) Snapshot(ctx context.Context, mark string, volumes []string) (string, error) {
	for _, m := range volumes {
		if got, err := s.Volume(m); err != nil || got != m {
			return "", fmt.Errorf("volume %s: %w", m, errors.Join(err, fs.ErrInvalid))
		}
	}
	if err := s.fault("storage.snapshot"); err != nil {
		return "", err
	}
	resume, err := s.v.h.pause()
	if err != nil {
		return "", err
	}
	shadows, err := s.v.copyVolumes(ctx, "", storageOwner, volumes, nil)
	resume()
	if err != nil {
		return "", err
	}
	id := s.keep(&storageSnap{mark: mark, shadows: shadows})
	s.v.h.event(Event{Actor: "host", Name: "volume snapshot", Row: "R096", Detail: strings.Join(volumes, " ")})
	return id, nil
}

func (s *Storage) keep(snap *storageSnap) string {
	s.v.mu.Lock()
	defer s.v.mu.Unlock()
	if s.v.storage.snaps == nil {
		s.v.storage.snaps = map[string]*storageSnap{}
	}
	s.v.storage.made++
	snap.id = fmt.Sprintf("array-%d", s.v.storage.made)
	s.v.storage.snaps[snap.id] = snap
	if !snap.imported {
		s.v.storage.counts.Snapshots++
	}
	return snap.id
}

// Import takes over a transportable set that the host's VSS made, by its id. The shadow copies stay the host's.
func (s *Storage) Import(mark, set string) (string, error) {
	list := s.v.find(func(c *shadow) bool {
		return c.transportable && strings.EqualFold(strings.Trim(c.Set, "{}"), strings.Trim(set, "{}"))
	})
	if len(list) == 0 {
		return "", fmt.Errorf("no transportable set %s: %w", set, fs.ErrNotExist)
	}
	return s.keep(&storageSnap{mark: mark, shadows: list, imported: true}), nil
}

// Mount mounts a snapshot on the proxy: a folder of this machine for each volume. [Storage.Open] reads there by the host's own names.
// It can be mounted once.
func (s *Storage) Mount(ctx context.Context, id string) (folders map[string]string, err error) {
	if err := errors.Join(ctx.Err(), s.fault("storage.mount")); err != nil {
		return nil, err
	}
	s.v.mu.Lock()
	defer s.v.mu.Unlock()
	snap := s.v.storage.snaps[id]
	switch {
	case snap == nil:
		return nil, fmt.Errorf("snapshot %s: %w", id, fs.ErrNotExist)
	case snap.mounted:
		return nil, fmt.Errorf("snapshot %s: %w", id, ErrMounted)
	}
	folders = map[string]string{}
	for _, c := range snap.shadows {
		folders[c.Volume] = c.dir
	}
	snap.mounted = true
	s.v.storage.counts.Mounts++
	s.v.h.event(Event{Actor: "requester", Name: "mounted on the proxy", Row: "R097", Detail: id})
	return folders, nil
}

// Open opens, on the proxy, a file of a mounted snapshot by the name that the host has for it.
func (s *Storage) Open(ctx context.Context, id, name string) (pipe.Image, error) {
	mount := s.v.h.volumeAt(name)
	s.v.mu.Lock()
	snap := s.v.storage.snaps[id]
	if snap == nil || !snap.mounted {
		s.v.mu.Unlock()
		return nil, fmt.Errorf("snapshot %s is not mounted: %w", id, fs.ErrNotExist)
	}
	list := snap.shadows
	s.v.mu.Unlock()
	for _, c := range list {
		if strings.EqualFold(c.Volume, mount) {
			return c.openFile(ctx, name[len(mount):])
		}
	}
	return nil, fmt.Errorf("snapshot %s has nothing of %s: %w", id, mount, fs.ErrNotExist)
}

// Unmount takes it away from the proxy. What is not mounted is no error.
func (s *Storage) Unmount(ctx context.Context, id string) error {
	if err := errors.Join(ctx.Err(), s.fault("storage.unmount")); err != nil {
		return err
	}
	s.v.mu.Lock()
	defer s.v.mu.Unlock()
	if snap := s.v.storage.snaps[id]; snap != nil && snap.mounted {
		snap.mounted = false
		s.v.storage.counts.Unmounts++
		s.v.h.event(Event{Actor: "requester", Name: "unmounted from the proxy", Detail: id})
	}
	return nil
}

// Delete deletes a snapshot that is not mounted. What is not there is no error; of an imported set only the import goes.
func (s *Storage) Delete(ctx context.Context, id string) error {
	if err := errors.Join(ctx.Err(), s.fault("storage.delete")); err != nil {
		return err
	}
	s.v.mu.Lock()
	snap := s.v.storage.snaps[id]
	if snap == nil || snap.mounted {
		s.v.mu.Unlock()
		if snap != nil {
			return fmt.Errorf("snapshot %s: %w", id, ErrMounted)
		}
		return nil
	}
	delete(s.v.storage.snaps, id)
	s.v.mu.Unlock()
	if snap.imported {
		return nil
	}
	if err := s.v.drop(snap.shadows); err != nil {
		return err
	}
	s.v.mu.Lock()
	s.v.storage.counts.Deleted++
	s.v.mu.Unlock()
	s.v.h.event(Event{Actor: "host", Name: "volume snapshot deleted", Row: "R099", Detail: id})
	return nil
}

// Find are the snapshots that were made with a mark.
func (s *Storage) Find(mark string) (ids []string) {
	s.v.mu.Lock()
	defer s.v.mu.Unlock()
	for id, snap := range s.v.storage.snaps {
		if snap.mark == mark {
			ids = append(ids, id)
		}
	}
	return ids
}

// Counts are what it did so far, and what it holds now.
func (s *Storage) Counts() StorageCounts {
	s.v.mu.Lock()
	defer s.v.mu.Unlock()
	c := s.v.storage.counts
	for _, snap := range s.v.storage.snaps {
		c.Held++
		if snap.mounted {
			c.Mounted++
		}
	}
	return c
}

func (s *Storage) fault(event string) error {
	if f := s.v.h.eventFault("", event); f != nil {
		return f.err()
	}
	return nil
}
