package repo

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae/pipe"
	"github.com/hikae/hikae/repo/internal/object"
	"github.com/hikae/hikae/repo/store"
	"github.com/hikae/hikae/repo/store/memstore"
)

// The golden repositories in testdata/golden are made once and then only read: README.md there says what they are. This file makes
// them, from content that depends on nothing but names and numbers. Keys and ids are random: what is made anew has other bytes.
//
//	HIKAE_MAKE_GOLDEN=tombstones,bad go test -run TestMakeGolden ./repo

// goldenAge opens the repository `age`; it guards nothing else.
const goldenAge = "AGE-SECRET-KEY-1TXYCSG0AM3LM5TN2525MGC7WYRJR2GEJF2NACA9T68Y9YRNPEP4SXM22H2"

var goldenKey = [32]byte{'g', 'o', 'l', 'd'}

// goldenFile describes one repository: what opens it, and what must come out.
type goldenFile struct {
	What            string        `json:"what"`
	Secret          goldenSecret  `json:"secret"`
	CheckpointEvery uint64        `json:"checkpointEvery"`
	Points          []goldenPoint `json:"points"`
}

type goldenSecret struct {
	Type  string `json:"type"` // none, passphrase, keyfile, age
	Value string `json:"value"`
}

type goldenPoint struct {
	ID    string       `json:"id"`
	VM    string       `json:"vm"`
	Held  bool         `json:"held,omitempty"`
	Disks []goldenDisk `json:"disks"`
}

type goldenDisk struct {
	Key    string     `json:"key"`
	Size   int64      `json:"size"`
	SHA256 string     `json:"sha256"`
	Bad    [][2]int64 `json:"bad,omitempty"`
}

// cheapPassphrase is a passphrase whose slot costs next to nothing to open: goldens are opened often.
type cheapPassphrase string

func (p cheapPassphrase) wrapper() (object.Wrapper, error) {
	return object.Passphrase{Text: string(p), Cost: object.Cost{Time: 1, MemoryKiB: 64, Threads: 1}}, nil
}
func (p cheapPassphrase) unwrapper() (object.Unwrapper, error) {
	return object.Passphrase{Text: string(p)}, nil
}

// opens gives the secret that a golden's description names.
func (s goldenSecret) opens(t testing.TB) Secret {
	switch s.Type {
	case "none":
		return nil
	case "passphrase":
		return cheapPassphrase(s.Value)
	case "keyfile":
		k, err := ParseKeyFile([]byte(s.Value))
		require.NoError(t, err)
		return k
	case "age":
		ids, err := AgeIdentities(strings.NewReader(s.Value))
		require.NoError(t, err)
		return ids
	}
	require.FailNow(t, "a secret of type "+s.Type)
	return nil
}

// goldenMaker is one repository that is being made.
type goldenMaker struct {
	testing.TB
	st     *memstore.Store
	secret Secret
	every  uint64
	r      *Repository
	disks  map[string][]goldenDisk // by point
}

// lines is text that says where it is from: no two cells of it are the same, and it is easy to compress.
func lines(name string, n int) []byte {
	var b bytes.Buffer
	for i := 0; b.Len() < n; i++ {
		fmt.Fprintf(&b, "%s, line %d of what somebody keeps on a disk.\n", name, i)
	}
	return b.Bytes()[:n]
}

// goldenDisks are the disks of a machine: several blocks with a hole and an odd end, one block, none, nothing but zeros.
func goldenDisks(name string) map[string][]byte {
	odd := make([]byte, 5*minBlockSize+777)
	copy(odd, lines(name, 2*minBlockSize))
	copy(odd[4*minBlockSize:], lines(name+" end", minBlockSize+777))
	return map[string][]byte{"odd": odd, "one": lines(name+" one", minBlockSize), "empty": {}, "zero": make([]byte, 100_000)}
}

// point makes a point of disks.
func (m *goldenMaker) point(r *Repository, vm string, disks map[string][]byte) string {
	w, err := r.Begin(m.Context(), vm, nil)
	require.NoError(m, err)
	defer w.Close()
	return m.fill(w, vm, disks)
}

