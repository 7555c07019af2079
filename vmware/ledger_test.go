package vmware

import (
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/vmware/govmomi/vim25/types"
	"pgregory.net/rapid"

	"github.com/hikae/hikae"
)

const trackUUID = "52 de c0 d9 b9 43 9d 10-61 d4 1b 32 79 ac 8f 0f"

// someMoment is one that nothing speaks against.
func someMoment() moment {
	return moment{
		at: time.Date(2026, 3, 4, 5, 6, 7, 890, time.UTC), change: serverID{trackUUID, 12}, disk: "6000c29a-1", file: "web0.vmdk",
		first: 8 << 30, host: release{8, 0, "3", 24022510}, number: 7, size: 8 << 30, vm: "server,vm-1,5000",
	}
}

func later(m moment) moment {
	m.at, m.change.n, m.number = m.at.Add(time.Hour), m.change.n+1, m.number+10
	return m
}

func TestMomentIsWrittenAndRead(t *testing.T) {
	m := someMoment()
	m.on, m.file, m.restored = "snapshot-7", `web 0=&%/?-000001.vmdk`, "2026-03-04T05:06:07.123456789Z"
	back, err := parseMoment(m.id())
	require.NoError(t, err)
	require.Equal(t, m, back)
	require.Less(t, len(m.id()), maxMoment)
}

func TestMomentIsParsedStrictly(t *testing.T) {
	good := string(someMoment().id())
	for name, id := range map[string]string{
		"older": strings.Replace(good, momentPrefix, oldMoment, 1), "number": strings.Replace(good, "number=7", "number=4294967296", 1),
		"empty": "", "another's": "hikae-bitmap-1", "longer": good + strings.Repeat(" ", maxMoment), "trailing": good + "&", "twice": good + "&size=1",
		"no change": strings.Replace(good, "change=", "chance=", 1), "no number": strings.Replace(good, "%2F12", "", 1),
		"negative": strings.Replace(good, "size=8", "size=-8", 1), "plus": strings.Replace(good, "size=8", "size=%2B8", 1),
		"number with zero": strings.Replace(good, "%2F12", "%2F012", 1), "escape": strings.Replace(good, "web0", "web%zz", 1),
		"escaped for nothing": strings.Replace(good, "web0", "%77eb0", 1), "host": strings.Replace(good, "24022510", "x", 1),
		"time": strings.Replace(good, "2026-", "2O26-", 1), "order": momentPrefix + strings.TrimPrefix(good, momentPrefix+"at=") + "&at=1",
	} {
		_, err := parseMoment(hikae.ChangeID(id))
		require.Error(t, err, name)
	}
}

func FuzzMoment(f *testing.F) {
	f.Add(string(someMoment().id()))
	f.Add(momentPrefix + "at=2026-03-04T05%3A06%3A07Z&change=a%2F1&disk=&file=&first=0&host=8.0-1&number=1&on=&restored=&size=0&vm=")
	f.Fuzz(func(t *testing.T, id string) {
		m, err := parseMoment(hikae.ChangeID(id))
		if err == nil {
			require.Equal(t, id, string(m.id()))
		}
	})
}

func TestServerID(t *testing.T) {
	id, err := parseServerID(trackUUID + "/18446744073709551615")
	require.NoError(t, err)
	require.Equal(t, trackUUID+"/18446744073709551615", id.String())
	for _, bad := range []string{"", "/", "/1", "a/", "a/x", "a/-1", "a/01", "a/18446744073709551616", "*", strings.Repeat("a", 200) + "/1"} {
		_, err := parseServerID(bad)
		require.Error(t, err, bad)
	}
}

func TestReleaseIsReadAsWritten(t *testing.T) {
	for _, text := range []string{"8.0.3-24022510", "6.0-1", "7.0.0.1-5"} {
		r, err := parseRelease(text)
		require.NoError(t, err, text)
		require.Equal(t, text, r.String())
	}
	for _, bad := range []string{"", "-", "8-1", "8.0.3-", "8.0.3-x", "8.0.3-0", "8.x-1", "-8.0-1", "8.0.3", strings.Repeat("8", 99) + ".0-1"} {
		_, err := parseRelease(bad)
		require.Error(t, err, bad)
	}
	rapid.Check(t, func(t *rapid.T) {
		text := rapid.StringMatching(`[0-9]{1,3}\.[0-9]{1,2}(\.[a-z0-9-]{0,3})?-[0-9]{1,9}`).Draw(t, "text")
		if r, err := parseRelease(text); err == nil {
			require.Equal(t, text, r.String())
		}
	})
}

