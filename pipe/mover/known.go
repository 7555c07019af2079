package mover

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/bits"
	"os"
	"path/filepath"
	"sync"

	"encoding/binary"

	"github.com/zeebo/blake3"

	"github.com/hikae/hikae/pipe"
)

// A known table says which blocks a tenant has sent: for the id that the tenant uses on the wire, the id that the
// backend has for the same content. It is a file of records that only grows:
//
//	0   8  "HIKAEKN1", then 64 zero bytes     ┐ once, as long as a record
//	0  32  id on the wire                      ┐
//	32 32  id in the backend                   │ for each block
//	64  8  keyed BLAKE3 of the 64 bytes above  ┘
//
// It is a cache. Losing it, or a record of it, costs sending blocks again and nothing else: a record whose sum is wrong
// is skipped, and the backend is asked about every block all the same. The sum is keyed with the tenant's key, so that
// another tenant's file that is put here answers nothing.
//
// In memory a block takes a tag of 64 bits and the number of its record; the record itself is read to compare.
type knownTable struct {
	key [32]byte

	mu   sync.RWMutex
	f    *os.File
	next uint32 // number of the next record; the header is number 0, so 0 is an empty slot
	used int
	tags []uint64
	recs []uint32

	dirty bool // since the last sync
}

const (
	knownRecord = 72
	knownMagic  = "HIKAEKN1"
	knownFirst  = 1 << 10 // slots
	knownMax    = 1<<32 - 2
)

var errKnownFull = errors.New("the table of known blocks is full")

// openKnown opens a tenant's table, or begins it. What is torn at its end is cut off.
func openKnown(path string, key [32]byte) (*knownTable, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, err
	}
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	t := &knownTable{key: key, f: f, next: 1}
	t.resize(knownFirst)
	if err := t.load(); err != nil {
		return nil, errors.Join(fmt.Errorf("known blocks: %w", err), f.Close())
	}
	return t, nil
}

// load reads the whole file once.
func (t *knownTable) load() error {
	var head [knownRecord]byte
	n, err := t.f.ReadAt(head[:], 0)
	if err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	if want := knownHeader(); n < knownRecord || head != want { // new, torn at its first write, or something else: begin anew
		if err := t.f.Truncate(0); err != nil {
			return err
		}
		_, err := t.f.WriteAt(want[:], 0)
		return err
	}
	buf := make([]byte, knownRecord<<13)
	for off := int64(knownRecord); ; {
		n, err := t.f.ReadAt(buf, off)
		if err != nil && !errors.Is(err, io.EOF) {
			return err
		}
		n -= n % knownRecord
		if err := t.take(buf[:n]); err != nil {
			return err
		}
		off += int64(n)
		if n < len(buf) {
			return t.f.Truncate(off)
		}
	}
}

func knownHeader() (h [knownRecord]byte) {
	copy(h[:], knownMagic)
	return h
}

// take enters the records of a part of the file. One with a wrong sum keeps its number and is not entered.
func (t *knownTable) take(p []byte) error {
	for ; len(p) > 0; p = p[knownRecord:] {
		if t.next >= knownMax {
			return errKnownFull
		}
		if t.sound(p[:knownRecord]) {
			t.insert(binary.LittleEndian.Uint64(p), t.next)
		}
		t.next++
	}
	return nil
}

func (t *knownTable) sum(p []byte) (out [8]byte) {
	h, err := blake3.NewKeyed(t.key[:])
	if err != nil {
		panic(err) // the key has 32 bytes
	}
	_, _ = h.Write(p[:64])
	_, _ = h.Digest().Read(out[:])
	return out
}

func (t *knownTable) sound(p []byte) bool {
	sum := t.sum(p)
	return bytes.Equal(sum[:], p[64:knownRecord])
}

// lookup is the backend's id of the block with this id on the wire.
func (t *knownTable) lookup(id pipe.ID) (backend pipe.ID, ok bool) {
	t.mu.RLock()
	defer t.mu.RUnlock()
	if t.f == nil {
		return pipe.ID{}, false
	}
	backend, _, ok = t.find(id)
	return backend, ok
}

