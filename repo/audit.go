package repo

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"maps"
	"slices"
	"time"

	"github.com/hikae/hikae/repo/internal/object"
)

// AuditEntry is one thing that was taken away from a repository, kept from it, or allowed in it.
type AuditEntry struct {
	N      uint64    `json:"n"`    // number of the log record
	Time   time.Time `json:"time"` // by the clock of who wrote it
	Kind   string    `json:"kind"` // forget, hold, unhold, revoke, tombstone, untombstone, sweep, swept, bad, adopt, slots, gap, key
	By     publicKey `json:"by"`   // Ed25519 key that signed it
	Note   string    `json:"note,omitempty"`
	Points []id16    `json:"points,omitempty"`
	Lease  uint64    `json:"lease,omitempty"`
	Count  int       `json:"count,omitempty"` // packs, ids or slots that the record names
	Counts bool      `json:"counts"`          // false: its signer was not allowed to say that, and it changed nothing
}

var audited = []recordKind{recordKey, recordForget, recordHold, recordUnhold, recordRevoke, recordTombstone, recordUntombstone, recordSweep, recordSwept, recordBad, recordAdopt, recordSlots, recordGap}

// Audit yields everything that was ever taken away, kept or allowed, in the order of the log: from the checkpoints what their records said, and
// then from the records. The log is signed, so nobody without a key makes an entry, and chained, so none goes missing in between.
func (r *Repository) Audit(ctx context.Context) iter.Seq2[AuditEntry, error] {
	return func(yield func(AuditEntry, error) bool) {
		if err := r.log.refresh(ctx); err != nil {
			yield(AuditEntry{}, err)
			return
		}
		next := uint64(1)
		for k, last := uint64(1), r.lastCheckpoint(ctx); k <= last; k++ {
			d, err := r.log.readCheckpoint(ctx, k)
			if err != nil {
				if !yield(AuditEntry{}, fmt.Errorf("%s: %w", checkpointName(k), err)) {
					return
				}
				continue
			}
			for _, e := range d.Audit {
				if !yield(e, nil) {
					return
				}
			}
			next = d.N + 1
		}
		head, _ := r.log.head()
		for e, err := range r.auditOf(ctx, next, head) {
			if !yield(e, err) || err != nil {
				return
			}
		}
	}
}

// auditOf yields what the records from first to last say.
func (r *Repository) auditOf(ctx context.Context, first, last uint64) iter.Seq2[AuditEntry, error] {
	return func(yield func(AuditEntry, error) bool) {
		var keys map[publicKey]enrolment
		for n := first; n <= last; n++ {
			var s signed
			var rec *record
			want := r.log.hashOf(n)
			gone := false
			r.log.view(func(l *ledger) {
				stored := l.stored(n, want)
				gone = stored == hash{} && l.within(n)
				want = stored
			})
			if gone {
				continue // a gap stands for it
			}
			_, err := r.vital.read(ctx, logName(n), kindLog, r.header.ID, []object.Unwrapper{object.Clear{}}, func(v *vital) (err error) {
				rec = nil
				if s, err = openSigned(v.content, signRecord, r.header.ID); err == nil {
					rec, err = decodeRecord(s.body)
				}
				if errors.Is(err, errSignature) && want == hashBytes(v.content) {
					return nil // it uses up its number, and says nothing
				}
				if err == nil && want != (hash{}) && want != hashBytes(v.content) {
					err = fmt.Errorf("it is another record: %w", fs.ErrInvalid)
				}
				return err
			})
			if err != nil {
				yield(AuditEntry{}, fmt.Errorf("%s: %w", logName(n), err))
				return
			}
			if rec == nil || !slices.Contains(audited, rec.Kind) {
				continue
			}
			if keys == nil {
				r.log.view(func(l *ledger) { keys = maps.Clone(l.keys) })
			}
			counts := keys[s.key].role == roleFull
			if rec.Kind == recordKey || rec.Kind == recordGap {
				counts = s.key == r.header.Root
			}
			e := AuditEntry{
				N: n, Time: rec.Time, Kind: string(rec.Kind), By: s.key, Note: rec.Note, Points: rec.Points, Lease: rec.Lease,
				Count: len(rec.Packs) + len(rec.IDs) + len(rec.Slots), Counts: counts,
			}
			if !yield(e, nil) {
				return
			}
		}
	}
}