// treeFor is a tree of snapshots, each "name<parent@age", age being when it was made after the base point, and its number too.
func treeFor(t *testing.T, base time.Time, current string, list ...string) *snapshotTree {
	t.Helper()
	out := &snapshotTree{current: current, nodes: map[string]snapshotNode{}}
	for _, text := range list {
		name, rest, _ := strings.Cut(text, "<")
		parent, age, _ := strings.Cut(rest, "@")
		after, err := time.ParseDuration(age)
		require.NoError(t, err)
		out.nodes[name] = snapshotNode{ref: types.ManagedObjectReference{Type: "VirtualMachineSnapshot", Value: name}, parent: parent, created: base.Add(after),
			number: someMoment().number + int32(after/time.Minute)}
	}
	return out
}

// Facts §4: the base point's change id is believed only where nothing speaks against it.
func TestTrackingIsBelieved(t *testing.T) {
	past := someMoment()
	at := func(current string, list ...string) *snapshotTree { return treeFor(t, past.at, current, list...) }
	for name, c := range map[string]struct {
		past, now func(*moment)
		tree      *snapshotTree
		files     []string
		lost      string // what the reason says; empty: believed
	}{
		"nothing happened":                              {},
		"another VM":                                    {now: func(m *moment) { m.vm = "server,vm-2,5000" }, lost: "another VM"},
		"the same number":                               {now: func(m *moment) { m.change.n-- }},
		"UUID changed":                                  {now: func(m *moment) { m.change.uuid = "53 00" }, lost: "begun anew"},
		"N went backwards":                              {now: func(m *moment) { m.change.n = 11 }, lost: "went back"},
		"extended":                                      {now: func(m *moment) { m.size++ }, lost: "resized"},
		"written over by a restore":                     {now: func(m *moment) { m.restored = "2026-03-04T04:00:00Z" }, lost: "written over"},
		"another disk":                                  {now: func(m *moment) { m.disk = "x" }, lost: "another disk"},
		"the file is gone":                              {files: []string{"web0-000002.vmdk"}, lost: "web0.vmdk"},
		"a user's snapshot since":                       {tree: at("s1", "s1<@1m"), files: []string{"web0-000001.vmdk", "web0.vmdk"}},
		"two of them":                                   {tree: at("s2", "s1<@1m", "s2<s1@2m"), files: []string{"web0-000002.vmdk", "web0-000001.vmdk", "web0.vmdk"}},
		"stands on the same":                            {past: func(m *moment) { m.on = "s0" }, tree: at("s0", "s0<@-1h"), lost: "cannot be ruled out"},
		"stands on a child of the same":                 {past: func(m *moment) { m.on = "s0" }, tree: at("s1", "s0<@-1h", "s1<s0@1m"), lost: "cannot be ruled out"},
		"reverted to an older one":                      {past: func(m *moment) { m.on = "s1" }, tree: at("s0", "s0<@-2h", "s1<s0@-1h"), lost: "older"},
		"reverted and snapshotted":                      {past: func(m *moment) { m.on = "s1" }, tree: at("s2", "s0<@-2h", "s1<s0@-1h", "s2<s0@1m"), lost: "older"},
		"the one it stood on was removed":               {past: func(m *moment) { m.on = "s0" }, tree: at(""), lost: "is gone"},
		"it was removed, another is new":                {past: func(m *moment) { m.on = "s0" }, tree: at("s1", "s1<@1m"), lost: "does not stand"},
		"stands on one that was there but not stood on": {tree: at("s0", "s0<@-1h"), lost: "older"},
		"ESXi 5.5, large disk":                          {past: func(m *moment) { m.host, m.size, m.first = release{5, 5, "0", 2068190}, 200<<30, 200<<30 }, lost: "2090639"},
		"ESXi 5.5, small disk":                          {past: func(m *moment) { m.host = release{5, 5, "0", 2068190} }},
		"ESXi 6.0":                                      {past: func(m *moment) { m.host = release{6, 0, "0", 3073146} }, lost: "2136854"},
		"ESXi 6.0, patched":                             {past: func(m *moment) { m.host = release{6, 0, "0", 3247720} }},
		"ESXi 6.0 of the base only":                     {past: func(m *moment) { m.host = release{6, 0, "0", 3073146} }, now: func(m *moment) { m.host = release{8, 0, "3", 24022510} }, lost: "2136854"},
		"ESXi 8.0 U2, extended before":                  {past: func(m *moment) { m.host, m.first = release{8, 0, "2", 22380479}, 4<<30 }, lost: "95965"},
		"ESXi 8.0 U2, never extended":                   {past: func(m *moment) { m.host = release{8, 0, "2", 22380479} }},
		"ESXi 8.0 U2b, extended before":                 {past: func(m *moment) { m.host, m.first = release{8, 0, "2", 23305546}, 4<<30 }},
	} {
		t.Run(name, func(t *testing.T) {
			before := past
			if c.past != nil {
				c.past(&before)
			}
			now := later(before)
			if c.now != nil {
				c.now(&now)
			}
			if c.tree == nil {
				c.tree = at("")
			}
			if c.files == nil {
				c.files = []string{"web0.vmdk"}
			}
			err := now.follows(before, c.tree, c.files)
			if c.lost == "" {
				require.NoError(t, err)
				return
			}
			require.ErrorIs(t, err, hikae.ErrTrackingLost)
			require.ErrorContains(t, err, c.lost)
		})
	}
}

