package repo

import (
	"context"
	"encoding/hex"
	"fmt"
	"io/fs"

	"github.com/zeebo/blake3"

	"github.com/hikae/hikae/pipe"
	"github.com/hikae/hikae/repo/internal/object"
)

// scope says whose ids content has: the zero scope is that of all who open a slot; every write-only client has one of
// its own, named by its key. Content of two scopes is never compared, found or referred to across: a write-only client
// must not find out what others have, and nothing that it says of its content may be taken for theirs.
//
// The scope of a pack is that of the key that began its lease, as the log had it then.
type scope publicKey

// contentKeys make the ids of one scope.
type contentKeys struct{ block, page, chunk *blake3.Hasher } // keyed; cloned for use

func newContentKeys(idKey [32]byte) *contentKeys {
	return &contentKeys{
		block: keyedHasher(idKey),
		page:  keyedHasher(derive(idKey, "hikae/1/id/page")),
		chunk: keyedHasher(derive(idKey, "hikae/1/id/blob")),
	}
}

// id is the identity of content of one of the types that are found by id.
func (k *contentKeys) id(typ uint8, content []byte) (id pipe.ID) {
	h := k.block
	switch typ {
	case object.TypePage:
		h = k.page
	case object.TypeChunk:
		h = k.chunk
	}
	h = h.Clone()
	_, _ = h.Write(content)
	_, _ = h.Digest().Read(id[:])
	return id
}

// scopeKey is the id key of a write-only client's scope: whoever opens a slot can make it, and from it nobody finds
// the repository's.
func scopeKey(idKey [32]byte, s scope) [32]byte {
	return derive(idKey, "hikae/1/id/writer"+string(s[:]))
}

// contentsOf are the keys of a scope.
func (k *keyring) contentsOf(s scope) (*contentKeys, error) {
	switch {
	case s == k.scope:
		return k.contents, nil
	case k.vms != nil:
		return nil, fmt.Errorf("what was written with key %s… is not this client's: %w", hex.EncodeToString(s[:4]), fs.ErrPermission)
	case s == scope{}:
		return newContentKeys(k.slot.IDKey), nil
	}
	return newContentKeys(scopeKey(k.slot.IDKey, s)), nil
}

// scopeOf is the scope of what a lease wrote. It is not known before the log has the lease: whoever lists packs leaves
// those out, and the log's next record brings them in.
func (l *ledger) scopeOf(lease uint64) (s scope, known bool) {
	if lease > l.n {
		return scope{}, false
	}
	if st := l.leases[lease]; st != nil {
		return st.scope, true
	}
	return scope{}, true
}

// scopes are those of all leases of writers, the shared one first.
func (l *ledger) scopes() []scope {
	list, seen := []scope{{}}, map[scope]bool{{}: true}
	for n := uint64(1); n <= l.n; n++ {
		if s := l.leases[n]; s != nil && s.access == accessWrite && !seen[s.scope] {
			seen[s.scope] = true
			list = append(list, s.scope)
		}
	}
	return list
}

// ofScope reports whether what a lease wrote belongs to a scope.
func (r *Repository) ofScope(lease uint64, s scope) (in bool) {
	r.log.view(func(l *ledger) {
		of, known := l.scopeOf(lease)
		in = known && of == s
	})
	return in
}

// indexFor loads the index of the scope that a lease belongs to.
func (r *Repository) indexFor(ctx context.Context, lease uint64) (*index, error) {
	var s scope
	r.log.view(func(l *ledger) { s, _ = l.scopeOf(lease) })
	return r.index(ctx, s)
}
