package repo

import (
	"fmt"
	"io"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae/repo/store/memstore"
)

// A point that was forgotten while somebody reads it is in the checkpoint that stands for both records: who knows the log from
// there alone keeps what the reader needs.
func TestCheckpointKeepsWhatIsBeingRead(t *testing.T) {
	ctx := t.Context()
	st := memstore.New(nil)
	r := initShort(t, st, nil)
	old := mustPoint(t, r, "vm", noiseDisk(1, 2))
	img, err := r.Open(ctx, old, "disk0")
	require.NoError(t, err)
	defer img.Close()
	other := shortLog(t, st, nil)
	require.NoError(t, other.Forget(ctx, []string{old}, "too old"))
	for i := range 10 {
		emptyPoint(t, other, fmt.Sprint("vm", i))
	}
	require.NoError(t, other.Condense(ctx))

	fresh := shortLog(t, st, nil)
	require.Positive(t, fresh.log.from)
	fresh.log.view(func(l *ledger) {
		require.Len(t, l.needed(), 1+len(l.points))
	})
	mustPrune(t, fresh, nil)
	content := make([]byte, img.Size())
	if _, err := img.ReadAt(ctx, content, 0); err != io.EOF {
		require.NoError(t, err)
	}
}
