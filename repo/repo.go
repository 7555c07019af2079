package repo

import (
	"cmp"
	"context"
	"crypto/ecdh"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"
	"weak"

	"github.com/hikae/hikae/pipe"
	"github.com/hikae/hikae/repo/internal/object"
	"github.com/hikae/hikae/repo/store"
)

// Short names for the kinds of objects that have names of their own.
const (
	kindHeader     = object.KindHeader
	kindSlot       = object.KindSlot
	kindData       = object.KindData
	kindMeta       = object.KindMeta
	kindManifest   = object.KindManifest
	kindLog        = object.KindLog
	kindIndex      = object.KindIndex
	kindBeat       = object.KindBeat
	kindCheckpoint = object.KindCheckpoint
)

// InitOptions are what a repository is created with; they cannot be changed later.
type InitOptions struct {
	BlockSize      int              // bytes, a power of two from 64 KiB to 4 MiB; zero: 256 KiB
	ParityPermille int              // zero: 30, that is 3 %; at most 500
	Compression    pipe.Compression // the default of its writers; empty: pipe.Default
	NoEncryption   bool             // then Init's secret must be nil
	CopyFrom       *Repository      // share its block size and id key, so that blocks match by id between the two
}

// OpenOptions change how a repository is used. Nil and zero fields are good defaults.
type OpenOptions struct {
	// StateDir holds this client's high-water mark and signing key, a folder for each repository. Empty: freshness is
	// unproven, and each writer enrols a new key.
	StateDir string
	// Place is what the store is called from one run to the next: a path, a URL. With a StateDir the client remembers
	// which repository it has met there; another one in its place is read with a warning, and writing to it is refused
	// with *ErrReplaced. Empty: nothing is remembered.
	Place string
	// Replaced: a person has said that the repository at Place may be another one from here on.
	Replaced bool
	// CacheDir is where the index keeps its scratch file, and from one run to the next, in a folder for each repository, what
	// it has found in an encrypted one: 70 to 80 bytes a block. Empty: nothing is kept, and the scratch file is in the
	// system's folder for temporary files.
	CacheDir string
	// LockFor has the store keep whatever a new point needs, also what older points brought, for this long from its commit,
	// by the store's clock: nobody can remove it before, this client neither. A point that could not be locked is no
	// success: errors.ErrUnsupported from Begin where the store keeps no locks, *ErrNotLocked from Commit. Zero: no locks.
	LockFor time.Duration
	// ReadOnly never writes: readers go on unpinned.
	ReadOnly bool
	// Warn is told about things that a person should know. Nil: they are dropped.
	Warn func(string)
}

// Params are a repository's fixed parameters.
type Params struct {
	BlockSize      int              `json:"blockSize"`
	ParityPermille int              `json:"parityPermille"`
	Compression    pipe.Compression `json:"compression"`
	Encrypted      bool             `json:"encrypted"`
	Created        time.Time        `json:"created"`
}

// headerDocument is what the header says, in the clear.
type headerDocument struct {
	Format         int              `json:"format"` // 1
	ID             id16             `json:"id"`
	Created        time.Time        `json:"created"`
	Suite          uint8            `json:"suite"`
	BlockSize      int              `json:"blockSize"`
	PackSize       int              `json:"packSize"` // bytes of stream at which a pack is sealed
	ParityPermille int              `json:"parityPermille"`
	Compression    pipe.Compression `json:"compression"`
	Root           publicKey        `json:"root"`      // signs key records
	Recipient      publicKey        `json:"recipient"` // X25519: what a client without a slot seals for
	ReadFeatures   []string         `json:"readFeatures"`
	WriteFeatures  []string         `json:"writeFeatures"`
}

const (
	minBlockSize = 64 << 10
	maxBlockSize = 4 << 20
	packSize     = 16 << 20
)

