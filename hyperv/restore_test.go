package hyperv

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae"
	"github.com/hikae/hikae/hyperv/cim"
	"github.com/hikae/hikae/hyperv/hypervtest"
	"github.com/hikae/hikae/job"
	"github.com/hikae/hikae/pipe"
	"github.com/hikae/hikae/repo"
	"github.com/hikae/hikae/repo/store/dirstore"
)

// depot is a lab with a repository.
type depot struct {
	*lab
	repo *repo.Repository
}

func newDepot(t *testing.T, o hypervtest.Options) *depot {
	t.Helper()
	return &depot{newLab(t, o), newRepo(t)}
}

func newRepo(t *testing.T) *repo.Repository {
	t.Helper()
	st, err := dirstore.Init(filepath.Join(t.TempDir(), "repo"))
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, st.Close()) })
	r, err := repo.Init(t.Context(), st, nil, &repo.InitOptions{NoEncryption: true}, &repo.OpenOptions{StateDir: t.TempDir()})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, r.Close()) })
	return r
}

// keep makes a point of a VM.
func (d *depot) keep(g *hypervtest.Guest) (job.Result, pipe.PointInfo) {
	d.t.Helper()
	res, err := job.Backup(d.t.Context(), d.provider(nil), g.ID(), d.repo, nil)
	require.NoError(d.t, err)
	info, err := job.FindPoint(d.t.Context(), d.repo, res.Point)
	require.NoError(d.t, err)
	return res, info
}

func (d *depot) restorer(o *RestorerOptions) *Restorer {
	d.t.Helper()
	r, err := NewRestorer(d.site, o)
	require.NoError(d.t, err)
	return r
}

// holds: a VM's disks are what a point has, in order.
func (d *depot) holds(g *hypervtest.Guest, point pipe.PointInfo) {
	d.t.Helper()
	require.Equal(d.t, len(point.Disks), g.Disks())
	for i, disk := range point.Disks {
		img, err := d.repo.Open(d.t.Context(), point.ID, disk.Key)
		require.NoError(d.t, err)
		want := make([]byte, disk.Size)
		_, err = img.ReadAt(d.t.Context(), want, 0)
		require.NoError(d.t, err)
		require.NoError(d.t, img.Close())
		got, err := g.Read(i, 0, int(disk.Size))
		require.NoError(d.t, err)
		require.True(d.t, string(want) == string(got), "disk %d differs", i)
	}
}

// settingsOf are a VM's present parts of a class.
func (d *depot) settingsOf(id, class string) []map[string]string {
	d.t.Helper()
	h, err := d.site.Owner(d.t.Context(), id)
	require.NoError(d.t, err)
	var now vmSettings
	require.NoError(d.t, h.realized(d.t.Context(), id, &now))
	b := &builder{h: h}
	b.ref.Namespace, b.ref.Class = "root/virtualization/v2", settingClass
	b.ref.Keys = append(b.ref.Keys, cim.Key{Name: "InstanceID", Value: now.ID})
	list, err := b.parts(d.t.Context())
	require.NoError(d.t, err)
	var out []map[string]string
	for _, in := range list {
		if in.Class != class {
			continue
		}
		m := map[string]string{}
		for _, p := range in.Properties {
			m[p.Name], _ = p.Value.(string)
		}
		out = append(out, m)
	}
	return out
}