func (m *goldenMaker) fill(w pipe.PointWriter, vm string, disks map[string][]byte) string {
	ctx := m.Context()
	var list []goldenDisk
	for _, key := range slices.Sorted(maps.Keys(disks)) {
		content := disks[key]
		d, err := w.Disk(ctx, key, int64(len(content)))
		require.NoError(m, err)
		_, err = pipe.Copy(ctx, d, pipe.FromReaderAt(bytes.NewReader(content), int64(len(content))), &pipe.CopyOptions{Compression: m.r.Params().Compression})
		require.NoError(m, err)
		require.NoError(m, d.Commit(ctx))
		list = append(list, describe(key, content))
	}
	require.NoError(m, w.Blob(ctx, "config", strings.NewReader("the machine "+vm+"\n")))
	id, err := w.Commit(ctx, map[string]string{"odd": "change 7"})
	require.NoError(m, err)
	m.disks[id] = list
	return id
}

func describe(key string, content []byte) goldenDisk {
	sum := sha256.Sum256(content)
	return goldenDisk{Key: key, Size: int64(len(content)), SHA256: hex.EncodeToString(sum[:])}
}

// reopened is the repository as the next client finds it.
func (m *goldenMaker) reopened() *Repository {
	r := newClosed(m.st, &OpenOptions{CacheDir: m.TempDir()})
	r.every = m.every
	require.NoError(m, r.unlock(m.Context(), m.secret))
	r, err := r.start(m.Context())
	require.NoError(m, err)
	m.Cleanup(func() { _ = r.Close() })
	return r
}

// golden is one repository and how it came about.
type golden struct {
	name   string
	what   string
	secret goldenSecret
	opts   InitOptions
	every  uint64
	make   func(m *goldenMaker)
}

var keyOfGoldens = goldenSecret{"keyfile", hex.EncodeToString(goldenKey[:])}

var goldens = []golden{
	{name: "clear", what: "no encryption, S2; two points of one machine", secret: goldenSecret{Type: "none"},
		opts: InitOptions{NoEncryption: true, Compression: pipe.Fast}, make: makeTwoPoints},
	{name: "passphrase", what: "encrypted, the slot for a passphrase; two points of one machine", secret: goldenSecret{"passphrase", "correct horse"}, make: makeTwoPoints},
	{name: "keyfile", what: "encrypted, the slot for a key file; content is not compressed", secret: keyOfGoldens,
		opts: InitOptions{Compression: pipe.None}, make: func(m *goldenMaker) { m.point(m.r, "web", map[string][]byte{"odd": lines("plain", 5000)}) }},
	{name: "age", what: "encrypted, the slot for an age recipient", secret: goldenSecret{"age", goldenAge}, make: func(m *goldenMaker) {
		m.point(m.r, "web", goldenDisks("age"))
	}},
	{name: "writeonly", what: "a point of a write-only client beside one of a client with a slot; content that both have stands in both scopes", secret: keyOfGoldens, make: makeWriteOnly},
	{name: "recipes", what: "assembled blocks: the second machine has the first one's content at other offsets", secret: keyOfGoldens, make: makeRecipes},
	{name: "degraded", what: "a point whose source could not read 512 bytes of one block and two whole blocks", secret: keyOfGoldens, make: makeDegraded},
	{name: "held", what: "of three points one is held, one was held and is no more, one was forgotten; nothing was pruned", secret: keyOfGoldens, make: makeHeld},
	{name: "pruned", what: "points were forgotten, packs written anew and removed", secret: keyOfGoldens, make: makePruned},
	{name: "tombstones", what: "tombstones are in force: a session from before them is still open, so nothing was swept", secret: keyOfGoldens, make: makeTombstones},
	{name: "masters", what: "the master key was rotated: packs under two masters, a new slot took the place of the first, which is gone", secret: keyOfGoldens, make: makeMasters},
	{name: "bad", what: "a data pack was damaged beyond its parity, found, named by a record of kind bad, and its content stored again; the damaged pack is still there", secret: keyOfGoldens, make: makeBad},
	{name: "checkpoints", what: "checkpoints stand for records that are gone; they lie 8 records apart, as in no repository that is in use", secret: keyOfGoldens, every: 8, make: makeCheckpoints},
	{name: "gap", what: "three records of the log, a commit, an end and the beginning of the next session, are lost in all places; a gap ties the log together", secret: keyOfGoldens, make: makeGap},
	{name: "unfinished", what: "sessions that did not commit have made unfinished points; one stands on a point, one in a checkpoint and one behind it; checkpoints lie 8 records apart",
		secret: keyOfGoldens, every: 8, make: makeUnfinished},
}