// Repository is an open repository. It is safe for concurrent use.
type Repository struct {
	st         store.Store
	header     headerDocument
	headerHash hash
	keys       *keyring
	slot       id16          // that was opened
	revoked    map[id16]bool // slots that are not to be opened
	every      uint64        // records between two checkpoints; 0: as the format has it
	vital      vitals
	log        *ledger
	opts       OpenOptions
	shared     bool // the store can be shared by writers

	sealClear objectMaker

	client *client
	writer *writeOnly // nil for who opened a slot

	indexMu     sync.Mutex
	indexes     map[scope]*loadedIndex // those that were needed
	retired     []weak.Pointer[index]  // those that the log has overtaken, while anybody uses them
	indexClosed bool

	ciphers cipherCache
	lost    lostPacks
	locks   lockMemory
	pruning atomic.Bool // by this process

	anchorMu sync.Mutex
	anchors  *anchorTable // nil until somebody writes
	buffers  sync.Pool

	pinMu  sync.Mutex
	pins   map[string]*pin
	closed bool // no pin is taken any more
	ownMu  sync.Mutex
	own    map[uint64]bool // leases of this process that are not over

	renewMu sync.Mutex
	renewed time.Time // when a reader last looked for what was copied away from under it

	tidying sync.Mutex // one session at a time ends those of dead sessions
	leaseMu sync.Mutex // of writers' leases on a store that cannot be shared
}

var _ pipe.Backend = (*Repository)(nil)

// Init creates a repository in an empty store and opens it. Errors: ErrExists.
func Init(ctx context.Context, st store.Store, secret Secret, opts *InitOptions, open *OpenOptions) (*Repository, error) {
	h, slot, err := newRepository(secret, opts)
	if err != nil {
		return nil, err
	}
	if err := create(ctx, st, secret, h, slot); err != nil {
		return nil, err
	}
	var o OpenOptions
	if open != nil {
		o = *open
	}
	o.Replaced = true // who makes a repository here knows that it is another one
	r, err := Open(ctx, st, secret, &o)
	if err == nil {
		r.reserve(ctx)
	}
	return r, err
}

// create makes the repository that h and slot describe.
func create(ctx context.Context, st store.Store, secret Secret, h headerDocument, slot slotDocument) error {
	if err := mustBeEmpty(ctx, st); err != nil {
		return err
	}
	doc, err := encodeJSON(h)
	if err != nil {
		return err
	}
	slot.Header = hashBytes(doc)
	keys, err := newKeyring(h.ID, h.Suite, h.ParityPermille, slot)
	if err != nil {
		return err
	}
	wraps := keys.wraps
	if secret != nil {
		w, err := secret.wrapper()
		if err != nil {
			return err
		}
		wraps = []object.Wrapper{w}
	}
	slotDoc, err := encodeJSON(slot)
	if err != nil {
		return err
	}
	v := vitals{st, func(string) {}}
	slotID, slotFile, err := keys.maker(h.Suite, wraps)(kindSlot, slotDoc)
	if err != nil {
		return err
	}
	if err := v.create(ctx, slotName(slotID), slotFile); err != nil {
		return fmt.Errorf("init: %w", err)
	}
	// The header comes last: its exclusive creation is what makes the repository, and decides between two inits.
	_, file, err := keys.clear()(kindHeader, doc)
	if err != nil {
		return err
	}
	if err := v.create(ctx, headerName, file); err != nil {
		if errors.Is(err, fs.ErrExist) {
			return ErrExists
		}
		return fmt.Errorf("init: %w", err)
	}
	return nil
}

func newRepository(secret Secret, opts *InitOptions) (headerDocument, slotDocument, error) {
	var o InitOptions
	if opts != nil {
		o = *opts
	}
	slot := slotDocument{Masters: []secret32{newSecret()}, IDKey: newSecret(), RootSeed: newSecret(), Identity: newSecret()}
	if o.CopyFrom != nil {
		if o.BlockSize != 0 && o.BlockSize != o.CopyFrom.header.BlockSize {
			return headerDocument{}, slotDocument{}, fmt.Errorf("block size %d is not that of the repository whose parameters are copied, %d", o.BlockSize, o.CopyFrom.header.BlockSize)
		}
		o.BlockSize, slot.IDKey = o.CopyFrom.header.BlockSize, o.CopyFrom.keys.slot.IDKey
	}
	compression, err := pipe.ParseCompression(string(o.Compression))
	if err != nil {
		return headerDocument{}, slotDocument{}, err
	}
	h := headerDocument{
		Format: 1, Created: time.Now().UTC().Truncate(time.Second), Suite: object.SuiteAES,
		BlockSize: or(o.BlockSize, 256<<10), PackSize: packSize, ParityPermille: or(o.ParityPermille, 30),
		Compression: compression, ReadFeatures: []string{}, WriteFeatures: []string{},
	}
	_, _ = rand.Read(h.ID[:])
	h.Root = publicOf(keyFromSeed(slot.RootSeed[:]))
	identity, err := ecdh.X25519().NewPrivateKey(slot.Identity[:])
	if err != nil {
		return headerDocument{}, slotDocument{}, err
	}
	copy(h.Recipient[:], identity.PublicKey().Bytes())
	switch {
	case o.NoEncryption && secret != nil:
		err = errors.New("a repository without encryption takes no secret")
	case !o.NoEncryption && secret == nil:
		err = fmt.Errorf("%w: none was given", ErrSecret)
	case o.NoEncryption:
		h.Suite = object.SuiteClear
	}
	if err == nil {
		err = h.check()
	}
	return h, slot, err
}