// R103: a VM is made again from its recorded settings, byte for byte, beside the one that it was, and nothing of the session stays.
func TestRestoreCreates(t *testing.T) {
	t.Parallel()
	for _, generation := range []int{1, 2} {
		d := newDepot(t, hypervtest.Options{})
		g := d.vm("web1", func(v *hypervtest.VM) {
			v.Generation, v.Notes = generation, []string{"the web server"}
			v.Disks[0].IDE, v.Disks[1].SectorSize, v.Disks[1].Fixed = generation == 1, 4096, true
		})
		_, err := g.Checkpoint("a user's")
		require.NoError(t, err)
		require.NoError(t, g.Write(0, 100, []byte("on top of it")))
		_, point := d.keep(g)
		j := newNote()
		res, err := job.Restore(t.Context(), d.repo, point, d.restorer(nil), &job.RestoreOptions{Journal: j, Name: "web again", Compare: true})
		require.NoError(t, err)
		require.Empty(t, j.left())
		require.NotEqual(t, g.ID(), res.ID)
		again := d.fake.VM(res.ID)
		m, err := d.machine(again)
		require.NoError(t, err)
		require.Equal(t, "web again", m.Name)
		require.Equal(t, Off, m.State)
		require.Equal(t, generation, m.Generation)
		require.Equal(t, "9.0", m.ConfigVersion)
		require.Equal(t, []string{"the web server"}, m.Notes)
		was, err := d.machine(g)
		require.NoError(t, err)
		for i, k := range m.Disks {
			require.Equal(t, was.Disks[i].place(), k.place())
			require.Equal(t, was.Disks[i].Key, k.Key)
			require.Equal(t, was.Disks[i].SectorSize, k.SectorSize)
			require.True(t, strings.HasPrefix(k.Path, `C:\VMs\web again\Virtual Hard Disks\disk_`), k.Path)
			require.Empty(t, k.ParentPath)
		}
		require.Equal(t, "2048", d.settingsOf(res.ID, classMemory)[0]["VirtualQuantity"])
		require.Len(t, d.settingsOf(res.ID, classCable), 1, "the switch is there")
		require.NoError(t, again.PowerOn())
		d.holds(again, point)
		require.Empty(t, d.markers(`C:\VMs\web again`))
		require.NoError(t, again.PowerOff())
		d.fake.Settled(10 * time.Second)
		require.Empty(t, d.fake.Leftovers())
	}
}

// markers are files of ours in a folder.
func (d *depot) markers(folder string) (out []string) {
	d.t.Helper()
	names, err := d.fake.LocalFiles().List(d.t.Context(), folder)
	require.NoError(d.t, err)
	for _, n := range names {
		if strings.HasPrefix(n, "hikae-") || n == "Import" {
			out = append(out, n)
		}
	}
	return out
}

// restored makes a new VM of a point and returns it.
func (d *depot) restored(point pipe.PointInfo, o *RestorerOptions, name string) (job.RestoreResult, error) {
	d.t.Helper()
	j := newNote()
	res, err := job.Restore(d.t.Context(), d.repo, point, d.restorer(o), &job.RestoreOptions{Journal: j, Name: name})
	require.Empty(d.t, j.left())
	return res, err
}

