package guard_test

import (
	"math/rand/v2"
	"os"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae/repo"
	"github.com/hikae/hikae/repo/guard"
	"github.com/hikae/hikae/repo/store/memstore"
	"github.com/hikae/hikae/repo/store/storetest"
)

// Laws 1 and 3: whatever call of the store fails while the guard looks at what a client that only appends brings, before it was carried
// out or after, nothing that was there is hurt, a point that was reported is there, and the next backup succeeds.
func TestEveryCallBelowTheGuardFails(t *testing.T) {
	ctx := t.Context()
	origin := newSite(t)
	old := origin.backup(origin.full, "db", 1, nil)
	key := origin.enrol("web")
	step := 17
	if tier := os.Getenv("HIKAE_TEST_TIER"); tier == "long" || tier == "release" {
		step = 1
	}
	for _, mode := range []storetest.Mode{storetest.Before, storetest.After} {
		for n := 1 + rand.IntN(step); ; n += step {
			s := &site{t: t, st: origin.st.Clone()}
			faulty := storetest.NewFaulty(s.st, storetest.Fault{Op: storetest.Any, N: n, Mode: mode})
			run := func(g *guard.Guard) (point string, err error) {
				w, err := repo.OpenWriter(ctx, g.For("web-host", false), memstore.New(nil), key, s.options())
				if err != nil {
					return "", err
				}
				defer w.Close()
				p, err := backup(ctx, w, "web", disk(2), nil)
				return p.ID, err
			}
			point, failed := "", error(nil)
			g, err := guard.New(faulty, nil)
			if err == nil {
				point, failed = run(g)
			}
			fired := faulty.Fired() > 0
			again, err := guard.New(s.st, nil)
			require.NoError(t, err)
			next, err := run(again)
			require.NoError(t, err, "after call %d", n)
			func() {
				r, err := repo.Open(ctx, s.st, secret, s.options())
				require.NoError(t, err)
				defer r.Close()
				s.requireRestores(r, old.ID, 1)
				s.requireRestores(r, next, 2)
				if failed == nil && point != "" {
					s.requireRestores(r, point, 2)
				}
				rep, err := r.Verify(ctx, &repo.VerifyOptions{DataPercent: 100})
				require.NoError(t, err)
				require.Empty(t, rep.Affected, "call %d", n)
			}()
			if !fired {
				require.NoError(t, failed)
				require.Greater(t, n, 30)
				break
			}
		}
	}
}
