package repo

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae/repo/store/memstore"
)

// Somebody who can write to the store creates a record whose signature is wrong. It uses up its number and says nothing; the log is made
// short all the same, and the audit passes over it.
func TestRecordWithAWrongSignatureInTheAudit(t *testing.T) {
	ctx := t.Context()
	st := memstore.New(nil)
	r := initShort(t, st, nil)
	emptyPoint(t, r, "vm")
	n, last := r.log.head()
	body, err := (&record{N: n + 1, Prev: last, Time: time.Now().UTC(), Kind: recordLease, Access: accessWrite}).encode()
	require.NoError(t, err)
	raw := sign(keyFromSeed(make([]byte, 32)), signRecord, r.header.ID, body)
	raw[3] ^= 1
	_, file, err := r.sealClear(kindLog, raw)
	require.NoError(t, err)
	require.NoError(t, st.Create(ctx, logName(n+1), file))
	for range r.Audit(ctx) { // while the record is there
	}
	for i := range 10 {
		emptyPoint(t, r, fmt.Sprint("vm", i))
	}
	audited := func() (list []AuditEntry) {
		for e, err := range r.Audit(ctx) {
			require.NoError(t, err)
			list = append(list, e)
		}
		return list
	}
	before := audited()
	require.NotEmpty(t, before)
	require.NoError(t, r.Condense(ctx))
	require.Equal(t, before, audited())
	require.Len(t, listed(t, shortLog(t, st, nil)), 11)
}

// What the audit says of who may say what is what counted: a key is enrolled by the root key alone, and that one says nothing else.
func TestAuditSaysWhatCounted(t *testing.T) {
	ctx := t.Context()
	st := memstore.New(nil)
	r := initShort(t, st, nil)
	point := emptyPoint(t, r, "vm")
	full, err := r.signingKey(ctx)
	require.NoError(t, err)
	other := publicOf(keyFromSeed(make([]byte, 32)))
	byFull := says(t, r, full, record{Kind: recordKey, Key: &other, Role: roleFull})
	byRoot := says(t, r, r.keys.root, record{Kind: recordForget, Points: []id16{pointID(t, point)}})
	require.Equal(t, []string{point}, listed(t, r))
	seen := map[uint64]bool{}
	for e, err := range r.Audit(ctx) {
		require.NoError(t, err)
		seen[e.N] = e.Counts
	}
	require.Contains(t, seen, byFull)
	require.Contains(t, seen, byRoot)
	require.False(t, seen[byFull])
	require.False(t, seen[byRoot])
}