// What is asked for in place of the record is done, and shown; what cannot be done is an error before anything is made.
func TestRestoreOptions(t *testing.T) {
	t.Parallel()
	d := newDepot(t, hypervtest.Options{})
	g := d.vm("web1", nil)
	_, point := d.keep(g)
	was, err := d.machine(g)
	require.NoError(t, err)

	res, err := d.restored(point, &RestorerOptions{NewIDs: true, NoNetwork: true, CPUs: 3, MemoryMB: 512, Path: `C:\Elsewhere\deep\`, Provisioning: FixedDisks}, "one")
	require.NoError(t, err)
	require.Empty(t, d.settingsOf(res.ID, classCable))
	require.Len(t, d.settingsOf(res.ID, classCard), 1)
	require.Equal(t, "512", d.settingsOf(res.ID, classMemory)[0]["VirtualQuantity"])
	require.Equal(t, "3", d.settingsOf(res.ID, classCPU)[0]["VirtualQuantity"])
	m, err := d.machine(d.fake.VM(res.ID))
	require.NoError(t, err)
	require.Equal(t, `C:\Elsewhere\deep\one\Virtual Hard Disks\disk_1.vhdx`, m.Disks[0].Path)
	require.NotEqual(t, was.Disks[0].Key, m.Disks[0].Key)
	require.True(t, m.Disks[0].Fixed)

	// One of a fixed disk is fixed again; the second of a name gets a folder of its own.
	res, err = d.restored(point, &RestorerOptions{Switches: map[string]string{"Network Adapter": "External"}}, "web1")
	require.NoError(t, err)
	require.Len(t, d.settingsOf(res.ID, classCable), 1)
	m, err = d.machine(d.fake.VM(res.ID))
	require.NoError(t, err)
	require.Regexp(t, `^C:\\VMs\\web1-[a-z2-7]{8}\\Virtual Hard Disks\\disk_1\.vhdx$`, m.Disks[0].Path)
	require.False(t, m.Disks[0].Fixed)

	var absent *AbsentError
	_, err = d.restored(point, &RestorerOptions{Switches: map[string]string{"Network Adapter": "Nowhere"}}, "two")
	require.ErrorAs(t, err, &absent)
	require.Equal(t, []string{"External"}, absent.There)
	_, err = d.restored(point, &RestorerOptions{Switches: map[string]string{"nobody's": "External"}}, "two")
	require.ErrorIs(t, err, fs.ErrInvalid)
	_, err = d.restored(point, &RestorerOptions{Host: "HV9"}, "two")
	require.ErrorIs(t, err, fs.ErrNotExist)
	d.fake.SetFree(1 << 20)
	var room *RoomError
	_, err = d.restored(point, &RestorerOptions{Provisioning: FixedDisks}, "two")
	require.ErrorAs(t, err, &room)
	require.EqualValues(t, labDisk+labDisk/2, room.Need)
	d.fake.SetFree(-1)
	_, err = d.restored(point, nil, "")
	require.NoError(t, err, "the point's own name")
	for _, bad := range []RestorerOptions{{Provisioning: "thick"}, {Generation: 3}, {CPUs: -1}, {Path: `web1`}, {Path: `\\.\PhysicalDrive0`}} {
		_, err := NewRestorer(d.site, &bad)
		require.ErrorIs(t, err, fs.ErrInvalid)
	}
	require.Len(t, d.fake.VMs(), 4)
	d.fake.Settled(10 * time.Second)
	require.Empty(t, d.fake.Leftovers())
}

// A virtual TPM comes back with its state, and with a word about its guardian; without the state that is told.
func TestRestoreTPM(t *testing.T) {
	t.Parallel()
	d := newDepot(t, hypervtest.Options{})
	g := d.vm("web1", func(v *hypervtest.VM) { v.TPM = true })
	secret := g.Secret()
	require.NotEmpty(t, secret)
	_, point := d.keep(g)
	res, err := d.restored(point, &RestorerOptions{CPUs: 5, NoNetwork: true}, "again")
	require.NoError(t, err)
	require.Contains(t, strings.Join(res.Notes, "\n"), "guardian")
	again := d.fake.VM(res.ID)
	require.NoError(t, again.PowerOn())
	require.Equal(t, secret, again.Secret())
	d.holds(again, point)
	m, err := d.machine(again)
	require.NoError(t, err)
	require.Equal(t, "again", m.Name)
	require.Empty(t, unfinishedError(m.Name, m.Notes))
	require.Equal(t, "5", d.settingsOf(res.ID, classCPU)[0]["VirtualQuantity"])
	require.Empty(t, d.settingsOf(res.ID, classCable))
	require.Empty(t, d.markers(`C:\VMs\again`))

	// A session that dies before its planned VM has a mark: the sweep finds that by what is new.
	j := newNote()
	r := d.restorer(nil)
	made := &newVM{}
	vm := hikae.VM{Name: "web1", Config: d.blobs(point), Facts: point.Facts, Disks: []hikae.Disk{{Key: point.Disks[0].Key, Size: point.Disks[0].Size}}}
	d.fake.Fail(hypervtest.Fault{Call: "ModifySystemSettings", Times: 1, Failure: &hypervtest.Failure{Cut: true}})
	_, err = r.begun(t.Context(), vm, j, made)
	require.Error(t, err)
	require.NotEmpty(t, d.fake.Leftovers())
	require.Len(t, j.left(), 1)
	d.fake.Heal()
	for range 2 {
		require.NoError(t, d.provider(nil).Undo(t.Context(), j.left()[0], nil))
	}
	require.Empty(t, d.fake.Leftovers())
	require.Len(t, d.fake.VMs(), 2)

	for name := range vm.Config {
		if strings.HasSuffix(name, ".vmgs") {
			delete(vm.Config, name)
		}
	}
	draft, err := r.Create(t.Context(), vm, nil)
	require.NoError(t, err)
	require.Contains(t, strings.Join(draft.(job.Noter).Notes(), "\n"), "virtual TPM is not brought back")
	require.NoError(t, draft.Close())
	d.fake.Settled(10 * time.Second)
	require.Empty(t, d.fake.Leftovers())
}

// blobs are a point's configuration.
func (d *depot) blobs(point pipe.PointInfo) map[string][]byte {
	d.t.Helper()
	out := map[string][]byte{}
	for _, b := range point.Blobs {
		blob, err := d.repo.OpenBlob(d.t.Context(), point.ID, b.Name)
		require.NoError(d.t, err)
		out[b.Name], err = io.ReadAll(blob)
		require.NoError(d.t, err)
		require.NoError(d.t, blob.Close())
	}
	return out
}

// A backup refuses a VM that a restore has not made whole, by name.
func TestBackupRefusesHalfRestored(t *testing.T) {
	t.Parallel()
	d := newDepot(t, hypervtest.Options{})
	g := d.vm("web1", nil)
	d.notes(g, newNoteOf(strings.Repeat("c", 26), restoresPlace).String())
	_, err := job.Backup(t.Context(), d.provider(nil), g.ID(), d.repo, nil)
	var half *IncompleteError
	require.ErrorAs(t, err, &half)
	require.Equal(t, strings.Repeat("c", 26), half.Mark)
	require.Empty(t, d.fake.Leftovers())
}

// A VM that no Hyper-V recorded gets plain hardware, which is shown; it starts from the first disk.
func TestRestorePlain(t *testing.T) {
	t.Parallel()
	d := newDepot(t, hypervtest.Options{})
	for generation, first := range map[int]string{0: "ide0-0", 2: "scsi0-0"} {
		draft, err := d.restorer(&RestorerOptions{Path: `C:\VMs`, Generation: generation}).Create(t.Context(),
			hikae.VM{Name: "from elsewhere", Disks: []hikae.Disk{{Key: "2000", Size: 1 << 20}, {Key: "2001", Size: 1 << 20}}}, nil)
		require.NoError(t, err)
		for _, key := range []string{"2000", "2001"} {
			target, err := draft.OpenDisk(t.Context(), key)
			require.NoError(t, err)
			_, err = target.WriteAt(t.Context(), []byte("disk "+key), 4096)
			require.NoError(t, err)
			require.NoError(t, target.Commit(t.Context()))
		}
		id, err := draft.Commit(t.Context())
		require.NoError(t, err)
		require.NoError(t, draft.Close())
		require.Contains(t, strings.Join(draft.(job.Noter).Notes(), "\n"), "plain hardware")
		m, err := d.machine(d.fake.VM(id))
		require.NoError(t, err)
		require.Equal(t, max(generation, 1), m.Generation)
		require.Equal(t, first, m.Disks[0].place())
		require.Equal(t, "4096", d.settingsOf(id, classMemory)[0]["VirtualQuantity"])
		require.NoError(t, d.fake.VM(id).PowerOn())
		got, err := d.fake.VM(id).Read(0, 4096, 9)
		require.NoError(t, err)
		require.Equal(t, "disk 2000", string(got))
	}
	_, err := d.restorer(nil).Create(t.Context(), hikae.VM{Name: "x", Disks: []hikae.Disk{{Key: "a", Size: 512}}}, nil)
	var absent *AbsentError
	require.ErrorAs(t, err, &absent)
	require.Equal(t, "folder", absent.What)
}

// A record is a repository's word, and may be damaged: an error, and nothing is made.
func TestRestoreDamagedRecord(t *testing.T) {
	t.Parallel()
	d := newDepot(t, hypervtest.Options{})
	object := func(class, xml string) string {
		return fmt.Sprintf(`{"class":%q,"id":"x","xml":%q}`, class, xml)
	}
	system := object(settingClass, `<INSTANCE CLASSNAME="Msvm_VirtualSystemSettingData"><PROPERTY NAME="SecureBootEnabled" TYPE="string"><VALUE>maybe</VALUE></PROPERTY></INSTANCE>`)
	good := object(settingClass, `<INSTANCE CLASSNAME="Msvm_VirtualSystemSettingData"></INSTANCE>`)
	drive := object(classResource, `<INSTANCE CLASSNAME="Msvm_ResourceAllocationSettingData"><PROPERTY NAME="InstanceID" TYPE="string"><VALUE>d</VALUE></PROPERTY>`+
		`<PROPERTY NAME="ResourceSubType" TYPE="string"><VALUE>`+subDrive+`</VALUE></PROPERTY><PROPERTY NAME="Parent" TYPE="string"><VALUE>nowhere</VALUE></PROPERTY></INSTANCE>`)
	for name, text := range map[string]string{
		"no JSON": `{`, "another version": `{"version":2}`, "no settings": `{"version":1}`, "no XML": `{"version":1,"system":` + object(settingClass, "<") + `}`,
		"another class": `{"version":1,"system":` + object("X", `<INSTANCE CLASSNAME="X"></INSTANCE>`) + `}`,
		"no boolean":    `{"version":1,"system":` + system + `}`, "a drive on nothing": `{"version":1,"system":` + good + `,"parts":[` + drive + `]}`,
	} {
		j := newNote()
		_, err := d.restorer(&RestorerOptions{Path: `C:\VMs`}).Create(t.Context(), hikae.VM{Name: "web1", Disks: []hikae.Disk{{Key: "a", Size: 512}},
			Config: map[string][]byte{SettingsFile: []byte(text)}}, &hikae.RestoreOptions{Journal: j})
		require.Error(t, err, name)
		require.Empty(t, j.left())
	}
	require.Empty(t, d.fake.VMs())
	require.Empty(t, d.fake.Leftovers())
}

// The whole cycle with files over SMB, by a real Samba: backup, new VM, in place; nothing stays open there.
func TestRestoreOverSMB(t *testing.T) {
	f := fake(t, hypervtest.Options{JobTime: time.Millisecond})
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	err := f.StartSMB(ctx, nil)
	if errors.Is(err, errors.ErrUnsupported) {
		t.Skipf("this needs a Samba: %v", err)
	}
	require.NoError(t, err)
	a := &Address{SMB: map[string]string{"": f.SMB()}}
	o, err := a.SiteOptions()
	require.NoError(t, err)
	o.Host = Options{CIM: &cim.Options{Plain: true}}
	d := newDepot(t, hypervtest.Options{})
	d.fake, d.add = f, f.AddVM
	d.site = siteAt(t, f, o)
	g := d.vm("web1", nil)
	_, point := d.keep(g)
	require.NoError(t, g.Write(0, 2<<20, []byte("not in the point")))
	f.Settled(10 * time.Second)
	require.NoError(t, g.PowerOff())
	res, err := job.Restore(ctx, d.repo, point, d.restorer(&RestorerOptions{PowerOn: true}), &job.RestoreOptions{Name: "again", Compare: true})
	require.NoError(t, err)
	d.holds(f.VM(res.ID), point)
	res, err = job.Restore(ctx, d.repo, point, d.restorer(&RestorerOptions{PowerOn: true}), &job.RestoreOptions{InPlace: g.ID(), Compare: true})
	require.NoError(t, err)
	require.Less(t, res.Disks[0].Written, int64(64<<10))
	d.holds(g, point)
	_, next := d.keep(g)
	d.holds(g, next)
	require.NoError(t, d.site.Close())
	f.Settled(10 * time.Second)
	require.Empty(t, f.Leftovers())
}

// In a cluster the node is chosen, the folder may be on a shared volume, and that the VM is no role of it is told.
func TestRestoreInCluster(t *testing.T) {
	t.Parallel()
	c := cluster(t, 0, "2022", "2022")
	s := clusterSite(t, c, "HV1")
	r, err := NewRestorer(s, &RestorerOptions{Host: "hv2", Path: `C:\ClusterStorage\Volume1`, PowerOn: true})
	require.NoError(t, err)
	draft, err := r.Create(t.Context(), hikae.VM{Name: "new", Disks: []hikae.Disk{{Key: "a", Size: 1 << 20}}}, nil)
	require.NoError(t, err)
	target, err := draft.OpenDisk(t.Context(), "a")
	require.NoError(t, err)
	_, err = target.WriteAt(t.Context(), []byte("shared"), 0)
	require.NoError(t, err)
	require.NoError(t, target.Commit(t.Context()))
	id, err := draft.Commit(t.Context())
	require.NoError(t, err)
	require.NoError(t, draft.Close())
	require.Contains(t, strings.Join(draft.(job.Noter).Notes(), "\n"), "make it a role of the cluster")
	require.Nil(t, c.Host("HV1").VM(id))
	got, err := c.Host("HV2").VM(id).Read(0, 0, 6)
	require.NoError(t, err)
	require.Equal(t, "shared", string(got))
}
