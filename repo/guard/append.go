package guard

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"iter"
	"strings"

	"github.com/hikae/hikae/repo"
	"github.com/hikae/hikae/repo/store"
)

// appendView is the store of a peer that may only add.
type appendView struct{ view }

var (
	_ store.Prober = (*appendView)(nil)
	_ store.Spacer = (*appendView)(nil)
	_ Asker        = (*appendView)(nil)
)

// maxCompared bounds what is read to compare a copy with its first place: log records and manifests are smaller.
const maxCompared = 16 << 20

// Create stores what the peer may add.
func (v *appendView) Create(ctx context.Context, name string, data []byte) error {
	err := v.open(ctx, store.ValidName(name))
	if err == nil {
		err = v.add(ctx, name, data)
	}
	return v.g.refused("create", v.peer, name, err)
}

func (v *appendView) add(ctx context.Context, name string, data []byte) error {
	p, err := v.g.repository(ctx)
	if err != nil {
		return err
	}
	if first, ok := copyOf(name); ok {
		return v.addCopy(ctx, name, first, data)
	}
	if n, ok := repo.RecordOf(name); ok {
		return v.addRecord(ctx, p, n, name, data)
	}
	lease, err := p.CheckObject(name, data)
	if err != nil {
		return err
	}
	if err := v.ownLease(ctx, p, lease, true); err != nil {
		return err
	}
	err = v.create(ctx, name, data)
	if err == nil && strings.HasPrefix(name, "beat/") {
		v.g.beat.saw(lease)
	}
	return err
}

// MayCreate says what Create would refuse for its name alone, before anybody has brought the object's bytes. It looks at
// nothing that is there: only Create settles what it says exists.
func (v *appendView) MayCreate(ctx context.Context, name string, size int64) error {
	err := v.open(ctx, store.ValidName(name))
	if err == nil {
		err = v.mayAdd(ctx, name, size)
	}
	return v.g.refused("create", v.peer, name, err)
}

func (v *appendView) mayAdd(ctx context.Context, name string, size int64) error {
	p, err := v.g.repository(ctx)
	if err != nil {
		return err
	}
	first, copied := copyOf(name)
	switch {
	case copied && !isVital(first):
		return denied("there are no copies of %s", first)
	case copied && size > maxCompared:
		return denied("a copy of %d bytes", size)
	case copied:
		return nil
	}
	if n, ok := repo.RecordOf(name); ok {
		return mayAppend(ctx, p, n, size)
	}
	lease, ok := repo.LeaseOf(name)
	if !ok {
		return denied("a write-only client creates nothing of that name")
	}
	return v.ownLease(ctx, p, lease, true)
}

func mayAppend(ctx context.Context, p *repo.Public, n uint64, size int64) error {
	if size > maxCompared {
		return denied("a record of %d bytes", size)
	}
	if err := p.Refresh(ctx); err != nil {
		return err
	}
	if next := p.Head() + 1; n > next {
		return denied("record %d where %d is the next", n, next)
	}
	return nil
}

// copyOf is the first place of what may stand in three.
func copyOf(name string) (first string, ok bool) {
	for _, prefix := range []string{"copy1/", "copy2/"} {
		if first, ok := strings.CutPrefix(name, prefix); ok {
			return first, true
		}
	}
	return "", false
}

// addCopy stores a copy of a log record or a manifest that is there, byte for byte.
func (v *appendView) addCopy(ctx context.Context, name, first string, data []byte) error {
	if !isVital(first) {
		return denied("there are no copies of %s", first)
	}
	if len(data) > maxCompared {
		return denied("a copy of %d bytes", len(data))
	}
	if err := v.mustBe(ctx, first, data); err != nil {
		return err
	}
	return v.create(ctx, name, data)
}

func isVital(name string) bool {
	if _, ok := repo.RecordOf(name); ok {
		return true
	}
	_, ok := repo.LeaseOf(name)
	return ok && strings.HasPrefix(name, "manifest/")
}

// mustBe holds data against what stands in a place.
func (v *appendView) mustBe(ctx context.Context, place string, data []byte) error {
	there, err := store.ReadAll(ctx, v.g.st, place, maxCompared)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return denied("%s is not there, and only what is can have copies", place)
	case err != nil:
		return err
	case !bytes.Equal(there, data):
		return denied("it is not what %s is", place)
	}
	return nil
}

// addRecord appends to the log, or puts a lost first place back from a copy.
func (v *appendView) addRecord(ctx context.Context, p *repo.Public, n uint64, name string, data []byte) error {
	if err := v.absent(ctx, name); err != nil {
		return err
	}
	key, err := p.CheckRecord(ctx, n, data, v.g.beat.live)
	if errors.Is(err, fs.ErrExist) { // the log has it, from its copies
		return v.putBack(ctx, name, data)
	}
	if err != nil {
		return err
	}
	if err := v.g.keys.bind(key, v.peer); err != nil {
		return err
	}
	if err := v.g.pace.take(key); err != nil {
		return err
	}
	err = v.create(ctx, name, data)
	if err == nil {
		v.g.beat.saw(n) // a lease's number is its record's
	}
	return err
}

