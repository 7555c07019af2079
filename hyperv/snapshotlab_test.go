package hyperv

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae"
	"github.com/hikae/hikae/hyperv/cim"
	"github.com/hikae/hikae/hyperv/hypervtest"
	"github.com/hikae/hikae/pipe"
)

const labDisk = 8 << 20 // bytes

// lab is a fake host with VMs of content, and points made of them as a session would.
type lab struct {
	t    *testing.T
	fake *hypervtest.Host
	site *Site
	add  func(hypervtest.VM) string

	mu    sync.Mutex
	reads []int // how many events there were when a file was opened
}

// watched is files of the host whose reading is noted among the host's events: R094.
type watched struct {
	*hypervtest.LocalFiles
	l *lab
}

func (w watched) Open(ctx context.Context, name string) (pipe.Image, error) {
	w.l.mu.Lock()
	w.l.reads = append(w.l.reads, len(w.l.fake.Events()))
	w.l.mu.Unlock()
	return w.LocalFiles.Open(ctx, name)
}

func (l *lab) clearEvents() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.reads = nil
	l.fake.ClearEvents()
}

func newLab(t *testing.T, o hypervtest.Options) *lab {
	t.Helper()
	if o.JobTime == 0 {
		o.JobTime = time.Millisecond
	}
	l := &lab{t: t, fake: fake(t, o)}
	l.add = l.fake.AddVM
	l.site = l.connect()
	return l
}

// connect is a session's own way to the host.
func (l *lab) connect() *Site {
	l.t.Helper()
	s, err := ConnectSite(l.t.Context(), l.fake.Addr(), cim.Login{User: "eva", Password: "pw"}, &SiteOptions{Host: Options{CIM: &cim.Options{Plain: true}},
		Store: func(context.Context, string) (Store, error) { return watched{l.fake.LocalFiles(), l}, nil }})
	require.NoError(l.t, err)
	l.t.Cleanup(func() { s.Close() })
	return s
}

// vm makes a VM of two small disks with something on them.
func (l *lab) vm(name string, change func(*hypervtest.VM)) *hypervtest.Guest {
	l.t.Helper()
	v := hypervtest.VM{Name: name, Version: "9.0", Disks: []hypervtest.Disk{{Size: labDisk, BlockSize: 1 << 20}, {Size: labDisk / 2, BlockSize: 1 << 20}}}
	if change != nil {
		change(&v)
	}
	g := l.fake.VM(l.add(v))
	for i := range g.Disks() {
		require.NoError(l.t, g.Write(i, int64(i+1)<<20, bytes.Repeat([]byte{byte('a' + i)}, 300_000)))
	}
	return g
}

func (l *lab) provider(o *ProviderOptions) *Provider {
	l.t.Helper()
	p, err := New(l.site, nil, o)
	require.NoError(l.t, err)
	return p
}

// point is what a repository keeps of a snapshot.
type point struct {
	content     map[string][]byte
	ids         map[string]hikae.ChangeID
	config      map[string][]byte
	consistency hikae.Consistency
	read        int64            // bytes, of all disks
	committed   bool             // it is durable
	lost        map[string]error // disks that were read whole though there was a base, and why
}

// note is a journal in memory.
type note struct {
	mu      sync.Mutex
	n       int
	effects map[string]hikae.Effect
	at      func(what string) error // called before each call; an error kills the session there
}

func newNote() *note { return &note{effects: map[string]hikae.Effect{}} }

func (j *note) Session() string { return "sessionsessionsession22222" }

func (j *note) Intend(_ context.Context, e hikae.Effect) (func(context.Context) error, error) {
	if err := j.call("intend"); err != nil {
		return nil, err
	}
	j.mu.Lock()
	j.n++
	e.ID = fmt.Sprint(j.n)
	j.effects[e.ID] = e
	j.mu.Unlock()
	if err := j.call("intended"); err != nil {
		return nil, err
	}
	return func(context.Context) error {
		if err := j.call("done"); err != nil {
			return err
		}
		j.mu.Lock()
		defer j.mu.Unlock()
		delete(j.effects, e.ID)
		return nil
	}, nil
}

