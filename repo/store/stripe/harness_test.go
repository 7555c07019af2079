package stripe_test

import (
	"context"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/hikae/hikae/repo/store"
	"github.com/hikae/hikae/repo/store/dirstore"
	"github.com/hikae/hikae/repo/store/memstore"
	"github.com/hikae/hikae/repo/store/storetest"
	"github.com/hikae/hikae/repo/store/stripe"
)

// Most of these tests wait for members that do not answer, so that four at once take no longer than two.
func TestMain(m *testing.M) {
	_ = flag.Set("test.parallel", "4")
	goleak.VerifyTestMain(m)
}

// long says whether more than the fast tier runs.
func long() bool {
	tier := os.Getenv("HIKAE_TEST_TIER")
	return tier == "long" || tier == "release"
}

// lab is a set in memory whose members can fail, hang, vanish and be put back as they had been.
type lab struct {
	t    testing.TB
	mems []*memstore.Store
}

// everything is striped, so that small objects meet the code for large ones.
var everything = func(string) bool { return true }

// quick are options under which hung members are given up soon.
func quick() *stripe.Options {
	return &stripe.Options{
		Striped: everything, Hedge: 20 * time.Millisecond, ReadDeadline: time.Second,
		WriteDeadline: time.Second, ListDeadline: time.Second,
	}
}

func degraded() *stripe.Options {
	o := quick()
	o.Degraded = true
	return o
}

func newLab(t testing.TB, n, k, m int) *lab {
	l := &lab{t: t}
	for range n {
		l.mems = append(l.mems, memstore.New(nil))
	}
	st, err := stripe.Init(context.Background(), l.stores(), stripe.InitOptions{Data: k, Parity: m, Labels: labels(n)}, patient(false))
	require.NoError(t, err)
	require.NoError(t, st.Close())
	return l
}

func labels(n int) (list []string) {
	for i := range n {
		list = append(list, string(rune('a'+i)))
	}
	return list
}

// stores are all members; closing them does not end them.
func (l *lab) stores(without ...int) []store.Store {
	list := make([]store.Store, len(l.mems))
	for i, m := range l.mems {
		list[i] = kept{m}
	}
	for _, i := range without {
		list[i] = nil
	}
	return list
}

// kept is a store that stays open.
type kept struct{ store.Store }

func (kept) Close() error          { return nil }
func (k kept) Unwrap() store.Store { return k.Store }

func (l *lab) open(opts *stripe.Options, without ...int) *stripe.Store {
	l.t.Helper()
	return l.over(opts, l.stores(without...))
}

func (l *lab) over(opts *stripe.Options, stores []store.Store) *stripe.Store {
	l.t.Helper()
	st, err := stripe.Open(context.Background(), stores, opts)
	require.NoError(l.t, err)
	l.t.Cleanup(func() { _ = st.Close() })
	return st
}

// content is what an object is filled with; the size depends on the seed.
func content(seed uint64, n int) []byte {
	p := make([]byte, n)
	var key [32]byte
	key[0], key[1] = byte(seed), byte(seed>>8)
	_, _ = rand.NewChaCha8(key).Read(p)
	return p
}

// objects creates some of many sizes, and returns what they hold.
func objects(t testing.TB, st store.Store) map[string][]byte {
	t.Helper()
	held := map[string][]byte{}
	for i, n := range []int{0, 1, 4096, 4097, 131_071, 131_072, 131_073, 400_000, 1 << 20, 1<<20 + 1, 3_000_000} {
		name := fmt.Sprintf("data/%02d/%d", i%3, n)
		held[name] = content(uint64(i), n)
		require.NoError(t, st.Create(t.Context(), name, held[name]))
	}
	return held
}

func holds(t testing.TB, st store.Store, held map[string][]byte) {
	t.Helper()
	listed, err := storetest.Collect(st.List(t.Context(), ""))
	require.NoError(t, err)
	require.Len(t, listed, len(held))
	for name, data := range held {
		require.EqualValues(t, len(data), listed[name], name)
		got, err := store.ReadAll(t.Context(), st, name, 1<<30)
		require.NoError(t, err, name)
		require.True(t, string(data) == string(got), "%s differs", name)
	}
}

// dirs makes so many folders, or opens them.
func dirs(b testing.TB, root string, n int) (list []store.Store) {
	for i := range n {
		st, err := dirstore.Init(filepath.Join(root, fmt.Sprint(i)))
		require.NoError(b, err)
		list = append(list, st)
	}
	return list
}