// absent is fs.ErrExist where something is there already, before anything else is said about it.
func (v *appendView) absent(ctx context.Context, name string) error {
	switch _, err := v.g.st.Stat(ctx, name); {
	case err == nil:
		return v.exists(ctx, name)
	case errors.Is(err, fs.ErrNotExist):
		return nil
	default:
		return err
	}
}

func (v *appendView) exists(ctx context.Context, name string) error {
	if s, ok := store.As[store.Settler](v.g.st); ok {
		if err := s.Settle(ctx, name[:strings.LastIndexByte(name, '/')+1]); err != nil {
			return err
		}
	}
	return fs.ErrExist
}

func (v *appendView) putBack(ctx context.Context, name string, data []byte) error {
	var refusal error
	for _, prefix := range []string{"copy1/", "copy2/"} {
		err := v.mustBe(ctx, prefix+name, data)
		if err == nil {
			return v.create(ctx, name, data)
		}
		if !errors.Is(err, fs.ErrPermission) {
			return err
		}
		refusal = err
	}
	return refusal
}

// ownLease lets pass what belongs to a lease of this peer.
func (v *appendView) ownLease(ctx context.Context, p *repo.Public, lease uint64, open bool) error {
	if err := p.Refresh(ctx); err != nil {
		return err
	}
	l, ok := p.Lease(lease)
	switch {
	case !ok, !l.Append, v.g.keys.owner(l.Key) != v.peer:
		return denied("lease %d is not this peer's", lease)
	case open && l.Over:
		return denied("lease %d is over", lease)
	}
	return nil
}

// readable lets pass the names that the peer may read: what is public, and its own heartbeats.
func (v *appendView) readable(ctx context.Context, name string) error {
	if first, ok := copyOf(name); ok {
		name = first
	}
	dir, _, _ := strings.Cut(name, "/")
	switch dir {
	case "header", "log", "checkpoint":
		return nil
	case "beat":
		return v.ownBeat(ctx, name)
	}
	return denied("a peer that only appends does not see it")
}

func (v *appendView) ownBeat(ctx context.Context, name string) error {
	lease, ok := repo.LeaseOf(name)
	if !ok || !strings.HasPrefix(name, "beat/") {
		return denied("no heartbeat")
	}
	p, err := v.g.repository(ctx)
	if err != nil {
		return err
	}
	return v.ownLease(ctx, p, lease, false)
}

// ReadAt reads what the peer may see.
func (v *appendView) ReadAt(ctx context.Context, name string, p []byte, off int64) (int, error) {
	err := v.open(ctx, store.ValidName(name))
	if err == nil {
		err = v.readable(ctx, name)
	}
	if err != nil {
		return 0, v.g.refused("read", v.peer, name, err)
	}
	return v.g.st.ReadAt(ctx, name, p, off)
}

// Stat looks at what the peer may see.
func (v *appendView) Stat(ctx context.Context, name string) (store.Info, error) {
	err := v.open(ctx, store.ValidName(name))
	if err == nil {
		err = v.readable(ctx, name)
	}
	if err != nil {
		return store.Info{}, v.g.refused("stat", v.peer, name, err)
	}
	return v.g.st.Stat(ctx, name)
}

// List lists what the peer may see: the log, the checkpoints, and the heartbeats of a lease of its own.
func (v *appendView) List(ctx context.Context, prefix string) iter.Seq2[store.Info, error] {
	err := v.open(ctx, store.ValidPrefix(prefix))
	if err == nil {
		err = v.listable(ctx, prefix)
	}
	if err != nil {
		return failing(v.g.refused("list", v.peer, prefix, err))
	}
	return v.g.st.List(ctx, prefix)
}

func (v *appendView) listable(ctx context.Context, prefix string) error {
	bare := prefix
	if first, ok := copyOf(prefix); ok {
		bare = first
	}
	switch {
	case bare == "log/" || bare == "checkpoint/":
		return nil
	case strings.HasPrefix(prefix, "beat/") && prefix != "beat/":
		return v.ownBeat(ctx, prefix+"0000000000000000")
	}
	return denied("a peer that only appends does not see it")
}

// Remove removes a heartbeat of the peer's own.
func (v *appendView) Remove(ctx context.Context, name string) error {
	err := v.open(ctx, store.ValidName(name))
	if err == nil && !strings.HasPrefix(name, "beat/") {
		err = denied("a peer that only appends removes nothing")
	}
	if err == nil {
		err = v.ownBeat(ctx, name)
	}
	if err == nil {
		err = v.g.st.Remove(ctx, name)
	}
	return v.g.refused("remove", v.peer, name, err)
}
