package mover

import (
	"bufio"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"github.com/hikae/hikae/pipe"
)

// Seeding takes points in for a peer whose first backups came on a shipped disk: they get the peer's names, and their
// blocks count as sent by it, so that the next backup over the line sends only what is new. Whoever seeds says by that
// that the peer may have what is in the points.
//
// It is a [pipe.Backend] around a trusted target's own. A mover of the same StateDir may run meanwhile: it takes the
// blocks over when the peer's next session begins.
type Seeding struct {
	pipe.Backend
	peer   string
	tenant *tenant // its table is not open here
	path   string  // of the table
	sum    *knownTable
}

// NewSeeding seeds for the peer with that name; stateDir is that of [ServerOptions].
func NewSeeding(stateDir, peer string, to pipe.Backend) (*Seeding, error) {
	ts, err := openTenants(stateDir)
	if err != nil {
		return nil, err
	}
	path := ts.knownPath(peer)
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, err
	}
	return &Seeding{
		Backend: to, peer: peer, path: path,
		tenant: &tenant{name: peer, key: ts.derive("ids", peer)}, sum: &knownTable{key: ts.derive("known", peer)},
	}, nil
}

// VM is the backend's name for what the peer calls vm.
func (s *Seeding) VM(vm string) (string, error) { return spaceOf(s.peer, false).inner(vm) }

// Begin starts a point whose blocks count as the peer's once it is committed.
func (s *Seeding) Begin(ctx context.Context, vm string, opts *pipe.PointOptions) (pipe.PointWriter, error) {
	w, err := s.Backend.Begin(ctx, vm, opts)
	if err != nil {
		return nil, err
	}
	f, err := os.CreateTemp(filepath.Dir(s.path), seedTemp)
	if err != nil {
		return nil, errors.Join(err, w.Close())
	}
	return &seedWriter{PointWriter: w, s: s, f: f, out: bufio.NewWriterSize(f, 64<<10)}, nil
}

// Names of files beside the tables: what is being seeded, and what a mover has to take over.
const (
	seedTemp = "seeding-*"
	seedName = ".seed-"
)

// seedWriter writes down which blocks its point has.
type seedWriter struct {
	pipe.PointWriter
	s *Seeding

	mu  sync.Mutex
	f   *os.File
	out *bufio.Writer
	err error
}

func (w *seedWriter) Disk(ctx context.Context, key string, size int64) (pipe.Target, error) {
	t, err := w.PointWriter.Disk(ctx, key, size)
	if err != nil {
		return nil, err
	}
	if blocks, ok := t.(pipe.BlockTarget); ok {
		return &seedDisk{BlockTarget: blocks, w: w, wire: map[pipe.ID]pipe.ID{}}, nil
	}
	return t, nil
}

// Usage is what the backend's writer counts, where it does.
func (w *seedWriter) Usage() pipe.Usage {
	if a, ok := w.PointWriter.(pipe.Accountant); ok {
		return a.Usage()
	}
	return pipe.Usage{}
}

// note writes a record of the table.
func (w *seedWriter) note(wire, backend pipe.ID) {
	var rec [knownRecord]byte
	copy(rec[:], wire[:])
	copy(rec[32:], backend[:])
	sum := w.s.sum.sum(rec[:])
	copy(rec[64:], sum[:])
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.err == nil {
		_, w.err = w.out.Write(rec[:])
	}
}

// Commit commits the point, and then hands its blocks to the mover. What fails then costs sending them again, and is an
// error all the same: that is what seeding was for.
func (w *seedWriter) Commit(ctx context.Context, tracking map[string]string) (string, error) {
	id, err := w.PointWriter.Commit(ctx, tracking)
	if err != nil {
		return id, err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	name := w.f.Name()
	err = errors.Join(w.err, w.out.Flush(), w.f.Sync(), w.f.Close())
	w.f = nil
	if err == nil {
		err = os.Rename(name, w.s.path+seedName+filepath.Base(name))
	}
	if err != nil {
		return id, fmt.Errorf("point %s is there, and its blocks are not known to be %s's: %w", id, w.s.peer, errors.Join(err, os.Remove(name)))
	}
	return id, nil
}

func (w *seedWriter) Close() error {
	err := w.PointWriter.Close()
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.f != nil {
		err = errors.Join(err, w.f.Close(), os.Remove(w.f.Name()))
		w.f = nil
	}
	return err
}

// seedDisk sees each block when it is named, and notes it when it is placed.
type seedDisk struct {
	pipe.BlockTarget
	w *seedWriter

	mu   sync.Mutex
	wire map[pipe.ID]pipe.ID // of blocks on their way, by the backend's id
}

func (d *seedDisk) Fingerprint(p []byte) pipe.ID {
	id, wire := d.BlockTarget.Fingerprint(p), d.w.s.tenant.fingerprint(p)
	d.mu.Lock()
	defer d.mu.Unlock()
	d.wire[id] = wire
	return id
}

func (d *seedDisk) PutBlock(ctx context.Context, off int64, id pipe.ID, plain int, codec pipe.Codec, data []byte) (pipe.PutResult, error) {
	res, err := d.BlockTarget.PutBlock(ctx, off, id, plain, codec, data)
	if err == nil {
		d.placed(id)
	}
	return res, err
}

// Assemble hands on where the backend can: see pipe.Assembler.
func (d *seedDisk) Assemble(ctx context.Context, off int64, id pipe.ID, block []byte) (pipe.PutResult, bool, error) {
	a, ok := d.BlockTarget.(pipe.Assembler)
	if !ok {
		return pipe.PutResult{}, false, nil
	}
	res, ok, err := a.Assemble(ctx, off, id, block)
	if err == nil && ok {
		d.placed(id)
	}
	return res, ok, err
}

func (d *seedDisk) placed(id pipe.ID) {
	d.mu.Lock()
	wire, ok := d.wire[id]
	delete(d.wire, id)
	d.mu.Unlock()
	if ok {
		d.w.note(wire, id)
	}
}

// knownPath is where a peer's table is: a peer's name need not be one for a file.
func (ts *tenants) knownPath(name string) string {
	sum := sha256.Sum256([]byte(name))
	return filepath.Join(ts.dir, "known", hex.EncodeToString(sum[:16]))
}

// absorb takes over what was seeded for a tenant. Records that are not sound are left out, as in the table itself.
func (t *tenant) absorb(path string) error {
	list, err := os.ReadDir(filepath.Dir(path))
	if err != nil {
		return err
	}
	for _, e := range list {
		if !strings.HasPrefix(e.Name(), filepath.Base(path)+seedName) {
			continue
		}
		if err := t.absorbFile(filepath.Join(filepath.Dir(path), e.Name())); err != nil {
			return fmt.Errorf("seeded blocks of %s: %w", t.name, err)
		}
	}
	return nil
}

func (t *tenant) absorbFile(name string) error {
	f, err := os.Open(name)
	if err != nil {
		return err
	}
	defer f.Close()
	var rec [knownRecord]byte
	for in := bufio.NewReaderSize(f, 64<<10); ; {
		_, err := io.ReadFull(in, rec[:])
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			break
		}
		if err != nil {
			return err
		}
		if !t.known.sound(rec[:]) {
			continue
		}
		if err := t.known.add(pipe.ID(rec[:32]), pipe.ID(rec[32:64])); err != nil {
			return err
		}
	}
	if err := t.known.sync(); err != nil {
		return err
	}
	return os.Remove(name)
}