func makeTwoPoints(m *goldenMaker) {
	disks := goldenDisks("plain")
	m.point(m.r, "web 1", disks)
	copy(disks["odd"][70_000:], "changed")
	m.point(m.r, "web 1", disks)
}

func makeWriteOnly(m *goldenMaker) {
	ctx := m.Context()
	m.point(m.r, "ours", goldenDisks("both"))
	key, err := m.r.EnrolWriter(ctx, []string{"theirs"})
	require.NoError(m, err)
	w, err := OpenWriter(ctx, m.st, memstore.New(nil), key, &OpenOptions{CacheDir: m.TempDir()})
	require.NoError(m, err)
	m.point(w, "theirs", goldenDisks("both"))
	require.NoError(m, w.Close())
}

func makeRecipes(m *goldenMaker) {
	content := lines("first", 6*minBlockSize)
	m.point(m.r, "one", map[string][]byte{"disk0": content})
	m.point(m.reopened(), "two", map[string][]byte{"disk0": append(lines("before", 4096), content[:len(content)-4096]...)})
}

func makeDegraded(m *goldenMaker) {
	ctx := m.Context()
	content := lines("degraded", 5*minBlockSize)
	w, err := m.r.Begin(ctx, "web", nil)
	require.NoError(m, err)
	d, err := w.Disk(ctx, "disk0", int64(len(content)))
	require.NoError(m, err)
	bad := [][2]int64{{100, 512}, {2 * minBlockSize, 2 * minBlockSize}}
	at := int64(0)
	for _, b := range append(bad, [2]int64{int64(len(content)), 0}) {
		_, err = d.WriteAt(ctx, content[at:b[0]], at)
		require.NoError(m, err)
		if at = b[0] + b[1]; b[1] > 0 {
			require.NoError(m, d.(pipe.ExtentTarget).Mark(ctx, pipe.Extent{Off: b[0], Len: b[1], Kind: pipe.Bad}))
			clear(content[b[0]:at])
		}
	}
	require.NoError(m, d.Commit(ctx))
	id, err := w.Commit(ctx, nil)
	require.NoError(m, err)
	said := describe("disk0", content)
	said.Bad = bad
	m.disks[id] = []goldenDisk{said}
}

func makeHeld(m *goldenMaker) {
	ctx := m.Context()
	var ids []string
	for i := range 3 {
		ids = append(ids, m.point(m.r, "web", map[string][]byte{"disk0": lines(fmt.Sprint("held ", i), minBlockSize+5)}))
	}
	require.NoError(m, m.r.Hold(ctx, ids[:2], "court order 7"))
	require.NoError(m, m.r.Unhold(ctx, ids[1:2], "case closed"))
	require.NoError(m, m.r.Forget(ctx, ids[2:], "too old"))
}

// makePruned has a pack of which a part is needed, so that it is written anew.
func makePruned(m *goldenMaker) {
	old := m.point(m.r, "web", map[string][]byte{"disk0": append(lines("stays", minBlockSize), lines("goes", 4*minBlockSize)...)})
	m.point(m.r, "web", map[string][]byte{"disk0": lines("stays", minBlockSize)})
	require.NoError(m, m.r.Forget(m.Context(), []string{old}, "too old"))
	rep := mustPrune(m.TB, m.reopened(), nil)
	require.Positive(m, rep.Repacked)
	mustPrune(m.TB, m.reopened(), nil)
}

