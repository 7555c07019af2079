package repo_test

import (
	"context"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae/pipe/pipetest"
	"github.com/hikae/hikae/repo"
	"github.com/hikae/hikae/repo/store"
)

// onRead does something when an object is first read whose name begins so.
type onRead struct {
	store.Store
	once sync.Once
	has  string
	do   func()
}

func (o *onRead) Unwrap() store.Store { return o.Store }

func (o *onRead) ReadAt(ctx context.Context, name string, p []byte, off int64) (int, error) {
	if o.do != nil && strings.HasPrefix(name, o.has) {
		o.once.Do(o.do)
	}
	return o.Store.ReadAt(ctx, name, p, off)
}

// What is forgotten and swept while a verification runs is no damage, and a repair does not put it back.
func TestVerifyBesidePrune(t *testing.T) {
	for _, has := range []string{"data/", "copy2/manifest/", "index/", "meta/"} {
		t.Run(has, func(t *testing.T) {
			ctx := t.Context()
			st := manyPacks(t, 4)
			other := reopen(t, st)
			gone := mustBackup(t, other, "old", pipetest.NewPattern(99, 12*testBlock).Blank(), nil)
			h := &onRead{Store: st, has: has}
			r, err := repo.Open(ctx, h, testKey, openOptions(t))
			require.NoError(t, err)
			defer r.Close()
			h.do = func() {
				require.NoError(t, other.Forget(ctx, []string{gone}, "old"))
				rep, err := other.Prune(ctx, nil)
				require.NoError(t, err)
				require.NotZero(t, rep.Deleted)
			}
			rep, err := r.Verify(ctx, &repo.VerifyOptions{DataPercent: 100, Repair: true, Declare: true})
			require.NoError(t, err)
			require.True(t, rep.OK, "%+v %+v", rep.Damaged, rep.Affected)
			for _, name := range names(t, st) {
				require.NotContains(t, name, gone)
			}
		})
	}
}