func (j *note) call(what string) error {
	if j.at == nil {
		return nil
	}
	return j.at(what)
}

func (j *note) left() (list []hikae.Effect) {
	j.mu.Lock()
	defer j.mu.Unlock()
	for _, id := range slices.Sorted(maps.Keys(j.effects)) {
		list = append(list, j.effects[id])
	}
	return list
}

// backup does what a session does with a VM.
func (l *lab) backup(p *Provider, g *hypervtest.Guest, base *point, journal hikae.Journal) (*point, hikae.Snapshot, error) {
	return backupOf(l.t.Context(), p, g.ID(), base, journal, nil)
}

func backupOf(ctx context.Context, p *Provider, id string, base *point, journal hikae.Journal, committed func(*point)) (pt *point, s hikae.Snapshot, err error) {
	opts := &hikae.SnapshotOptions{Journal: journal, Repository: "repo"}
	if base != nil {
		opts.Since = base.ids
	}
	if s, err = p.Snapshot(ctx, id, opts); err != nil {
		return nil, nil, err
	}
	defer func() { err = errors.Join(err, s.Release(context.WithoutCancel(ctx))) }()
	pt = &point{content: map[string][]byte{}, lost: map[string]error{}, config: s.VM().Config, consistency: s.Consistency()}
	for _, d := range s.VM().Disks {
		if d.Skip != "" {
			continue
		}
		if err := pt.read1(ctx, s, d, base); err != nil {
			return pt, s, err
		}
	}
	if pt.ids, err = s.Prepare(ctx); err != nil {
		return pt, s, err
	}
	if pt.committed = true; committed != nil {
		committed(pt)
	}
	return pt, s, s.Commit(ctx)
}

func (pt *point) read1(ctx context.Context, s hikae.Snapshot, d hikae.Disk, base *point) error {
	img, err := s.OpenDisk(ctx, d.Key)
	if err != nil {
		return err
	}
	defer img.Close()
	whole := []pipe.Extent{{Len: d.Size, Kind: pipe.Data}}
	list := whole
	out := make([]byte, d.Size)
	if base != nil && base.ids[d.Key] != "" && int64(len(base.content[d.Key])) == d.Size {
		copy(out, base.content[d.Key])
		list = nil
		pos := int64(0)
		for e, err := range s.Changed(ctx, d.Key, base.ids[d.Key]) {
			if errors.Is(err, hikae.ErrTrackingLost) {
				pt.lost[d.Key], list, pos = err, whole, d.Size
				break
			}
			if err != nil {
				return err
			}
			if e.Off != pos || e.Len <= 0 {
				return fmt.Errorf("extent %+v at %d", e, pos)
			}
			list, pos = append(list, e), e.End()
		}
		if pos != d.Size {
			return fmt.Errorf("changes end at %d", pos)
		}
	}
	for _, e := range list {
		if e.Kind != pipe.Data {
			continue
		}
		if n, err := img.ReadAt(ctx, out[e.Off:e.End()], e.Off); int64(n) < e.Len {
			return fmt.Errorf("read at %d: %w", e.Off, err)
		}
		pt.read += e.Len
	}
	pt.content[d.Key] = out
	return nil
}

// frozen is what a guest's disks held at their last moment of a checkpoint, by key.
func (l *lab) frozen(g *hypervtest.Guest) map[string][]byte {
	l.t.Helper()
	m, err := l.machine(g)
	require.NoError(l.t, err)
	out := map[string][]byte{}
	for i, d := range m.Disks {
		at := g.AtFreeze(i)
		require.NotNil(l.t, at)
		b := make([]byte, d.Size)
		if n, err := at.ReadAt(b, 0); n < len(b) {
			require.NoError(l.t, err)
		}
		out[d.Key] = b
	}
	return out
}