func makeTombstones(m *goldenMaker) {
	old := m.point(m.r, "web", map[string][]byte{"disk0": lines("goes", minBlockSize)})
	m.point(m.r, "web", map[string][]byte{"disk0": lines("stays", minBlockSize)})
	w, err := m.r.Begin(m.Context(), "slow", nil) // never ends
	require.NoError(m, err)
	_, err = w.Disk(m.Context(), "disk0", 1)
	require.NoError(m, err)
	other := m.reopened()
	require.NoError(m, other.Forget(m.Context(), []string{old}, "too old"))
	rep := mustPrune(m.TB, other, nil)
	require.Positive(m, rep.Deferred)
	m.Cleanup(func() { _ = w.Close() })
}

func makeMasters(m *goldenMaker) {
	m.point(m.r, "web", map[string][]byte{"disk0": lines("under the first", minBlockSize)})
	require.NoError(m, m.r.RotateMaster(m.Context(), []Secret{m.secret}, "somebody has left"))
	m.point(m.reopened(), "web", map[string][]byte{"disk0": lines("under the second", minBlockSize)})
}

func makeBad(m *goldenMaker) {
	ctx := m.Context()
	disks := map[string][]byte{"disk0": lines("hurt", minBlockSize)}
	m.point(m.r, "web", disks)
	for info, err := range m.st.List(ctx, "data/") {
		require.NoError(m, err)
		m.st.Set(info.Name, bytes.Repeat([]byte{0x55}, int(info.Size)))
	}
	r := m.reopened()
	_, err := r.Verify(ctx, &VerifyOptions{DataPercent: 100, Declare: true})
	require.NoError(m, err)
	m.point(r, "web", disks)
}

func makeCheckpoints(m *goldenMaker) {
	var ids []string
	for i := range 11 {
		disks := map[string][]byte{}
		if i%5 == 0 {
			disks["disk0"] = lines(fmt.Sprint("checkpoint ", i), minBlockSize/2)
		}
		ids = append(ids, m.point(m.r, "web", disks))
	}
	require.NoError(m, m.r.Hold(m.Context(), ids[:1], "audit"))
	require.NoError(m, m.r.Forget(m.Context(), ids[1:5], "too old"))
	for range 5 {
		m.point(m.r, "mail", nil)
	}
	require.NoError(m, m.r.Condense(m.Context()))
}

func makeGap(m *goldenMaker) {
	m.point(m.r, "web", map[string][]byte{"disk0": lines("before the gap", minBlockSize)})
	head, _ := m.r.log.head()
	m.point(m.r, "web", map[string][]byte{"disk0": lines("in the gap", minBlockSize)})
	m.point(m.r, "web", map[string][]byte{"disk0": lines("across the gap", minBlockSize)})
	for n := head + 2; n <= head+4; n++ {
		for _, place := range copiesOf(logName(n)) {
			require.NoError(m, m.st.Remove(m.Context(), place))
		}
	}
	rep, err := m.reopened().MendLog(m.Context(), &MendLogOptions{Why: "three records are lost"})
	require.NoError(m, err)
	require.Len(m, rep.Gaps, 1)
}