// find looks at every record with the id's tag. A record that cannot be read or is not sound is as if it were not there.
func (t *knownTable) find(id pipe.ID) (backend pipe.ID, slot int, ok bool) {
	tag := binary.LittleEndian.Uint64(id[:])
	var rec [knownRecord]byte
	for i := t.home(tag); t.recs[i] != 0; i = t.after(i) {
		if t.tags[i] != tag {
			continue
		}
		if _, err := t.f.ReadAt(rec[:], int64(t.recs[i])*knownRecord); err != nil || !t.sound(rec[:]) {
			continue
		}
		if pipe.ID(rec[:32]) == id {
			return pipe.ID(rec[32:64]), i, true
		}
	}
	return pipe.ID{}, 0, false
}

// add remembers a block that the backend has taken. An error costs sending the block again, no more.
func (t *knownTable) add(id, backend pipe.ID) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.f == nil {
		return fs.ErrClosed
	}
	old, slot, ok := t.find(id)
	if ok && old == backend {
		return nil
	}
	if t.next >= knownMax {
		return errKnownFull
	}
	var rec [knownRecord]byte
	copy(rec[:], id[:])
	copy(rec[32:], backend[:])
	sum := t.sum(rec[:])
	copy(rec[64:], sum[:])
	if _, err := t.f.WriteAt(rec[:], int64(t.next)*knownRecord); err != nil {
		return err // the number is used again: what is torn there is not sound
	}
	if ok { // another repository stands behind the table now
		t.recs[slot] = t.next
	} else {
		t.insert(binary.LittleEndian.Uint64(id[:]), t.next)
	}
	t.next++
	t.dirty = true
	return nil
}

// addAll remembers many blocks by their records, with one write. Records that are not sound are left out.
func (t *knownTable) addAll(records []byte) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.f == nil {
		return fs.ErrClosed
	}
	fresh := make([]byte, 0, len(records))
	for ; len(records) > 0; records = records[knownRecord:] {
		rec := records[:knownRecord]
		if !t.sound(rec) {
			continue
		}
		if old, _, ok := t.find(pipe.ID(rec[:32])); !ok || old != pipe.ID(rec[32:64]) {
			fresh = append(fresh, rec...)
		}
	}
	if int64(t.next)+int64(len(fresh)/knownRecord) >= knownMax {
		return errKnownFull
	}
	if _, err := t.f.WriteAt(fresh, int64(t.next)*knownRecord); err != nil {
		return err // the numbers are used again
	}
	for ; len(fresh) > 0; fresh = fresh[knownRecord:] {
		if _, slot, ok := t.find(pipe.ID(fresh[:32])); ok { // another repository stands behind the table now, or it came twice
			t.recs[slot] = t.next
		} else {
			t.insert(binary.LittleEndian.Uint64(fresh), t.next)
		}
		t.next++
		t.dirty = true
	}
	return nil
}

// insert puts a record into the first free slot behind its home, at a load of at most 4/5.
func (t *knownTable) insert(tag uint64, rec uint32) {
	if (t.used+1)*5 > len(t.tags)*4 {
		t.resize(len(t.tags) + len(t.tags)/2)
	}
	i := t.home(tag)
	for t.recs[i] != 0 {
		i = t.after(i)
	}
	t.tags[i], t.recs[i] = tag, rec
	t.used++
}

// resize grows by a half only, so that a block never takes more than 23 bytes.
func (t *knownTable) resize(slots int) {
	tags, recs := t.tags, t.recs
	t.tags, t.recs, t.used = make([]uint64, slots), make([]uint32, slots), 0
	for i, rec := range recs {
		if rec != 0 {
			t.insert(tags[i], rec)
		}
	}
}

// home spreads the tags over the slots: a tag is a part of a keyed hash, so it is random already.
func (t *knownTable) home(tag uint64) int {
	hi, _ := bits.Mul64(tag, uint64(len(t.tags)))
	return int(hi)
}

func (t *knownTable) after(i int) int {
	if i++; i == len(t.tags) {
		return 0
	}
	return i
}

// size is how many blocks the table knows.
func (t *knownTable) size() int {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return t.used
}

// sync makes what was added survive a power cut.
func (t *knownTable) sync() error {
	t.mu.Lock()
	f, dirty := t.f, t.dirty
	t.dirty = false
	t.mu.Unlock()
	if f == nil || !dirty {
		return nil
	}
	return f.Sync()
}

// Close closes the file. The table then knows nothing.
func (t *knownTable) Close() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.f == nil {
		return nil
	}
	err := t.f.Close()
	t.f = nil
	return err
}
