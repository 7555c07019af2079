package repo

import (
	"crypto/ed25519"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae/pipe"
	"github.com/hikae/hikae/repo/store"
	"github.com/hikae/hikae/repo/store/memstore"
)

// chronicle is a repository with sessions, a hold, a point that was forgotten and pruned, and one that was only forgotten.
type chronicle struct {
	st    *memstore.Store
	state string
	there map[string]pipe.Image // points that have to be there, whatever is lost
	maybe []string              // points that were forgotten
	keys  []string              // of the machine that wrote it
}

func newChronicle(t *testing.T) *chronicle {
	h := &chronicle{st: memstore.New(nil), state: t.TempDir(), there: map[string]pipe.Image{}}
	r, err := Init(t.Context(), h.st, innerKey, &InitOptions{BlockSize: minBlockSize}, &OpenOptions{CacheDir: t.TempDir(), StateDir: h.state})
	require.NoError(t, err)
	defer r.Close()
	add := func(n uint64) string {
		id := mustPoint(t, r, "vm", noiseDisk(seq(n, n+4)...))
		h.there[id] = noiseDisk(seq(n, n+4)...)
		return id
	}
	first, second, third := add(1), add(10), add(20)
	require.NoError(t, r.Hold(t.Context(), []string{second}, "keep"))
	require.NoError(t, r.Forget(t.Context(), []string{first}, ""))
	mustPrune(t, r, nil)
	require.NoError(t, r.Forget(t.Context(), []string{third}, ""))
	delete(h.there, first)
	delete(h.there, third)
	h.maybe = []string{first, third}
	add(30)
	add(40)
	for k := range r.log.keys {
		h.keys = append(h.keys, publicKeyText(k))
	}
	return h
}

func (h *chronicle) open(t *testing.T, st store.Store) *Repository {
	t.Helper()
	return openInner(t, st, &OpenOptions{Warn: func(s string) { t.Log(s) }})
}

func (h *chronicle) head(t *testing.T) uint64 {
	r := h.open(t, h.st)
	n, _ := r.log.head()
	return n
}

// check: everything that was committed and not forgotten restores, nothing else is there but what was forgotten, and the repository
// goes on.
func (h *chronicle) check(t *testing.T, st store.Store, about string) {
	t.Helper()
	r := h.open(t, st)
	found := map[string]bool{}
	for p, err := range r.Points(t.Context(), "") {
		require.NoError(t, err, about)
		found[p.ID] = true
		if _, ok := h.there[p.ID]; !ok {
			require.Contains(t, h.maybe, p.ID, about)
		}
	}
	for id, img := range h.there {
		require.True(t, found[id], "%s: point %s", about, id)
		requireDisk(t, r, id, img)
	}
	require.False(t, found[h.maybe[0]] && !h.manifestThere(t, st), "%s: a point that was pruned is back", about)
	next := mustPoint(t, r, "vm", noiseDisk(seq(50, 54)...))
	again := h.open(t, st)
	requireDisk(t, again, next, noiseDisk(seq(50, 54)...))
	rep, err := again.Verify(t.Context(), &VerifyOptions{DataPercent: 100})
	require.NoError(t, err, about)
	require.Empty(t, rep.Affected, "%s: %+v", about, rep)
	for e, err := range again.Audit(t.Context()) {
		require.NoError(t, err, "%s: %+v", about, e)
	}
}

func (h *chronicle) manifestThere(t *testing.T, st store.Store) bool {
	for info, err := range st.List(t.Context(), "manifest/") {
		require.NoError(t, err)
		if strings.HasSuffix(info.Name, h.maybe[0]) {
			return true
		}
	}
	return false
}

