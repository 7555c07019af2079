package object_test

import (
	"bytes"
	"encoding/binary"
	"runtime"
	"runtime/debug"
	"testing"

	"filippo.io/age"
	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae/repo/internal/cell"
	"github.com/hikae/hikae/repo/internal/object"
)

type way struct {
	wrap    object.Wrapper
	un      object.Unwrapper
	wrong   object.Unwrapper
	refused error
}

func ways(t testing.TB) map[string]way {
	x, err := object.NewX25519Identity(object.Key{9})
	require.NoError(t, err)
	y, err := object.NewX25519Identity(object.Key{7})
	require.NoError(t, err)
	public, err := object.NewX25519Recipient(x.Recipient().Public())
	require.NoError(t, err)
	a, err := age.GenerateX25519Identity()
	require.NoError(t, err)
	other, err := age.GenerateX25519Identity()
	require.NoError(t, err)
	scrypt, err := age.NewScryptRecipient("tea")
	require.NoError(t, err)
	scrypt.SetWorkFactor(4)
	tea, err := age.NewScryptIdentity("tea")
	require.NoError(t, err)
	coffee, err := age.NewScryptIdentity("coffee")
	require.NoError(t, err)
	return map[string]way{
		"master":     {master, master, object.Master{4}, object.ErrNoKey},
		"x25519":     {public, x, y, object.ErrNoKey},
		"key file":   {object.KeyFile{5}, object.KeyFile{5}, object.KeyFile(master), object.ErrNoKey},
		"passphrase": {object.Passphrase{"tea", cheap}, object.Passphrase{Text: "tea"}, object.Passphrase{Text: "Tea"}, object.ErrWrongSecret},
		"age":        {object.AgeRecipients{a.Recipient()}, object.AgeIdentities{other, a}, object.AgeIdentities{other}, object.ErrNoKey},
		"age scrypt": {object.AgeRecipients{scrypt}, object.AgeIdentities{tea}, object.AgeIdentities{coffee}, object.ErrNoKey},
	}
}

func TestWraps(t *testing.T) {
	all := ways(t)
	for name, w := range all {
		t.Run(name, func(t *testing.T) {
			b := newBuilder(t, object.SuiteAES, object.KindSlot, w.wrap)
			fill(t, b, []byte("secret"))
			file := seal(t, b)
			open := func(un ...object.Unwrapper) error {
				o, _, err := object.OpenFile(file, ident(b), un)
				if err == nil {
					var got []byte
					got, err = o.Content(0)
					require.Equal(t, "secret", string(got))
				}
				return err
			}
			require.NoError(t, open(w.un))
			require.NoError(t, open(object.Clear{}, w.wrong, w.un), "the others do not stand in the way")
			require.ErrorIs(t, open(w.wrong), w.refused)
			require.ErrorIs(t, open(w.wrong), object.ErrNoKey, "a wrong secret is a missing key too")
			require.ErrorIs(t, open(), object.ErrNoKey)
			require.ErrorIs(t, open(object.Clear{}), object.ErrNoKey)
			require.ErrorIs(t, open(object.AgeIdentities{}), object.ErrNoKey)
			for other, o := range all {
				if other != name {
					require.ErrorIs(t, open(o.un), object.ErrNoKey)
					require.NotErrorIs(t, open(o.un), object.ErrWrongSecret, "%s was never asked", other)
				}
			}
		})
	}
}

func TestSeveralWrapsOfOneObject(t *testing.T) {
	all := ways(t)
	var wraps []object.Wrapper
	for name, w := range all {
		if name != "age scrypt" {
			wraps = append(wraps, w.wrap)
		}
	}
	b := newBuilder(t, object.SuiteAES, object.KindSlot, wraps...)
	fill(t, b, []byte("secret"))
	file := seal(t, b)
	for name, w := range all {
		if name != "age scrypt" {
			_, _, err := object.OpenFile(file, ident(b), []object.Unwrapper{w.un})
			require.NoError(t, err, name)
		}
	}
}

