package replica

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae/kvm"
	"github.com/hikae/hikae/pipe"
)

const someID = "0123456789abcdef0123456789abcdef"

func someRecord() *record {
	return &record{
		Info: pipe.PointInfo{
			ID: someID, VM: "vm", Log: 3, Disks: []pipe.DiskInfo{{Key: "a", Size: 100}, {Key: "ä", Size: 0}}, Blobs: []pipe.BlobInfo{{Name: "x", Size: 5}},
		},
		Base: "1" + someID[1:], Committed: time.Unix(1700000000, 5).UTC(),
		Disks: []diskRecord{{Key: "a", Name: nameFor("a"), Size: 100, Based: true}, {Key: "ä", Name: nameFor("ä")}},
		Blobs: []blobRecord{{Name: "x", Size: 5, Sum: 7}},
	}
}

// Records that no writer makes are refused: names that lead elsewhere above all.
func TestHostileRecords(t *testing.T) {
	for name, change := range map[string]func(*record){
		"another place":       func(r *record) { r.Disks[0].Name = "../a" },
		"another's file":      func(r *record) { r.Disks[0].Name = nameFor("ä") },
		"an absolute base":    func(r *record) { r.Base = "/etc" },
		"its own base":        func(r *record) { r.Base = r.Info.ID },
		"based on nothing":    func(r *record) { r.Base = "" },
		"a disk twice":        func(r *record) { r.Disks[1] = r.Disks[0]; r.Info.Disks[1] = r.Info.Disks[0] },
		"a negative size":     func(r *record) { r.Disks[0].Size = -1; r.Info.Disks[0].Size = -1 },
		"a disk too large":    func(r *record) { r.Disks[0].Size = maxDisk + 1; r.Info.Disks[0].Size = maxDisk + 1 },
		"a disk untold":       func(r *record) { r.Info.Disks = r.Info.Disks[:1] },
		"a blob of no size":   func(r *record) { r.Blobs[0].Size = -1 },
		"no VM":               func(r *record) { r.Info.VM = "" },
		"an id that is a way": func(r *record) { r.Info.ID = "../../../../../../../../../../etc" },
	} {
		r := someRecord()
		require.NoError(t, r.check())
		change(r)
		text, err := encodeText(recordVersion, r)
		require.NoError(t, err)
		_, err = decodeRecord(text)
		require.Error(t, err, name)
	}
}

// A link in the place of a file leads nowhere.
func TestHostileLinks(t *testing.T) {
	s, m := twoPoints(t)
	elsewhere := filepath.Join(t.TempDir(), "elsewhere")
	for _, name := range []string{recordName, "disk0" + diskSuffix, "disk0" + mapSuffix} {
		path := filepath.Join(s.folder("vm"), m.ids[1], name)
		text, err := os.ReadFile(path)
		require.NoError(t, err)
		require.NoError(t, os.WriteFile(elsewhere, text, 0o600))
		require.NoError(t, os.Remove(path))
		require.NoError(t, os.Symlink(elsewhere, path))
		_, err = s.Open(t.Context(), m.ids[1], "disk0")
		require.Error(t, err, name)
		require.NoError(t, os.Remove(path))
		require.NoError(t, os.WriteFile(path, text, 0o400))
	}
	m.check(t, s, "vm", false)
}

// An image that names another backing file than its record is not opened, by whatever it was made.
func TestHostileBacking(t *testing.T) {
	s, m := twoPoints(t)
	path := filepath.Join(s.folder("vm"), m.ids[1], "disk0"+diskSuffix)
	text, err := os.ReadFile(path)
	require.NoError(t, err)
	at := bytes.Index(text, []byte("../"+m.ids[0]))
	require.Positive(t, at)
	copy(text[at:], "/etc/passwd\x00")
	require.NoError(t, os.Chmod(path, 0o600))
	require.NoError(t, os.WriteFile(path, text, 0o400))
	var damage *DamagedError
	_, err = s.Open(t.Context(), m.ids[1], "disk0")
	require.ErrorAs(t, err, &damage)
	_, err = s.Failover(t.Context(), "vm", nil)
	require.ErrorAs(t, err, &damage)
}