// Each record of a history, and each pair of neighbours, is lost in all three places, or damaged there: it stops everything, as before; MendLog
// closes the gap, and everything that was committed is there.
func TestRecordsThatAreLostForGood(t *testing.T) {
	t.Parallel()
	h := newChronicle(t)
	head := h.head(t)
	fast := tierOf() == ""
	for n := uint64(2); n < head; n++ {
		for _, count := range []uint64{1, 2} {
			for _, how := range []string{"missing", "empty", "noise"} {
				if n+count > head || count == 2 && how == "noise" || fast && rand.IntN(4) > 0 {
					continue
				}
				about := fmt.Sprintf("records %d to %d: %s", n, n+count-1, how)
				t.Run(about, func(t *testing.T) { // so that what it opens is closed before the next
					st := h.st.Clone()
					for k := n; k < n+count; k++ {
						for _, place := range copiesOf(logName(k)) {
							switch how {
							case "missing":
								require.NoError(t, st.Remove(t.Context(), place))
							case "empty":
								st.Set(place, []byte{})
							default:
								st.Set(place, []byte(strings.Repeat("noise", 2000)))
							}
						}
					}
					r := h.open(t, st)
					_, err := keepPoint(t.Context(), r, "vm", noiseDisk(1), "")
					require.Error(t, err, about)
					before := h.count(t, st)
					dry, err := r.MendLog(t.Context(), &MendLogOptions{DryRun: true})
					require.NoError(t, err, about)
					require.Equal(t, before, h.count(t, st), about)
					rep, err := r.MendLog(t.Context(), &MendLogOptions{Why: "test"})
					require.NoError(t, err, about)
					require.Len(t, rep.Gaps, 1, about)
					require.Equal(t, dry.Gaps, rep.Gaps, about)
					require.Equal(t, LogGap{First: n, Last: n + count - 1, Proven: true, Found: rep.Gaps[0].Found, Open: rep.Gaps[0].Open}, rep.Gaps[0], about)
					h.check(t, st, about)
				})
			}
		}
	}
}

func (h *chronicle) count(t *testing.T, st store.Store) map[string]int64 {
	all := map[string]int64{}
	for info, err := range st.List(t.Context(), "") {
		require.NoError(t, err)
		all[info.Name] = info.Size
	}
	return all
}

// The record that lets the only key in is lost: what that key said counts only if somebody says that it was let in.
func TestLostEnrolment(t *testing.T) {
	t.Parallel()
	h := newChronicle(t)
	for _, place := range copiesOf(logName(1)) {
		require.NoError(t, h.st.Remove(t.Context(), place))
	}
	r := h.open(t, h.st)
	rep, err := r.MendLog(t.Context(), nil)
	require.ErrorIs(t, err, ErrUnproven)
	require.Empty(t, rep.Gaps)
	require.Len(t, rep.Unknown, 1)
	require.Contains(t, h.keys, rep.Unknown[0].Key)
	_, err = r.MendLog(t.Context(), &MendLogOptions{Trust: []string{rep.Unknown[0].Key}})
	require.NoError(t, err)
	h.check(t, h.st, "enrolment")
}

// The last record is damaged in all three places: nothing is behind it, and the log goes on with what can be known.
func TestLostEndOfTheLog(t *testing.T) {
	t.Parallel()
	h := newChronicle(t)
	head := h.head(t)
	for _, n := range []uint64{head, head - 1} { // the end of the last session, then its commit, too
		for _, place := range copiesOf(logName(n)) {
			h.st.Set(place, []byte("nothing"))
		}
		st := h.st.Clone()
		r := h.open(t, st)
		rep, err := r.MendLog(t.Context(), nil)
		require.NoError(t, err)
		require.False(t, rep.Gaps[0].Proven)
		h.check(t, st, fmt.Sprint(n))
	}
}

// A record whose three places are each damaged in another cell is put together from them.
func TestRecordFromPartsOfThreePlaces(t *testing.T) {
	t.Parallel()
	h := newChronicle(t)
	head := h.head(t)
	n := head / 2
	places := copiesOf(logName(n))
	for i, place := range places {
		b, err := store.ReadAll(t.Context(), h.st, place, 1<<20)
		require.NoError(t, err)
		for c := range len(b) / 4096 {
			if c != i {
				b[c*4096+100+c] ^= 0xff
			}
		}
		if i == 2 {
			clear(b)
		}
		h.st.Set(place, b)
	}
	r := h.open(t, h.st)
	rep, err := r.MendLog(t.Context(), nil)
	require.NoError(t, err)
	require.Empty(t, rep.Gaps) // one good cell is enough for a small record, so that reading already mends it
	h.check(t, h.st, "parts")
}