func TestZeroCostIsTheDefault(t *testing.T) {
	b := newBuilder(t, object.SuiteAES, object.KindSlot, object.Passphrase{Text: "tea"})
	h := headerOf(t, b)
	require.Equal(t, []byte{3, 0, 0, 0, 0, 0, 1, 0, 2}, h.Wraps[0].Body[16:25])
	_, err := object.Unwrap(h, object.Passphrase{Text: "tea"})
	require.NoError(t, err)
}

// headerOf is the header of the object that b is at.
func headerOf(t testing.TB, b *object.Builder) *object.Header {
	stream, _, _, err := cell.Decode(seal(t, b))
	require.NoError(t, err)
	h, err := object.ParseHeader(stream)
	require.NoError(t, err)
	require.Equal(t, stream[:h.Len()], h.Append(nil))
	return h
}

// A wrong passphrase, a header for others, and damage are three things.
func TestDamagedWraps(t *testing.T) {
	for name, w := range ways(t) {
		t.Run(name, func(t *testing.T) {
			h := headerOf(t, newBuilder(t, object.SuiteAES, object.KindSlot, w.wrap))
			body := h.Wraps[0].Body
			body[len(body)-1] ^= 1
			_, err := object.Unwrap(h, w.un)
			if name == "passphrase" {
				require.ErrorIs(t, err, object.ErrWrongSecret)
				return
			}
			require.ErrorAs(t, err, new(*object.CorruptError))
			body[len(body)-1] ^= 1
			h.Object[0] ^= 1 // the same wrap in another object
			_, err = object.Unwrap(h, w.un)
			require.ErrorAs(t, err, new(*object.CorruptError))
		})
	}
}

// AES-GCM would let one wrap open with two keys; the commitment does not.
func TestCraftedSecondKey(t *testing.T) {
	b := newBuilder(t, object.SuiteAES, object.KindData, master)
	h := headerOf(t, b)
	forged, err := object.KeyFile{6}.Wrap(h, object.Key{0xBA, 0xD0})
	require.NoError(t, err)
	h.Wraps = append([]object.Wrap{forged}, h.Wraps...)
	_, err = object.Unwrap(h, object.KeyFile{6})
	require.ErrorAs(t, err, new(*object.CorruptError))
	_, err = object.Unwrap(h, object.KeyFile{6}, master)
	require.NoError(t, err, "the honest way still leads in")
}

func TestPassphraseCostBounds(t *testing.T) {
	for name, cost := range map[string]object.Cost{
		"no time": {0, 64, 1}, "time": {65, 64, 1}, "no memory": {1, 7, 1}, "memory": {1, 1<<20 + 1, 1},
		"no threads": {1, 64, 0}, "threads": {1, 4096, 65}, "memory for threads": {1, 64, 9},
	} {
		_, err := object.NewBuilder(repo, object.SuiteAES, object.KindSlot, 30, 0, []object.Wrapper{object.Passphrase{"tea", cost}})
		require.Error(t, err, name)
		h := headerOf(t, newBuilder(t, object.SuiteAES, object.KindSlot, object.Passphrase{"tea", cheap}))
		body := h.Wraps[0].Body
		binary.LittleEndian.PutUint32(body[16:], cost.Time)
		binary.LittleEndian.PutUint32(body[20:], cost.MemoryKiB)
		body[24] = cost.Threads
		_, err = object.Unwrap(h, object.Passphrase{Text: "tea"}) // and at once: nothing of the cost is paid
		if cost.Time > 64 || cost.MemoryKiB > 1<<20 || cost.Threads > 64 {
			require.ErrorIs(t, err, object.ErrCostly, name)
			require.NotErrorIs(t, err, object.ErrNoKey, name)
			continue
		}
		require.ErrorAs(t, err, new(*object.CorruptError), name)
	}
}