func or(v, otherwise int) int {
	if v == 0 {
		return otherwise
	}
	return v
}

// check refuses what this version cannot read.
func (h *headerDocument) check() error {
	switch {
	case h.Format != 1:
		return &ErrUnsupported{What: fmt.Sprintf("format %d", h.Format)}
	case len(h.ReadFeatures) > 0:
		return &ErrUnsupported{What: "the feature " + h.ReadFeatures[0]}
	case h.Suite > object.SuiteAES:
		return &ErrUnsupported{What: fmt.Sprintf("suite %d", h.Suite)}
	case h.BlockSize < minBlockSize || h.BlockSize > maxBlockSize || h.BlockSize&(h.BlockSize-1) != 0:
		return fmt.Errorf("block size %d is no power of two from 64 KiB to 4 MiB", h.BlockSize)
	case h.ParityPermille < 1 || h.ParityPermille > 500:
		return fmt.Errorf("parity of %d permille is not between 1 and 500", h.ParityPermille)
	case h.PackSize < h.BlockSize || h.PackSize > 32<<20:
		return fmt.Errorf("pack size %d is out of bounds", h.PackSize)
	}
	return nil
}

// mustBeEmpty lets pass only what an Init that died may have left: slots, which belong to no header and open nothing.
func mustBeEmpty(ctx context.Context, st store.Store) error {
	for info, err := range st.List(ctx, "") {
		if err != nil {
			return err
		}
		name := strings.TrimPrefix(strings.TrimPrefix(info.Name, "copy1/"), "copy2/")
		if !strings.HasPrefix(name, "slot/") {
			return ErrExists
		}
	}
	return nil
}

// Open opens a repository. secret is nil for one without encryption. Errors: ErrNotRepository, ErrSecret, ErrRevokedSlot,
// *ErrUnsupported, *ErrCorrupt. A store that shows an older state than this client has seen is opened, with a
// warning; writing to it is then refused with *ErrRollback. So is, with *ErrReplaced, writing to another repository
// than this client has met at the same place.
func Open(ctx context.Context, st store.Store, secret Secret, opts *OpenOptions) (*Repository, error) {
	revoked := map[id16]bool{}
	for {
		r := newClosed(st, opts)
		r.revoked = revoked
		if err := r.unlock(ctx, secret); err != nil {
			if errors.Is(err, ErrSecret) && len(revoked) > 0 {
				return nil, ErrRevokedSlot
			}
			return nil, err
		}
		open, err := r.start(ctx)
		if !errors.Is(err, ErrRevokedSlot) || len(revoked) >= maxRevoked {
			return open, err
		}
		revoked[r.slot] = true // the same secret may open one that counts
	}
}

// maxRevoked bounds how many slots one secret opens that do not count.
const maxRevoked = 8

// newClosed is a repository of which nothing was read yet.
func newClosed(st store.Store, opts *OpenOptions) *Repository {
	r := &Repository{st: st, indexes: map[scope]*loadedIndex{}, pins: map[string]*pin{}, own: map[uint64]bool{}}
	if opts != nil {
		r.opts = *opts
	}
	if r.opts.Warn == nil {
		r.opts.Warn = func(string) {}
	}
	r.vital = vitals{st, r.opts.Warn}
	return r
}

