package hypervtest

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/hikae/hikae/hyperv/helper/requester"
	"github.com/hikae/hikae/hyperv/vhdx"
)

// vssSet is a set of shadow copies and the VMs in it.
type vssSet struct {
	id      requester.ID
	owner   string
	volumes []string // where they are mounted: C:\
	ids     map[string]requester.ID
	vms     []*vssVM
	copies  bool // what is asked for is a copy

	transportable bool

	mu      sync.Mutex
	shadows []*shadow
	goneRow string // the row of its deletion
	ended   bool   // the backup was completed or aborted
	deleted bool   // the shadow copies are gone
	after   []func(context.Context) error
}

// vssVM is one VM in a set.
type vssVM struct {
	g      *Guest
	id     string
	offer  vssOffer
	failed error
	saved  bool       // it is at the moment
	pinned []*content // of each disk, at the moment that the backup is of
	later  []*content // at the moment at which the files are copied, or not written to any more
	tips   []string   // its files then, as the host calls them
	vhds   []bool
	shared []bool

	recoveryAt []string       // where auto-recovery writes, of each disk
	recovery   map[int]string // those that are there
}

func (m *vssVM) online() bool { return m.failed == nil && m.offer.method == vssOnline }

func (s *vssSet) there() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return !s.deleted && slices.ContainsFunc(s.shadows, func(c *shadow) bool { return !c.gone.Load() })
}

// failure is the first of its VMs': one fails the set.
func (s *vssSet) failure() error {
	for _, m := range s.vms {
		if m.failed != nil {
			return m.failed
		}
	}
	return nil
}

func (v *hostVSS) setOf(id requester.ID) *vssSet {
	v.mu.Lock()
	defer v.mu.Unlock()
	for own, s := range v.sets {
		if strings.EqualFold(string(own), string(id)) {
			return s
		}
	}
	return nil
}

// take makes the set, in the order of the host's generation. The status is the writer's.
func (v *hostVSS) take(ctx context.Context, set *vssSet, c requester.Context) (status, err error) {
	recover := c&requester.AttrNoAutorecovery == 0
	set.transportable = c&requester.AttrTransportable != 0
	switch {
	case !v.h.gen.since("2012r2"):
		return v.take2008(ctx, set, recover)
	case !v.h.gen.since("2016"):
		return v.take2012R2(ctx, set, recover)
	}
	return v.take2016(ctx, set)
}

// say records what happened to a VM.
func (v *hostVSS) say(m *vssVM, row, actor, name string, detail ...string) {
	v.h.event(Event{Actor: actor, Name: name, VM: m.id, Row: row, Detail: strings.Join(detail, " ")})
}

// quiesce is what the guest's own VSS, or its freezing of file systems, comes to. On failure the VM's part of the set has failed.
func (v *hostVSS) quiesce(ctx context.Context, m *vssVM) bool {
	f := v.h.eventFault(m.id, "freeze")
	if f == nil {
		return true
	}
	if err := wait(ctx, f.Delay); err != nil {
		m.failed = vssError("PrepareSnapshot", m.id, requester.WriterTimeout, "the integration components gave up")
		return false
	}
	if f.Code == 0 && f.Reason == "" {
		return true
	}
	code, text := requester.Code(f.Code), f.Reason
	if code < 0x80000000 {
		code = requester.WriterRetryable
	}
	if text == "" {
		text = "the guest could not be quiesced"
	}
	m.failed = vssError("PrepareSnapshot", m.id, code, text)
	v.say(m, "", "writer", "failed", m.failed.Error())
	return false
}

// pin notes what each disk holds. The guest's mu is held.
func (m *vssVM) pin() {
	for _, d := range m.g.drives {
		d.frozen = d.now()
		m.pinned = append(m.pinned, d.frozen)
	}
}

// note does so for the moment at which the files are left alone. The guest's mu is held.
func (m *vssVM) note() {
	m.later, m.tips, m.vhds, m.shared, m.recoveryAt = nil, nil, nil, nil, nil
	for _, d := range m.g.drives {
		m.later, m.tips, m.vhds = append(m.later, d.now()), append(m.tips, d.tip.name), append(m.vhds, d.vhd)
		m.shared, m.recoveryAt = append(m.shared, d.shared()), append(m.recoveryAt, recoveryName(d))
	}
}

// save puts a VM into saved state, and resume takes it out of it.
func (v *hostVSS) save(m *vssVM) {
	v.h.Lock()
	m.g.mu.Lock()
	m.saved, m.g.on = true, false
	m.g.enter(stateSaved)
	m.pin()
	m.g.mu.Unlock()
	v.h.Unlock()
	v.say(m, "", "writer", "saves the VM")
}

func (v *hostVSS) resume(m *vssVM) {
	v.h.Lock()
	m.g.mu.Lock()
	m.saved, m.g.on = false, true
	m.g.enter(stateOn)
	m.g.mu.Unlock()
	v.h.Unlock()
	v.say(m, "", "writer", "resumes the VM")
}

// stand deals with VMs that are not backed up online: they are saved, or are off.
func (v *hostVSS) stand(m *vssVM) {
	if m.offer.method == vssSaved {
		v.save(m)
		return
	}
	m.g.mu.Lock()
	m.pin()
	m.g.mu.Unlock()
}

