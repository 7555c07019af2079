package mover

import (
	"bufio"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"time"

	"github.com/hikae/hikae/pipe"
	"github.com/hikae/hikae/pipe/mover/trust"
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
	if err := makeFor(filepath.Dir(path)); err != nil {
		return nil, err
	}
	sweepSeeds(filepath.Dir(path), time.Now())
	return &Seeding{
		Backend: to, peer: peer, path: path,
		tenant: &tenant{name: peer, key: ts.derive("ids", peer)}, sum: &knownTable{key: ts.derive("known", peer)},
	}, nil
}

// VM is the backend's name for what the peer calls vm.
func (s *Seeding) VM(vm string) (string, error) { return spaceOf(s.peer, false).inner(vm) }

// SeedFact is the fact by which a seeded point is known. No append peer may set it.
const SeedFact = "hikae.seeded-from"

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

// Commit hands the blocks to the mover, and then commits the point: in the other order a kill in between would leave a
// point whose blocks nobody hands over any more. A block that is handed over and not there is only sent again, because
// the backend is asked about each.
func (w *seedWriter) Commit(ctx context.Context, tracking map[string]string) (string, error) {
	handed, err := w.handOver()
	if err != nil {
		return "", fmt.Errorf("note the blocks of %s: %w", w.s.peer, err)
	}
	id, err := w.PointWriter.Commit(ctx, tracking)
	if err != nil {
		_ = os.Remove(handed) // a mover may have been faster
	}
	return id, err
}

// handOver makes the file of blocks durable under the name by which a mover finds it.
func (w *seedWriter) handOver() (name string, err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.f == nil {
		return "", fs.ErrClosed
	}
	temp, dir := w.f.Name(), filepath.Dir(w.s.path)
	err = errors.Join(w.err, w.out.Flush(), trust.GiveTo(w.f, dir), w.f.Sync(), w.f.Close())
	w.f = nil
	name = w.s.path + seedName + filepath.Base(temp)
	if err == nil {
		err = os.Rename(temp, name)
	}
	if err != nil {
		return "", errors.Join(err, os.Remove(temp))
	}
	return name, syncDir(dir)
}

// syncDir makes the names in a folder durable, where the system has a call for that.
func syncDir(dir string) error {
	if runtime.GOOS == "windows" {
		return nil
	}
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
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

// makeFor makes a folder that belongs to whom the one above it belongs to: root seeds for a mover that is not root.
func makeFor(dir string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(trust.GiveTo(f, filepath.Dir(dir)), f.Close())
}

// sweepSeeds removes what was begun and never handed over. Seeding takes hours, not a month.
func sweepSeeds(dir string, now time.Time) {
	left, err := filepath.Glob(filepath.Join(dir, seedTemp))
	if err != nil {
		return // a folder's name is a pattern: what is left stays
	}
	for _, name := range left {
		if fi, err := os.Stat(name); err == nil && now.Sub(fi.ModTime()) > 30*24*time.Hour {
			_ = os.Remove(name)
		}
	}
}

// absorb takes over what was seeded for a tenant. Records that are not sound are left out, as in the table itself. What
// cannot be taken over now stays for the next session: it costs sending blocks again, and nothing else.
func (t *tenant) absorb(path string) error {
	t.absorbing.Lock() // its other sessions wait: they would send what they need not
	defer t.absorbing.Unlock()
	list, err := os.ReadDir(filepath.Dir(path))
	if err != nil {
		return err
	}
	var all error
	for _, e := range list {
		if strings.HasPrefix(e.Name(), filepath.Base(path)+seedName) {
			all = errors.Join(all, t.absorbFile(filepath.Join(filepath.Dir(path), e.Name())))
		}
	}
	return all
}

// absorbRecords is how many records are taken over at once: 576 KiB.
const absorbRecords = 8 << 10

func (t *tenant) absorbFile(name string) error {
	f, err := os.Open(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil // another mover has it
	}
	if err != nil {
		return err
	}
	defer f.Close()
	for buf := make([]byte, absorbRecords*knownRecord); ; {
		n, err := io.ReadFull(f, buf)
		if err := t.known.addAll(buf[:n-n%knownRecord]); err != nil {
			return err
		}
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			break
		}
		if err != nil {
			return err
		}
	}
	if err := t.known.sync(); err != nil {
		return err
	}
	if err := os.Remove(name); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}
