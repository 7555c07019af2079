package hypervtest

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae/hyperv/vhdx"
	"github.com/hikae/hikae/pipe"
)

// core is a host with one VM of two disks.
func core(t *testing.T, o Options, v VM) (*Host, *Guest) {
	t.Helper()
	if o.JobTime == 0 {
		o.JobTime = time.Millisecond
	}
	h, err := Start(&o)
	require.NoError(t, err)
	t.Cleanup(h.Close)
	if v.Disks == nil {
		v.Disks = []Disk{{Size: 24 << 20, BlockSize: 1 << 20}, {Size: 9<<20 + 4096, BlockSize: 2 << 20, SectorSize: 4096}}
	}
	if v.Name == "" {
		v.Name = "web1"
	}
	id := h.AddVM(v)
	return h, h.VM(id)
}

// do calls a method of a service and waits for its job.
func (h *Host) do(t *testing.T, service, method string, in map[string][]string, refs map[string]*Object) ([]any, error) {
	t.Helper()
	h.Lock()
	s := h.services[service]
	require.NotNil(t, s, service)
	m := h.methodOf(s, method)
	require.NotNil(t, m, method)
	c := &Call{Host: h, Object: s, Method: method, In: in, Refs: refs, Lists: map[string][]*Object{}}
	for n, o := range refs {
		c.Lists[n] = []*Object{o}
	}
	code, out := h.run(c, m)
	h.Unlock()
	if code == 0 {
		return out, nil
	}
	if code != 4096 {
		return out, fmt.Errorf("returned %d", code)
	}
	job := given(out, "Job").(*Object)
	for range 5000 {
		h.Lock()
		h.tick(time.Now())
		state := job.Values["JobState"].(uint16)
		text, _ := job.text("ErrorDescription")
		h.Unlock()
		switch state {
		case 7, 32768:
			return append(out, "job", job), nil
		case 4:
			time.Sleep(time.Millisecond)
		default:
			return out, fmt.Errorf("job: %s", text)
		}
	}
	return nil, fmt.Errorf("%s has no end", method)
}

func given(out []any, name string) any {
	for i := 0; i+1 < len(out); i += 2 {
		if out[i] == name {
			return out[i+1]
		}
	}
	return nil
}

const (
	snapshots  = "Msvm_VirtualSystemSnapshotService"
	images     = "Msvm_ImageManagementService"
	management = "Msvm_VirtualSystemManagementService"
	references = "Msvm_VirtualSystemReferencePointService"
)

func level(n int) string {
	return fmt.Sprintf(`<INSTANCE CLASSNAME="Msvm_VirtualSystemSnapshotSettingData"><PROPERTY NAME="ConsistencyLevel" TYPE="uint8"><VALUE>%d</VALUE></PROPERTY>`+
		`<PROPERTY NAME="GuestBackupType" TYPE="uint8"><VALUE>2</VALUE></PROPERTY></INSTANCE>`, n)
}

// recovery makes a recovery checkpoint as a client does, and finds it.
func (h *Host) recovery(t *testing.T, g *Guest, consistency int) (*Object, error) {
	t.Helper()
	before := h.asked(t, "SELECT * FROM Msvm_VirtualSystemSettingData WHERE VirtualSystemType = '"+typeRecovery+"'")
	_, err := h.do(t, snapshots, "CreateSnapshot", map[string][]string{"SnapshotType": {"32768"}, "SnapshotSettings": {level(consistency)}}, map[string]*Object{"AffectedSystem": g.object})
	if err != nil {
		return nil, err
	}
	for _, o := range h.asked(t, "SELECT * FROM Msvm_VirtualSystemSettingData WHERE VirtualSystemType = '"+typeRecovery+"'") {
		if !slices.Contains(before, o) {
			return o, nil
		}
	}
	return nil, fmt.Errorf("it is not listed")
}

func (h *Host) asked(t *testing.T, q string) []*Object {
	t.Helper()
	h.Lock()
	defer h.Unlock()
	found, _, err := h.query(V2, q)
	require.NoError(t, err)
	return found
}

// files are the disks' files of settings, in order of the disks.
func (h *Host) files(set *Object) (names []string) {
	h.Lock()
	defer h.Unlock()
	for _, o := range h.parts(set) {
		if sub, _ := o.text("ResourceSubType"); sub == subDisk {
			names = append(names, firstOf(o.Values["HostResource"]))
		}
	}
	return names
}

// hold reads a whole disk by its file.
func (h *Host) hold(t *testing.T, name string) []byte {
	t.Helper()
	path, err := h.volumePath(name)
	require.NoError(t, err)
	img, err := vhdx.Open(t.Context(), path, &vhdx.Options{Live: true})
	require.NoError(t, err)
	defer img.Close()
	b, err := io.ReadAll(io.NewSectionReader(pipe.ReaderAt(context.Background(), img), 0, img.Size()))
	require.NoError(t, err)
	return b
}

func all(t *testing.T, r io.ReaderAt, size int64) []byte {
	t.Helper()
	b := make([]byte, size)
	n, err := r.ReadAt(b, 0)
	require.True(t, err == nil || err == io.EOF)
	require.Equal(t, len(b), n)
	return b
}

// R092, R094, R095: a checkpoint is what the guest held at the freeze, while it goes on; it is merged, and nothing is lost.
func TestRecoveryCheckpoint(t *testing.T) {
	h, g := core(t, Options{}, VM{})
	stop := g.Churn(1)
	defer stop()
	time.Sleep(20 * time.Millisecond)
	set, err := h.recovery(t, g, 1)
	require.NoError(t, err)
	names := h.files(set)
	require.Len(t, names, 2)
	require.Equal(t, `C:\VMs\web1\disk_1.vhdx`, names[0])
	require.Regexp(t, `^C:\\VMs\\web1\\disk_1_[0-9A-F-]{36}\.avhdx$`, g.Tip(0))
	time.Sleep(20 * time.Millisecond)
	for i, n := range names {
		require.True(t, bytes.Equal(all(t, g.AtFreeze(i), g.Size(i)), h.hold(t, n)))
	}
	id, _ := set.text("ConfigurationID")
	for _, ending := range []string{".vmcx", ".vmrs", ".vmgs"} {
		require.True(t, h.exists(`C:\VMs\web1\Snapshots\`+id+ending), ending)
	}
	_, err = h.do(t, snapshots, "DestroySnapshot", nil, map[string]*Object{"AffectedSnapshot": set})
	require.NoError(t, err)
	require.True(t, h.Settled(10*time.Second))
	stop()
	for i := range names {
		require.Equal(t, names[i], g.Tip(i), "%v", h.Events())
		got, err := g.Read(i, 0, int(g.Size(i)))
		require.NoError(t, err)
		require.True(t, bytes.Equal(all(t, g.Now(i), g.Size(i)), got))
	}
	require.False(t, h.exists(`C:\VMs\web1\Snapshots\`+id+".vmcx"))
	left, err := filepath.Glob(filepath.Join(h.Dir(), "C", "VMs", "web1", "*.avhdx"))
	require.NoError(t, err)
	require.Empty(t, left)
	var order []string
	for _, e := range h.Events() {
		order = append(order, e.Name)
	}
	text := strings.Join(order, " ")
	require.Regexp(t, `^request freeze checkpoint checkpoint thaw .*destroy .*merge begins merge begins .*merge merge$`, text)
}