// Hosts that stamp snapshots differ in their clocks: the numbers of a VM's snapshots tell which is older.
func TestNumbersTellWhichIsOlder(t *testing.T) {
	past := someMoment()
	tree := treeFor(t, past.at, "s1", "s1<@5m")
	require.Empty(t, tree.revertedSince(past))
	node := tree.nodes["s1"]
	node.number = past.number - 1
	tree.nodes["s1"] = node
	require.Contains(t, tree.revertedSince(past), "older")
}

// A revert to a snapshot that was made and removed since leaves a task behind, and nothing else.
func TestRevertIsFoundAmongTasks(t *testing.T) {
	since := time.Now()
	after := since.Add(time.Minute)
	shortly := since.Add(-clockSlack / 2) // by a host whose clock is behind, it may be after
	before := since.Add(-clockSlack - time.Minute)
	for _, c := range []struct {
		task  types.TaskInfo
		found bool
	}{
		{types.TaskInfo{DescriptionId: "vm.Snapshot.revert", StartTime: &after, State: types.TaskInfoStateSuccess}, true},
		{types.TaskInfo{DescriptionId: "VirtualMachine.revertToCurrentSnapshot", QueueTime: after, State: types.TaskInfoStateRunning}, true},
		{types.TaskInfo{DescriptionId: "vm.Snapshot.revert", StartTime: &shortly, State: types.TaskInfoStateSuccess}, true},
		{types.TaskInfo{DescriptionId: "vm.Snapshot.revert", StartTime: &before}, false},
		{types.TaskInfo{DescriptionId: "vm.Snapshot.revert", StartTime: &after, State: types.TaskInfoStateError}, false},
		{types.TaskInfo{DescriptionId: "VirtualMachine.createSnapshot", StartTime: &after}, false},
	} {
		require.Equal(t, c.found, revertAmong([]types.TaskInfo{c.task}, since) != "", c.task.DescriptionId)
	}
}

func TestFilesOfADisk(t *testing.T) {
	file := func(name string) types.VirtualDeviceFileBackingInfo {
		return types.VirtualDeviceFileBackingInfo{FileName: name}
	}
	base := &types.VirtualDiskFlatVer2BackingInfo{VirtualDeviceFileBackingInfo: file("[ds1] web0/web0.vmdk")}
	v := &types.VirtualDisk{VirtualDevice: types.VirtualDevice{Backing: &types.VirtualDiskFlatVer2BackingInfo{
		VirtualDeviceFileBackingInfo: file("[ds1] web0/web0-000001.vmdk"), Parent: base}}}
	require.Equal(t, []string{"web0-000001.vmdk", "web0.vmdk"}, filesOf(v))
	base.Parent = base // what a server tells may go in circles
	require.Len(t, filesOf(v), maxLayers)
	require.Empty(t, filesOf(&types.VirtualDisk{}))
}