// start reads the log and finds out what the store can do, once the keys are there.
func (r *Repository) start(ctx context.Context) (*Repository, error) {
	r.sealClear = r.keys.clear()
	r.log = newLedger(r.vital, r.header.ID, r.header.Root, r.headerHash, r.sealClear)
	r.log.mend, r.log.every = !r.opts.ReadOnly, cmp.Or(r.every, checkpointEvery)
	r.log.room, r.log.spare = r.makeRoom, r.reserve
	var err error
	r.client, err = openClient(r.opts.StateDir, r.ID(), r.opts.Warn)
	if err != nil {
		return nil, err
	}
	if err := r.client.meet(&r.opts, met{r.header.ID, r.headerHash}); err != nil {
		return nil, err
	}
	if err := r.client.refresh(ctx, r.log); err != nil {
		return nil, err
	}
	if r.writer == nil && !r.inForce(r.slot) {
		return nil, ErrRevokedSlot
	}
	if err := r.log.damage(); err != nil {
		r.warn(fmt.Sprintf("what came after it cannot be seen, and nothing can be written: %v", err))
	}
	if r.client.suspect != nil {
		r.warn(r.client.suspect.Error())
	}
	if p, ok := store.As[store.Prober](r.st); ok && !r.opts.ReadOnly {
		can, err := r.probe(ctx, p)
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		if isFull(err) {
			r.warn(fmt.Sprintf("the store is full, and what it can do is not known; until then it is taken to be for one writer: %v", err))
		} else if err != nil { // a store that can be read only
			r.warn(fmt.Sprintf("the store cannot be written to: %v", err))
			r.opts.ReadOnly = true
		}
		r.shared = can.Shared()
	}
	return r, nil
}

// unlock reads the header and opens a slot with the secret. The slot says which header is the right one: where the
// three places hold different ones, each is tried.
func (r *Repository) unlock(ctx context.Context, secret Secret) error {
	tried := map[hash]bool{}
	var first error
	work := int64(maxStretch)
	for range maxHeaders {
		err := r.readHeader(ctx, tried)
		if err != nil && first != nil {
			return first
		}
		if err != nil {
			return err
		}
		if err = r.openSlot(ctx, secret, &work); err == nil || ctx.Err() != nil {
			return err
		}
		if first == nil {
			first = err
		}
		tried[r.headerHash] = true
	}
	return first
}

// maxHeaders is how many headers are tried: a header stands in three places. A store that shows another one at every look
// would keep us busy for ever.
const maxHeaders = 4

var errRestless = fmt.Errorf("the store shows another header at every look: %w", ErrSecret)

const (
	// maxSlots bounds how many slots are tried with one secret.
	maxSlots = 256
	// maxStretch bounds what all passphrase slots together may cost who opens them, in KiB times passes of argon2id:
	// as much as 341 slots of the usual cost, which is more than maxSlots, or one of the highest that the format allows.
	maxStretch = object.MaxStretch
)

// readHeader reads a header that was not tried yet.
func (r *Repository) readHeader(ctx context.Context, tried map[hash]bool) error {
	v, err := r.vital.read(ctx, headerName, kindHeader, [16]byte{}, []object.Unwrapper{object.Clear{}}, func(v *vital) error {
		h := new(headerDocument)
		if err := decodeJSON(v.content, h); err != nil {
			return fmt.Errorf("not a header: %w", err)
		}
		if h.ID != id16(v.object.Header.Repo) {
			return errors.New("it belongs to another repository")
		}
		if tried[hashBytes(v.content)] {
			return errors.New("the slots are of another one")
		}
		r.header = *h
		return nil
	})
	if errors.Is(err, fs.ErrNotExist) {
		return r.headless(ctx)
	}
	if err != nil {
		return err
	}
	r.headerHash = hashBytes(v.content)
	return r.header.check()
}

// headless is ErrNotRepository, or *ErrCorrupt where records show that there was one: the header is the first thing that is made.
func (r *Repository) headless(ctx context.Context) error {
	for _, prefix := range copiesOf("log/") {
		for info, err := range r.st.List(ctx, prefix) {
			if err != nil {
				return err
			}
			if _, ok := parseNumber(strings.TrimPrefix(info.Name, prefix)); ok {
				return &ErrCorrupt{Object: headerName, Reason: "it is missing in all three places, and records of a repository are there"}
			}
		}
	}
	return ErrNotRepository
}