func (l *lab) machine(g *hypervtest.Guest) (*Machine, error) {
	h, err := l.site.Owner(l.t.Context(), g.ID())
	if err != nil {
		return nil, err
	}
	return h.Machine(l.t.Context(), g.ID())
}

// same: the point is what the guest's disks were when they stood still, to the last bit.
func (l *lab) same(g *hypervtest.Guest, pt *point) {
	l.t.Helper()
	sameContent(l.t, l.frozen(g), pt.content)
}

func sameContent(t *testing.T, want, got map[string][]byte) {
	t.Helper()
	require.ElementsMatch(t, slices.Collect(maps.Keys(want)), slices.Collect(maps.Keys(got)))
	for key, b := range want {
		if bytes.Equal(b, got[key]) {
			continue
		}
		for i := range b {
			if b[i] != got[key][i] {
				require.Failf(t, "another byte", "disk %s at %d: %x, not %x", key, i, got[key][i], b[i])
			}
		}
	}
}

// clean: nothing of ours is left, but the reference point of the last point.
func (l *lab) clean(g *hypervtest.Guest, points ...string) {
	l.t.Helper()
	l.fake.Settled(10 * time.Second)
	require.Empty(l.t, l.fake.Leftovers())
	require.ElementsMatch(l.t, points, l.fake.ReferencePoints(g.ID()))
}

// refs are the reference points that a point rests on.
func refs(pt *point) []string { return referencesOf(slices.Collect(maps.Values(pt.ids))) }

// rows are the events of a VM, by name with their row, and when its disks were read.
func (l *lab) rows(g *hypervtest.Guest) (list []string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for i, e := range l.fake.Events() {
		if slices.Contains(l.reads, i) {
			list = append(list, "read R094")
		}
		if e.VM == "" || strings.EqualFold(e.VM, g.ID()) {
			list = append(list, strings.TrimSpace(e.Name+" "+e.Row))
		}
	}
	return list
}

// tells has the guest say to its host what it runs, as the service for that does in a guest.
func (l *lab) tells(g *hypervtest.Guest, os string) {
	name := map[string]string{"windows": "Windows Server 2022 Datacenter", "linux": "Linux"}[os]
	l.fake.Lock()
	defer l.fake.Unlock()
	l.fake.Define(hypervtest.V2, hypervtest.Class{Name: "Msvm_KvpExchangeComponent", Keys: []string{"SystemName"}})
	item := func(name, data string) hypervtest.Embedded {
		return hypervtest.Embedded{Object: hypervtest.NewObject("Msvm_KvpExchangeDataItem", "Name", name, "Data", data, "Source", uint16(2))}
	}
	l.fake.Add(hypervtest.V2, hypervtest.NewObject("Msvm_KvpExchangeComponent", "SystemName", g.ID(),
		"GuestIntrinsicExchangeItems", []hypervtest.Embedded{item("OSVersion", "1"), item("OSName", name)}))
}

// notes are written into a VM's, as a person or a restore does.
func (l *lab) notes(g *hypervtest.Guest, notes ...string) {
	l.t.Helper()
	h, err := l.site.Owner(l.t.Context(), g.ID())
	require.NoError(l.t, err)
	var now struct {
		ID string `cim:"InstanceID"`
	}
	require.NoError(l.t, h.realized(l.t.Context(), g.ID(), &now))
	service, err := h.service(l.t.Context(), "Msvm_VirtualSystemManagementService")
	require.NoError(l.t, err)
	set := &cim.Instance{Class: settingClass}
	set.Set("InstanceID", now.ID)
	set.Set("Notes", notes)
	_, err = h.client.Run(l.t.Context(), service, "ModifySystemSettings", []cim.Property{{Name: "SystemSettings", Value: set}}, nil)
	require.NoError(l.t, err)
}

func longTier() bool {
	tier := os.Getenv("HIKAE_TEST_TIER")
	return tier == "long" || tier == "release"
}