// FuzzRecord holds that any text is refused or comes back as it was.
func FuzzRecord(f *testing.F) {
	text, err := encodeText(recordVersion, someRecord())
	require.NoError(f, err)
	f.Add(text)
	st := &stateText{State: State{VM: "vm", Stage: FailedOver, Point: someID, Disks: []kvm.StartedDisk{{Key: "a", Size: 100}}}, Under: &pipe.PointInfo{ID: someID, VM: "vm", Disks: []pipe.DiskInfo{{Key: "a", Size: 100}}}}
	require.NoError(f, st.check())
	text, err = encodeText(stateVersion, st)
	require.NoError(f, err)
	f.Add(text)
	f.Fuzz(func(t *testing.T, text []byte) {
		if r, err := decodeRecord(text); err == nil {
			again, err := encodeText(recordVersion, r)
			require.NoError(t, err)
			second, err := decodeRecord(again)
			require.NoError(t, err)
			require.Equal(t, r, second)
		}
		// The sum would keep a fuzzer away from what is behind it.
		r := &record{}
		if json.Unmarshal(text, r) == nil && r.check() == nil {
			for _, d := range r.Disks {
				require.True(t, diskName.MatchString(d.Name))
			}
		}
		if st, err := decodeState(text); err == nil {
			require.NotEqual(t, Ready, st.Stage)
		}
	})
}

// FuzzMap holds that any map is refused, or is one whose rows and ranges are inside the disk and that comes back as it was.
func FuzzMap(f *testing.F) {
	m := &sumMap{size: 5 * clusterSize, fileBytes: 7, kinds: kinds{{Len: 9, Kind: pipe.Unchanged}, {Off: 9, Len: 5*clusterSize - 9, Kind: pipe.Data}}}
	m.rows = []row{{first: 0, n: 2}, {first: 3, n: 1, zero: true, sum: 2}, {first: 4, n: 1, sum: 2}}
	f.Add(m.text(), true)
	f.Add(m.text(), false)
	f.Add(m.kinds.appendTo(nil), true)
	f.Add([]byte{0, 4, 1, 3, 0, 2}, false)
	f.Fuzz(func(t *testing.T, text []byte, sums bool) {
		// The sum would keep a fuzzer away from what is behind it.
		count := len(text) % 7
		if rows, err := decodeRows(text, count, 5); err == nil {
			requireInside(t, rows, 5)
		}
		if k, err := decodeKinds(text, count, 5*clusterSize, sums); err == nil {
			again, err := decodeKinds(k.appendTo(nil), len(k), 5*clusterSize, sums)
			require.NoError(t, err)
			require.Equal(t, k, again)
		}
		if sums {
			text = append(bytes.Clone(text), make([]byte, 24)...)
		}
		got, err := readMap(bytes.NewReader(text), int64(len(text)), 5*clusterSize, true)
		if err != nil {
			return
		}
		requireInside(t, got.rows, 5)
		again, err := readMap(bytes.NewReader(append(got.text(), make([]byte, 8*got.sums())...)), int64(len(got.text()))+8*got.sums(), 5*clusterSize, true)
		require.NoError(t, err)
		require.Equal(t, got.kinds, again.kinds)
		require.Equal(t, got.rows, again.rows)
	})
}

// requireInside holds that rows ascend, and end within a disk.
func requireInside(t *testing.T, rows []row, clusters int64) {
	end := int64(0)
	for _, r := range rows {
		require.GreaterOrEqual(t, r.first, end)
		require.Positive(t, r.n)
		end = r.first + r.n
	}
	require.LessOrEqual(t, end, clusters)
}

// FuzzLayer holds that any header and tables are refused, or lead to places in the file.
func FuzzLayer(f *testing.F) {
	path := filepath.Join(f.TempDir(), "layer")
	w, err := createLayer(path, 9*clusterSize, "../"+someID+"/a.qcow2")
	require.NoError(f, err)
	w.place(2)
	w.zero(4)
	require.NoError(f, w.finish())
	require.NoError(f, w.close())
	text, err := os.ReadFile(path)
	require.NoError(f, err)
	head := text[:200]
	f.Add(head, text[len(text)-1:], uint16(0))
	f.Fuzz(func(t *testing.T, head, patch []byte, at uint16) {
		b := bytes.Clone(text)
		copy(b, head)
		copy(b[int(at)*7%len(b):], patch)
		h, err := readHead(bytes.NewReader(b), int64(len(b)))
		if err != nil {
			return
		}
		l1, err := h.readL1(bytes.NewReader(b))
		if err != nil {
			return
		}
		for i := range min(len(l1), 100) {
			t1, err := h.readTable(bytes.NewReader(b), l1, int64(i))
			if err != nil || t1 == nil {
				continue
			}
			for _, e := range t1 {
				require.Less(t, int64(e&offsetBits), int64(len(b)))
			}
		}
	})
}