func makeUnfinished(m *goldenMaker) {
	old := m.point(m.r, "web", goldenDisks("unfinished"))
	begin := func(vm, base string) {
		ctx := m.Context()
		w, err := m.r.Begin(ctx, vm, &pipe.PointOptions{Base: base})
		require.NoError(m, err)
		m.Cleanup(func() { _ = w.Close() }) // it never ends
		content := lines("unfinished "+vm, 2*minBlockSize)
		d, err := w.Disk(ctx, "odd", 5*minBlockSize+777)
		require.NoError(m, err)
		_, err = d.WriteAt(ctx, content, minBlockSize)
		require.NoError(m, err)
		_, err = w.(pipe.Checkpointer).Checkpoint(ctx, pipe.CheckpointOptions{
			Disks: []pipe.CheckpointDisk{
				{Key: "odd", Size: 5*minBlockSize + 777, Pending: []pipe.Extent{{Len: 5*minBlockSize + 777, Kind: pipe.Data}}},
				{Key: "one", Size: minBlockSize, Pending: []pipe.Extent{{Off: 4096, Len: 9, Kind: pipe.Data}}},
			},
			Tracking: func(context.Context) (map[string]string, error) { return map[string]string{"odd": "change 8"}, nil },
		})
		require.NoError(m, err)
	}
	begin("web", old)
	for range 6 {
		m.point(m.r, "mail", nil)
	}
	begin("db", "")
	require.NoError(m, m.r.Condense(m.Context()))
}

// TestMakeGolden makes the golden repositories that the environment names.
func TestMakeGolden(t *testing.T) {
	names := os.Getenv("HIKAE_MAKE_GOLDEN")
	if names == "" {
		t.Skip("golden repositories are made once: HIKAE_MAKE_GOLDEN names those to be made anew, or all")
	}
	for _, g := range goldens {
		if names == "all" || slices.Contains(strings.Split(names, ","), g.name) {
			t.Run(g.name, func(t *testing.T) { makeGolden(t, g) })
		}
	}
}

func makeGolden(t *testing.T, g golden) {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if g.every == 0 {
		g.every = checkpointEvery
	}
	m := &goldenMaker{TB: t, st: memstore.New(nil), secret: g.secret.opens(t), every: g.every, disks: map[string][]goldenDisk{}}
	g.opts.BlockSize = minBlockSize
	r, err := Init(ctx, m.st, m.secret, &g.opts, nil)
	require.NoError(t, err)
	require.NoError(t, r.Close())
	m.r = m.reopened()
	g.make(m)

	f := goldenFile{What: g.what, Secret: g.secret, CheckpointEvery: g.every}
	for p, err := range m.reopened().Points(ctx, "") {
		require.NoError(t, err)
		if m.disks[p.ID] != nil || len(p.Disks) == 0 {
			f.Points = append(f.Points, goldenPoint{ID: p.ID, VM: p.VM, Held: p.Held != "", Disks: m.disks[p.ID]})
		}
	}
	text, err := json.MarshalIndent(f, "", "  ")
	require.NoError(t, err)
	base := filepath.Join("testdata", "golden", g.name)
	require.NoError(t, os.MkdirAll(filepath.Dir(base), 0o755))
	require.NoError(t, os.WriteFile(base+".json", append(text, '\n'), 0o644))
	require.NoError(t, os.WriteFile(base+".tar.gz", pack(t, m.st), 0o644))
}

// pack makes an archive of a store. The three places of an object stand one after another, which compresses well; times are zero.
func pack(t testing.TB, st store.Store) []byte {
	var names []string
	for info, err := range st.List(t.Context(), "") {
		require.NoError(t, err)
		names = append(names, info.Name)
	}
	plain := func(name string) string {
		return strings.TrimPrefix(strings.TrimPrefix(name, "copy1/"), "copy2/")
	}
	slices.SortFunc(names, func(a, b string) int {
		return strings.Compare(plain(a)+"\x00"+a, plain(b)+"\x00"+b)
	})
	var out bytes.Buffer
	z, err := gzip.NewWriterLevel(&out, gzip.BestCompression)
	require.NoError(t, err)
	w := tar.NewWriter(z)
	for _, name := range names {
		content, err := store.ReadAll(t.Context(), st, name, 64<<20)
		require.NoError(t, err)
		require.NoError(t, w.WriteHeader(&tar.Header{Name: name, Size: int64(len(content)), Mode: 0o600, Format: tar.FormatUSTAR}))
		_, err = w.Write(content)
		require.NoError(t, err)
	}
	require.NoError(t, w.Close())
	require.NoError(t, z.Close())
	return out.Bytes()
}