// Guesses are made one after the other, and the memory of one is let go of before the next: a header of sixteen wraps takes no more
// than its most costly one.
func TestGuessesDoNotAddUp(t *testing.T) {
	if testing.Short() || raceEnabled {
		t.Skip("argon2id over 128 MiB is slow under the race detector")
	}
	h := headerOf(t, newBuilder(t, object.SuiteAES, object.KindSlot, object.Passphrase{"tea", cheap}))
	binary.LittleEndian.PutUint32(h.Wraps[0].Body[20:], 128<<10)
	for range 5 {
		h.Wraps = append(h.Wraps, h.Wraps[0])
	}
	var before, after runtime.MemStats
	debug.FreeOSMemory()
	runtime.ReadMemStats(&before)
	_, err := object.Unwrap(h, object.Passphrase{Text: "tea"})
	require.ErrorIs(t, err, object.ErrWrongSecret)
	runtime.ReadMemStats(&after)
	require.Less(t, after.HeapAlloc, before.HeapAlloc+64<<20, "what the last guess used")
	require.Less(t, after.HeapSys, before.HeapSys+(128+64)<<20, "what all of them used at once")
}

// X25519 points of low order make a shared secret that everyone knows.
func TestLowOrderPoint(t *testing.T) {
	x, err := object.NewX25519Identity(object.Key{9})
	require.NoError(t, err)
	h := headerOf(t, newBuilder(t, object.SuiteAES, object.KindData, x.Recipient()))
	clear(h.Wraps[0].Body[8:40])
	_, err = object.Unwrap(h, x)
	require.ErrorAs(t, err, new(*object.CorruptError))
	zero, err := object.NewX25519Recipient([32]byte{})
	require.NoError(t, err)
	_, err = object.NewBuilder(repo, object.SuiteAES, object.KindData, 30, 0, []object.Wrapper{zero})
	require.Error(t, err)
}

func TestAgeContentMustBeAKey(t *testing.T) {
	a, err := age.GenerateX25519Identity()
	require.NoError(t, err)
	h := headerOf(t, newBuilder(t, object.SuiteAES, object.KindSlot, object.AgeRecipients{a.Recipient()}))
	for _, n := range []int{0, 31, 33, 4000} {
		var body bytes.Buffer
		w, err := age.Encrypt(&body, a.Recipient())
		require.NoError(t, err)
		_, _ = w.Write(make([]byte, n))
		require.NoError(t, w.Close())
		h.Wraps[0].Body = body.Bytes()
		_, err = object.Unwrap(h, object.AgeIdentities{a})
		require.ErrorAs(t, err, new(*object.CorruptError))
	}
	var many object.AgeRecipients
	for range 100 {
		many = append(many, a.Recipient())
	}
	_, err = object.NewBuilder(repo, object.SuiteAES, object.KindSlot, 30, 0, []object.Wrapper{many})
	require.Error(t, err, "more than 8 KiB")
}

func TestUnknownWrap(t *testing.T) {
	h := headerOf(t, newBuilder(t, object.SuiteAES, object.KindData, master))
	h.Wraps = append([]object.Wrap{{Type: 200, Body: []byte("from the future")}}, h.Wraps...)
	h, err := object.ParseHeader(h.Append(nil))
	require.NoError(t, err)
	_, err = object.Unwrap(h, master)
	require.NoError(t, err)
	h.Wraps = h.Wraps[:1]
	_, err = object.Unwrap(h, master)
	require.ErrorAs(t, err, new(*object.UnsupportedError))
}

func TestParseHeaderRefuses(t *testing.T) {
	good := headerOf(t, newBuilder(t, object.SuiteAES, object.KindData, master)).Append(nil)
	for n := range good {
		_, err := object.ParseHeader(good[:n])
		require.ErrorIs(t, err, object.ErrShort, "%d bytes", n)
	}
	for name, c := range map[string]struct {
		at          int
		value       byte
		unsupported bool
	}{
		"magic": {0, 'h', false}, "version": {8, 2, true}, "kind 0": {10, 0, false}, "kind 11": {10, 11, false},
		"suite 2": {11, 2, true}, "suite 0 with another wrap": {11, 0, false}, "no wraps": {76, 0, false},
		"17 wraps": {76, 17, false}, "length of a known wrap": {78, 57, false}, "long wrap": {79, 0x21, false},
		"clear wrap": {77, 0, false},
	} {
		p := bytes.Clone(good)
		p[c.at] = c.value
		_, err := object.ParseHeader(p)
		if c.unsupported {
			require.ErrorAs(t, err, new(*object.UnsupportedError), name)
		} else {
			require.ErrorAs(t, err, new(*object.CorruptError), name)
		}
	}
}