// openSlot tries every slot, in all three places, until one opens.
func (r *Repository) openSlot(ctx context.Context, secret Secret, work *int64) error {
	un := []object.Unwrapper{object.Clear{}}
	if r.header.Suite != object.SuiteClear {
		if secret == nil {
			return fmt.Errorf("%w: none was given", ErrSecret)
		}
		u, err := secret.unwrapper()
		if err != nil {
			return err
		}
		if _, ok := secret.(passphrase); ok {
			u = &frugal{u, work}
		}
		un = []object.Unwrapper{u}
	}
	names, err := r.slots(ctx)
	if err != nil {
		return err
	}
	damage := error(nil)
	if len(names) == 0 && r.header.Suite != object.SuiteClear {
		return &ErrCorrupt{Object: "slot", Reason: "there is none in any of its three places: the keys are lost with them"}
	}
	if len(names) > maxSlots {
		damage = fmt.Errorf("%w: of %d slots, %d were tried", ErrSecret, len(names), maxSlots)
		names = names[:maxSlots]
	}
	for _, name := range names {
		if id, ok := slotID(name); ok && r.revoked[id] {
			continue
		}
		var slot slotDocument
		_, err := r.vital.read(ctx, name, kindSlot, r.header.ID, un, func(v *vital) error {
			slot = slotDocument{}
			if err := decodeJSON(v.content, &slot); err != nil {
				return err
			}
			if slot.Header != r.headerHash {
				return errors.New("it was made for another header")
			}
			return nil
		})
		if errors.Is(err, object.ErrNoKey) {
			continue
		}
		if err != nil {
			damage = errors.Join(damage, err)
			continue
		}
		r.slot, _ = slotID(name)
		r.keys, err = newKeyring(r.header.ID, r.header.Suite, r.header.ParityPermille, slot)
		return err
	}
	if damage != nil {
		return damage
	}
	return ErrSecret
}

func (r *Repository) slots(ctx context.Context) ([]string, error) {
	var names []string
	for _, prefix := range copiesOf("slot/") {
		for info, err := range r.st.List(ctx, prefix) {
			if err != nil {
				return nil, err
			}
			names = append(names, "slot/"+strings.TrimPrefix(info.Name, prefix))
		}
	}
	slices.Sort(names)
	return slices.Compact(names), nil
}

// ID is the repository's id, 32 hexadecimal digits.
func (r *Repository) ID() string { return hex.EncodeToString(r.header.ID[:]) }

// Params are the repository's fixed parameters.
func (r *Repository) Params() Params {
	h := &r.header
	return Params{h.BlockSize, h.ParityPermille, h.Compression, h.Suite != object.SuiteClear, h.Created}
}

// Close ends what the repository holds open. Points that are being written are abandoned by their own Close.
func (r *Repository) Close() error {
	err := r.unpinAll()
	r.dropAnchors()
	r.indexMu.Lock()
	defer r.indexMu.Unlock()
	for _, l := range r.indexes {
		err = errors.Join(err, l.idx.close())
	}
	for _, w := range r.retired {
		if x := w.Value(); x != nil {
			err = errors.Join(err, x.close())
		}
	}
	r.indexes, r.retired, r.indexClosed = nil, nil, true
	return err
}

func (r *Repository) warn(s string) { r.opts.Warn(s) }

// Writable says why the repository could not be written to when it was last looked at; nil where it could. Errors: ErrReadOnly,
// *ErrCorrupt, *ErrRollback, *ErrReplaced, *ErrUnsupported.
func (r *Repository) Writable() error {
	switch {
	case r.opts.ReadOnly:
		return ErrReadOnly
	case r.log.damage() != nil:
		return r.log.damage()
	case r.client.suspect != nil:
		return r.client.suspect
	case len(r.header.WriteFeatures) > 0:
		return &ErrUnsupported{What: "the feature " + r.header.WriteFeatures[0]}
	}
	return nil
}

// writable says why the repository cannot be written to. A log that was found damaged is looked at again: somebody may have mended it.
func (r *Repository) writable(ctx context.Context) error {
	if !r.opts.ReadOnly && r.log.damage() != nil {
		if err := r.log.refresh(ctx); err != nil {
			return err
		}
	}
	return r.Writable()
}

// signingKey returns this client's key, and enrols it first where the log does not know it.
func (r *Repository) signingKey(ctx context.Context) (ed25519.PrivateKey, error) {
	if err := r.writable(ctx); err != nil {
		return nil, err
	}
	if r.writer != nil {
		return r.asWriter(ctx)
	}
	return r.client.enrolled(ctx, r.log, r.keys.root)
}