// goOn resumes those that were saved.
func (v *hostVSS) goOn(set *vssSet) {
	for _, m := range set.vms {
		if m.saved {
			v.resume(m)
		}
	}
}

// pinVolumes makes the shadow copies while everything stands still. Within, during is called.
func (v *hostVSS) pinVolumes(ctx context.Context, set *vssSet, row string, during func()) error {
	if err := v.fault("", "vss.volume", "DoSnapshotSet"); err != nil {
		return err
	}
	resume, err := v.h.pause()
	if err != nil {
		return err
	}
	defer resume()
	during()
	shadows, err := v.copyVolumes(ctx, string(set.id), set.owner, set.volumes, set.ids)
	if err != nil {
		return err
	}
	for _, c := range shadows {
		c.transportable = set.transportable
	}
	set.mu.Lock()
	set.shadows = shadows
	set.mu.Unlock()
	v.h.event(Event{Actor: "host", Name: "volume snapshot", Row: row, Detail: strings.Join(set.volumes, " ")})
	return nil
}

// open lets the writer work in the shadow copies, or ends that. They are marked as those that a writer worked in.
func (s *vssSet) open(yes bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, c := range s.shadows {
		c.writable.Store(yes)
		c.recovered.Store(true)
	}
}

// end is the end of the backup, as the writer sees it.
func (v *hostVSS) end(ctx context.Context, set *vssSet) error {
	set.mu.Lock()
	defer set.mu.Unlock()
	set.ended = true
	return v.settle(ctx, set)
}

// deleteSet deletes the shadow copies of a set.
func (v *hostVSS) deleteSet(ctx context.Context, set *vssSet) error {
	set.mu.Lock()
	defer set.mu.Unlock()
	if !set.deleted {
		if err := v.drop(set.shadows); err != nil {
			return err
		}
		if len(set.shadows) > 0 {
			v.h.event(Event{Actor: "host", Name: "volume snapshot deleted", Row: set.goneRow})
		}
		set.deleted = true
	}
	return v.settle(ctx, set)
}

// settle does what the writer has left to do, when the backup is at its end and the shadow copies are gone.
func (v *hostVSS) settle(ctx context.Context, set *vssSet) error {
	if !set.ended || !set.deleted {
		return nil
	}
	var errs []error
	for _, f := range set.after {
		errs = append(errs, f(ctx))
	}
	set.after = nil
	v.mu.Lock()
	delete(v.sets, set.id)
	v.mu.Unlock()
	return errors.Join(errs...)
}

// wait sleeps.
func wait(ctx context.Context, d time.Duration) error {
	if d <= 0 {
		return ctx.Err()
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return nil
	}
}

// recovering is the time that auto-recovery takes, and how it fails.
func (v *hostVSS) recovering(ctx context.Context, m *vssVM) error {
	if err := wait(ctx, v.options().Recover); err != nil {
		return err
	}
	f := v.h.eventFault(m.id, "recover")
	if f == nil {
		return nil
	}
	if err := wait(ctx, f.Delay); err != nil || f.Code == 0 && f.Reason == "" {
		return err
	}
	return vssError("DoSnapshotSet", m.id, requester.AutorecoveryFailed, f.Reason)
}

// rollback writes into a disk's file, or a child of it, what a disk held before: the pages that differ from what it holds. Nobody
// else has the file open. Parents are looked for below folder.
func rollback(ctx context.Context, path, folder string, vhd bool, before, now *content) (n int, err error) {
	pages := different(before, now)
	if len(pages) == 0 {
		return 0, nil
	}
	var f file
	if vhd {
		f, err = openVHD(path)
	} else {
		f, err = vhdx.OpenDisk(ctx, path, &vhdx.Options{Live: true, Folder: folder, CacheBytes: 4 << 20})
	}
	if err != nil {
		return 0, err
	}
	b := make([]byte, pageBytes)
	for _, page := range pages {
		p := b[:min(pageBytes, before.size-page*pageBytes)]
		if _, err = before.ReadAt(p, page*pageBytes); err == nil {
			_, err = f.WriteAt(ctx, p, page*pageBytes)
		}
		if err != nil {
			return 0, errors.Join(fmt.Errorf("rolling back %s: %w", filepath.Base(path), err), f.Close())
		}
	}
	return len(pages), f.Commit(ctx)
}

// different are the pages of a that are not those of b: pages are replaced and never changed, so that it is enough to look whether
// they are the same.
func different(a, b *content) (list []int64) {
	for at, p := range a.pages {
		if q := b.pages[at]; q == nil || &p[0] != &q[0] {
			list = append(list, at)
		}
	}
	for at := range b.pages {
		if a.pages[at] == nil && at*pageBytes < a.size {
			list = append(list, at)
		}
	}
	return list
}

// pathOf finds where a file of the host lies in the copies of a set, and the folder in which all of these are.
func (s *vssSet) pathOf(v *hostVSS, name string) (path, root string, ok bool) {
	mount := v.h.volumeAt(name)
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, c := range s.shadows {
		if !strings.EqualFold(c.Volume, mount) {
			continue
		}
		path, err := below(c.dir, name[len(mount):])
		if root = c.root; c.shares != nil {
			root = c.dir
		}
		return path, root, err == nil
	}
	return "", "", false
}