// Whoever keeps the store removes a record and puts one of his own there, or several, signed with a key of his own, and a manifest besides:
// none of it is believed, and all that was committed is there.
func TestForgedRecordsInTheGap(t *testing.T) {
	t.Parallel()
	h := newChronicle(t)
	head := h.head(t)
	_, evil, err := ed25519.GenerateKey(nil)
	require.NoError(t, err)
	step := uint64(2)
	if tierOf() == "" {
		step = 6
	}
	for n := 3 + rand.Uint64N(step); n < head-2; n += step {
		for _, count := range []uint64{1, 2} {
			st := h.st.Clone()
			r := h.open(t, st)
			l := r.reread(n - 1)
			require.NoError(t, l.refresh(t.Context()))
			for k := range count {
				rec := &record{Kind: recordLease, Access: accessWrite}
				if k == 1 {
					public := publicOf(evil)
					rec = &record{Kind: recordKey, Key: &public, Role: roleFull}
				}
				file, raw, err := l.seal(evil, rec)
				require.NoError(t, err)
				for _, place := range copiesOf(logName(n + k)) {
					st.Set(place, file)
				}
				l.went(n+k, raw)
			}
			h.forgeManifest(t, r, st, evil, n)
			r = h.open(t, st)
			_, err := r.MendLog(t.Context(), nil)
			require.ErrorIs(t, err, ErrUnproven, "somebody unknown has signed a manifest: a person has to say that he is a stranger")
			rep, err := r.MendLog(t.Context(), &MendLogOptions{Distrust: true})
			require.NoError(t, err, n)
			require.Len(t, rep.Gaps, 1)
			for _, s := range rep.Gaps[0].Found {
				require.NotContains(t, s, publicKeyText(publicOf(evil))[:16])
			}
			again := h.open(t, st)
			_, known := again.log.keys[publicOf(evil)]
			require.False(t, known)
			h.check(t, st, fmt.Sprint("forged ", n))
		}
	}
}

// forgeManifest puts a manifest there under a lease that may be open.
func (h *chronicle) forgeManifest(t *testing.T, r *Repository, st *memstore.Store, evil ed25519.PrivateKey, lease uint64) {
	t.Helper()
	man := &manifest{Point: id16{7}, Lease: lease, VM: "vm", Consistency: "crash", Disks: []manifestDisk{}, Blobs: []manifestBlob{}, Tracking: map[string]string{}, Facts: map[string]string{}}
	body, err := encodeJSON(man)
	require.NoError(t, err)
	_, file, err := r.keys.maker(r.header.Suite, r.keys.wrapsOf(kindManifest))(kindManifest, sign(evil, signManifest, r.header.ID, body))
	if err != nil {
		t.Fatal(err)
	}
	for _, place := range copiesOf(manifestName(lease, man.Point)) {
		st.Set(place, file)
	}
}

// A copy of the repository went its own way, and its records are put behind the gap: this machine has seen the other ones.
func TestGapBeforeAnotherHistory(t *testing.T) {
	t.Parallel()
	h := newChronicle(t)
	theirState := t.TempDir()
	both, err := Open(t.Context(), h.st, innerKey, &OpenOptions{CacheDir: t.TempDir(), StateDir: theirState})
	require.NoError(t, err)
	mustPoint(t, both, "vm", noiseDisk(seq(90, 94)...))
	require.NoError(t, both.Close())
	head := h.head(t)
	fork := h.st.Clone()
	opts := func() *OpenOptions { return &OpenOptions{CacheDir: t.TempDir(), StateDir: h.state} }
	mine, err := Open(t.Context(), h.st, innerKey, opts())
	require.NoError(t, err)
	mustPoint(t, mine, "vm", noiseDisk(seq(60, 64)...))
	seen, _ := mine.log.head()
	require.NoError(t, mine.Close())
	theirs := openInner(t, fork, &OpenOptions{CacheDir: t.TempDir(), StateDir: theirState})
	mustPoint(t, theirs, "vm", noiseDisk(seq(70, 74)...))
	mustPoint(t, theirs, "vm", noiseDisk(seq(80, 84)...))
	other, _ := theirs.log.head()
	require.Greater(t, other, seen)
	for n := head + 1; n <= other; n++ {
		for _, place := range copiesOf(logName(n)) {
			b, err := store.ReadAll(t.Context(), fork, place, 1<<20)
			require.NoError(t, err)
			h.st.Set(place, b)
		}
	}
	for _, place := range copiesOf(logName(head + 1)) {
		h.st.Set(place, nil)
	}
	again, err := Open(t.Context(), h.st, innerKey, opts())
	require.NoError(t, err)
	defer again.Close()
	_, err = again.MendLog(t.Context(), nil)
	var rollback *ErrRollback
	require.ErrorAs(t, err, &rollback)
	require.True(t, rollback.Fork)
	require.Greater(t, rollback.Seen, head)
}
