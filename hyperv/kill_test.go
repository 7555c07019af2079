package hyperv

import (
	"bytes"
	"context"
	"encoding/gob"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae"
	"github.com/hikae/hikae/hyperv/cim"
	"github.com/hikae/hikae/hyperv/hypervtest"
	"github.com/hikae/hikae/hyperv/vhdx"
	"github.com/hikae/hikae/pipe"
)

// The victim is a session in a process of its own, so that it dies as one does: with nothing tidied up.
const (
	victimFolder = "HIKAE_TEST_VICTIM_FOLDER" // journal, base and points
	victimHost   = "HIKAE_TEST_VICTIM_HOST"
	victimVM     = "HIKAE_TEST_VICTIM_VM"
	victimDisks  = "HIKAE_TEST_VICTIM_DISKS" // what C:\ is
	victimStep   = "HIKAE_TEST_VICTIM_STEP"  // the call of the journal before which it dies by itself; 0: none
)

// saved is a point as it lies in the folder.
type saved struct {
	IDs     map[string]hikae.ChangeID
	Content map[string][]byte
}

func (s *saved) point() *point { return &point{ids: s.IDs, content: s.Content} }

func save(folder, name string, pt *point) error {
	var b bytes.Buffer
	err := gob.NewEncoder(&b).Encode(&saved{pt.ids, pt.content})
	if err == nil {
		err = os.WriteFile(filepath.Join(folder, name+".tmp"), b.Bytes(), 0o600)
	}
	if err == nil {
		err = os.Rename(filepath.Join(folder, name+".tmp"), filepath.Join(folder, name))
	}
	return err
}

func load(folder, name string) (*point, error) {
	b, err := os.ReadFile(filepath.Join(folder, name))
	if err != nil {
		return nil, err
	}
	var s saved
	err = gob.NewDecoder(bytes.NewReader(b)).Decode(&s)
	return s.point(), err
}

// mortal is a journal that ends its process before one of its calls.
type mortal struct {
	*hikae.FileJournal
	mu     sync.Mutex
	n, die int
}

func (m *mortal) step() {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.n++; m.n == m.die {
		os.Exit(9)
	}
}

func (m *mortal) Intend(ctx context.Context, e hikae.Effect) (func(context.Context) error, error) {
	m.step()
	done, err := m.FileJournal.Intend(ctx, e)
	m.step()
	if err != nil {
		return nil, err
	}
	return func(ctx context.Context) error {
		m.step()
		err := done(ctx)
		m.step()
		return err
	}, nil
}

// direct is files of a host in a folder of this machine.
type direct struct {
	Store
	root string
}

func (d direct) Open(_ context.Context, name string) (pipe.Image, error) {
	path := filepath.Join(d.root, strings.ReplaceAll(strings.TrimPrefix(name, `C:\`), `\`, "/"))
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	fi, err := f.Stat()
	return plainFile{f, fi.Size()}, err
}

func (direct) Close() error { return nil }

type plainFile struct {
	*os.File
	size int64
}

func (f plainFile) Size() int64 { return f.size }
func (f plainFile) ReadAt(_ context.Context, p []byte, off int64) (int, error) {
	return f.File.ReadAt(p, off)
}

// TestVictim is the session. It runs only where a test has started it.
func TestVictim(t *testing.T) {
	folder := os.Getenv(victimFolder)
	if folder == "" {
		t.Skip("it is started by TestKilledSessions")
	}
	j, err := hikae.OpenFileJournal(filepath.Join(folder, "journal"))
	require.NoError(t, err)
	m := &mortal{FileJournal: j}
	_, err = fmt.Sscan(os.Getenv(victimStep), &m.die)
	require.NoError(t, err)
	site, err := ConnectSite(t.Context(), os.Getenv(victimHost), cim.Login{User: "eva", Password: "pw"}, &SiteOptions{Host: Options{CIM: &cim.Options{Plain: true}},
		Store: func(context.Context, string) (Store, error) { return direct{root: os.Getenv(victimDisks)}, nil }})
	require.NoError(t, err)
	p, err := New(site, nil, nil)
	require.NoError(t, err)
	base, err := load(folder, "base")
	require.NoError(t, err)
	_, _, err = backupOf(t.Context(), p, os.Getenv(victimVM), base, m, func(pt *point) { require.NoError(t, save(folder, "point", pt)) })
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(filepath.Join(folder, "steps"), fmt.Append(nil, m.n), 0o600))
	site.Close()
}

// killer lets a host end a victim at one of its calls: before it is answered, or when it is done and its answer is lost.
type killer struct {
	mu    sync.Mutex
	armed bool
	n     int
	at    int
	after bool
	end   func()
	calls []string
}

func (k *killer) before(c hypervtest.Seen) *hypervtest.Failure {
	k.mu.Lock()
	defer k.mu.Unlock()
	if !k.armed {
		return nil
	}
	k.n++
	k.calls = append(k.calls, c.Action)
	if k.n != k.at {
		return nil
	}
	k.armed = false
	k.end()
	return &hypervtest.Failure{Cut: !k.after, Lose: k.after}
}

func (k *killer) arm(at int, after bool, end func()) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.armed, k.n, k.at, k.after, k.end, k.calls = true, 0, at, after, end, nil
}

// death is where a session ends.
type death struct {
	call    int // of the wire; 0: none
	after   bool
	journal int // call; 0: none
}

// grave is a host, a VM with users' things in it, and a base.
type grave struct {
	*lab
	k       *killer
	g       *hypervtest.Guest
	folder  string
	foreign string // another program's reference point
	user    string // a user's checkpoint
	base    *point
	told    []string // what sweeps said
}

func newGrave(t *testing.T, nameless bool) *grave {
	k := &killer{}
	v := &grave{lab: newLab(t, hypervtest.Options{Dir: t.TempDir(), Before: k.before, DropNames: nameless}), k: k, folder: t.TempDir()}
	v.g = v.vm("web1", nil)
	var err error
	v.user, err = v.g.Checkpoint("a user's")
	require.NoError(t, err)
	v.foreign = v.another()
	require.NoError(t, v.g.Write(0, 0, []byte("before the base")))
	v.base, _, err = v.backup(v.provider(nil), v.g, nil, nil)
	require.NoError(t, err)
	require.NoError(t, save(v.folder, "base", v.base))
	require.NoError(t, v.g.Write(0, 3<<20, []byte("after the base")))
	return v
}

// another program makes a reference point, and nothing that is ours.
func (l *lab) another() string {
	l.t.Helper()
	for _, id := range l.fake.VMs() {
		h, err := l.site.Owner(l.t.Context(), id)
		require.NoError(l.t, err)
		vm, err := h.vmRef(l.t.Context(), id)
		require.NoError(l.t, err)
		service, err := h.service(l.t.Context(), "Msvm_VirtualSystemSnapshotService")
		require.NoError(l.t, err)
		_, err = h.client.Run(l.t.Context(), service, "CreateSnapshot", []cim.Property{{Name: "AffectedSystem", Value: vm},
			{Name: "SnapshotSettings", Value: ""}, {Name: "SnapshotType", Value: uint16(typeRecovery)}}, nil)
		require.NoError(l.t, err)
		list, err := h.checkpoints(l.t.Context(), id)
		require.NoError(l.t, err)
		for _, in := range list {
			if in.Text("VirtualSystemType") != recovery {
				continue
			}
			ref, err := in.Keyed(cim.Virtualization, "InstanceID")
			require.NoError(l.t, err)
			_, err = h.client.Run(l.t.Context(), service, "ConvertToReferencePoint", []cim.Property{{Name: "AffectedSnapshot", Value: ref},
				{Name: "ReferencePointSettings", Value: ""}}, nil)
			require.NoError(l.t, err)
		}
		points := l.fake.ReferencePoints(id)
		require.Len(l.t, points, 1)
		l.fake.Settled(10 * time.Second)
		return points[0]
	}
	return ""
}

// run starts the victim, and returns when it is dead.
func (v *grave) run(d death) (output string, err error) {
	cmd := exec.CommandContext(v.t.Context(), os.Args[0], "-test.run=^TestVictim$", "-test.timeout=60s")
	cmd.Env = append(os.Environ(), victimFolder+"="+v.folder, victimHost+"="+v.fake.Addr(), victimVM+"="+v.g.ID(),
		victimDisks+"="+filepath.Join(v.fake.Dir(), "C"), fmt.Sprintf("%s=%d", victimStep, d.journal))
	out := &strings.Builder{}
	cmd.Stdout, cmd.Stderr = out, out
	started := make(chan struct{})
	v.k.arm(d.call, d.after, func() { <-started; cmd.Process.Kill() })
	if err := cmd.Start(); err != nil {
		return "", err
	}
	close(started)
	err = cmd.Wait()
	v.k.mu.Lock()
	defer v.k.mu.Unlock()
	v.k.armed = false
	return out.String(), err
}

// TestKilledSessions: R080–R095 with a session that dies. A sweep from the journal alone leaves nothing of it, touches nothing of
// anybody else, and the next increment is right, from whichever point is there.
func TestKilledSessions(t *testing.T) {
	if testing.Short() {
		t.Skip("it starts processes")
	}
	dry := newGrave(t, false)
	out, err := dry.run(death{})
	require.NoError(t, err, out)
	calls := dry.k.n
	steps := 0
	b, err := os.ReadFile(filepath.Join(dry.folder, "steps"))
	require.NoError(t, err)
	_, err = fmt.Sscan(string(b), &steps)
	require.NoError(t, err)
	require.Greater(t, calls+steps, 40)
	t.Logf("a session has %d calls and %d steps of its journal", calls, steps)

	var deaths []death
	for n := 1; n <= steps; n++ {
		deaths = append(deaths, death{journal: n})
	}
	for n := 1; n <= calls; n++ {
		deaths = append(deaths, death{call: n}, death{call: n, after: true})
	}
	every := 1
	if !longTier() {
		every = len(deaths)/8 + 1
	}
	for i := 0; i < len(deaths); i += every {
		d := deaths[i]
		t.Run(fmt.Sprintf("%+v", d), func(t *testing.T) { t.Parallel(); killAt(t, d, false) })
	}
	// On a host that keeps no names the session dies while its checkpoint is made: its job tells which it is, once that is known.
	create := slices.Index(dry.k.calls, "CreateSnapshot") + 1
	require.Positive(t, create)
	for _, d := range []death{{call: create}, {call: create, after: true}, {call: create + 1}, {call: create + 1, after: true}} {
		t.Run(fmt.Sprintf("nameless %+v", d), func(t *testing.T) { t.Parallel(); killAt(t, d, true) })
	}
}

// sweep is the next start's. A checkpoint that nothing proves to be the session's stays, and is told, until a person removes it.
func (v *grave) sweep(p *Provider, next *hikae.FileJournal, keep []hikae.ChangeID, unproven bool) {
	t := v.t
	sweep := func() error {
		_, err := next.SweepFor(t.Context(), "repo", map[string]hikae.Sweeper{"hyperv.": p}, keep)
		return err
	}
	err := sweep()
	if unproven {
		left := candidatesOf(t, err)
		require.ElementsMatch(t, append(left, v.user), v.g.Checkpoints())
		require.Len(t, left, 1)
		require.NoError(t, v.g.RemoveCheckpoint(left[0]))
		err = sweep()
	}
	require.NoError(t, err)
}

func killAt(t *testing.T, d death, nameless bool) {
	v := newGrave(t, nameless)
	out, err := v.run(d)
	require.Error(t, err, "it was to die: %s", out)
	require.NotContains(t, out, "--- FAIL")

	last, err := load(v.folder, "point")
	if os.IsNotExist(err) {
		last, err = v.base, nil
	}
	require.NoError(t, err)
	var keep []hikae.ChangeID
	for _, pt := range []*point{v.base, last} {
		for _, id := range pt.ids {
			keep = append(keep, id)
		}
	}
	next, err := hikae.OpenFileJournal(filepath.Join(v.folder, "journal"))
	require.NoError(t, err)
	defer next.Close()
	p := v.provider(nil)
	p.opts.Warn = func(_, text string) { v.told = append(v.told, text) }
	v.sweep(p, next, keep, nameless && d.after && v.k.calls[d.call-1] == "CreateSnapshot")
	for e, err := range next.Pending(t.Context()) {
		require.NoError(t, err)
		require.Failf(t, "an effect is left", "%+v", e)
	}
	v.untouched(t, refs(last)...)

	require.NoError(t, v.g.Write(1, 2<<20, []byte("after the sweep")))
	now, _, err := v.backup(p, v.g, last, next)
	require.NoError(t, err)
	v.same(v.g, now)
	require.Empty(t, now.lost, "the base is whole")
	v.untouched(t, refs(now)...)
}

// untouched: what is there is the user's checkpoint, the other program's reference point and our base. One that nobody can prove to be
// ours stays, and is told by name: the session died while its host made it.
func (v *grave) untouched(t *testing.T, ours ...string) {
	t.Helper()
	v.fake.Settled(10 * time.Second)
	points := slices.DeleteFunc(v.fake.ReferencePoints(v.g.ID()), func(id string) bool {
		return !slices.Contains(ours, id) && strings.Contains(strings.Join(v.told, "\n"), id+", made")
	})
	require.ElementsMatch(t, append(ours, v.foreign), points)
	require.Equal(t, []string{v.user}, v.g.Checkpoints())
	for _, line := range v.fake.Leftovers() {
		require.Contains(t, line, "reference points") // the other program's beside ours
	}
}

var _ vhdx.Files = direct{}
