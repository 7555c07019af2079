package main

import (
	"bytes"
	"crypto/ecdh"
	"crypto/ed25519"
	"errors"
	"fmt"
	"math/bits"
	"slices"
)

const maxSlots = 300

// repository is what stays of header and slot, and then of log and packs.
type repository struct {
	folder
	id         id16
	suite      byte
	blockSize  int64
	headerHash [32]byte
	root       ed25519.PublicKey
	recipient  []byte
	idKey      []byte
	keys       *keyring
	slot       id16 // that opened it
	every      uint64
	log        *history
	packs      *packs
	notes      []string
}

// openRepository reads header, slot and log, and the tables of all packs.
func openRepository(dir string, keys *keyring) (*repository, error) {
	return openSample(dir, keys, checkpointEvery)
}

// openSample opens a repository with that many records between two checkpoints.
func openSample(dir string, keys *keyring, every uint64) (*repository, error) {
	d := folder(dir)
	headers, err := d.headers()
	if err != nil {
		return nil, err
	}
	var last error
	for _, r := range headers {
		r.keys, r.every = keys, every
		if last = r.openSlot(); last == nil {
			return r, r.readAll()
		}
	}
	return nil, last
}

func (r *repository) readAll() error {
	if err := r.readLog(); err != nil {
		return err
	}
	if r.log.slots != nil && !slices.Contains(r.log.slots, r.slot) {
		return &fault{"slot/" + r.slot.String(), -1, errSecret, "the log says that this slot is not in force any more"}
	}
	return r.readPacks()
}

// headers gives what the three places say the repository is, each different answer once.
func (d folder) headers() ([]*repository, error) {
	var found []*repository
	var last error
	for _, place := range places {
		r, err := d.header(place + "header")
		if err != nil {
			if last == nil || errors.Is(last, errMissing) {
				last = err
			}
			continue
		}
		if len(found) == 0 || found[0].headerHash != r.headerHash {
			found = append(found, r)
		}
	}
	if len(found) == 0 {
		return nil, last
	}
	return found, nil
}

func (d folder) header(name string) (*repository, error) {
	raw, c, err := d.document(name, want{kind: kindHeader}, nil)
	if err != nil {
		return nil, err
	}
	doc := parseDocument(raw, "format", "id", "created", "suite", "blockSize", "packSize", "parityPermille",
		"compression", "root", "recipient", "readFeatures", "writeFeatures")
	if doc.number("format") != 1 {
		return nil, unsupported(name, "format %s", doc.fields["format"])
	}
	r := &repository{folder: d, headerHash: hash(raw), every: checkpointEvery}
	copy(r.id[:], doc.bytes("id", 16))
	suite := doc.number("suite")
	r.suite = byte(suite)
	r.blockSize = int64(doc.number("blockSize"))
	r.root = doc.bytes("root", 32)
	r.recipient = doc.bytes("recipient", 32)
	var features []string
	doc.must("readFeatures", &features)
	if doc.err == nil && len(features) > 0 {
		doc.unknown("feature %q", features[0])
	}
	if suite > 1 {
		doc.unknown("suite %d", suite)
	}
	if r.blockSize < 65536 || r.blockSize > 4194304 || bits.OnesCount64(uint64(r.blockSize)) != 1 {
		doc.fail("blocks of %d bytes", r.blockSize)
	}
	if !bytes.Equal(c.head[12:28], r.id[:]) {
		doc.fail("another repository than the object's")
	}
	return r, named(name, doc.err)
}

// document reads an object that holds one document. Without keys it is in the clear.
func (d folder) document(name string, w want, keys *keyring) ([]byte, *opened, error) {
	c, err := d.cells(name, w)
	if err != nil {
		return nil, nil, err
	}
	w.object = &c.object
	clear := keys == nil
	if clear {
		keys = &keyring{}
	}
	o, err := openObject(memory(c.stream), w, keys)
	if err != nil {
		return nil, nil, named(name, err)
	}
	if clear && o.suite != 0 {
		return nil, nil, damaged(name, 11, "it should be in the clear")
	}
	o.name = name
	if !bytes.Equal(o.head[12:20], c.repository[:]) {
		return nil, nil, damaged(name, 12, "cells and header name two repositories")
	}
	raw, err := o.soleDocument()
	return raw, o, err
}

// openSlot tries the slots until one opens that vouches for this header.
func (r *repository) openSlot() error {
	var last error = &fault{"slot", -1, errMissing, "no slot is there"}
	tried := 0
	opened := map[string]bool{}
	for _, place := range places {
		ids, err := r.list(place+"slot", isID)
		if err != nil {
			return err
		}
		for _, id := range ids {
			if tried++; tried > maxSlots {
				return unsupported("slot", "more than %d slots", maxSlots)
			}
			if opened[id] {
				continue
			}
			err := r.trySlot(place+"slot/"+id, parseID(id))
			if err == nil {
				return nil
			}
			if errors.Is(err, errNoKey) || errors.Is(err, errSecret) {
				opened[id] = true // the copies say the same
			}
			if !errors.Is(last, errSecret) {
				last = err
			}
		}
	}
	return last
}

func (r *repository) trySlot(name string, id id16) error {
	raw, o, err := r.document(name, want{kindSlot, &id, &r.id}, r.keys)
	if err != nil {
		return err
	}
	if o.suite != r.suite {
		return damaged(name, 11, "suite %d in a repository of suite %d", o.suite, r.suite)
	}
	doc := parseDocument(raw, "masters", "idKey", "rootSeed", "identity", "header")
	masters := doc.list("masters", 32)
	idKey := doc.bytes("idKey", 32)
	seed := doc.bytes("rootSeed", 32)
	private := doc.bytes("identity", 32)
	if !bytes.Equal(doc.bytes("header", 32), r.headerHash[:]) {
		doc.fail("the slot is for another header")
	}
	if len(masters) == 0 && r.suite == 1 {
		doc.fail("no master key")
	}
	identity, err := ecdh.X25519().NewPrivateKey(private)
	if err != nil || !bytes.Equal(identity.PublicKey().Bytes(), r.recipient) {
		doc.fail("identity and recipient are no pair")
	}
	if !ed25519.NewKeyFromSeed(seed).Public().(ed25519.PublicKey).Equal(r.root) {
		doc.fail("root seed and root are no pair")
	}
	if doc.err == nil {
		r.keys.masters, r.keys.identity, r.idKey, r.slot = masters, identity, idKey, id
	}
	return named(name, doc.err)
}

// note keeps what a person should know although the work goes on.
func (r *repository) note(format string, args ...any) {
	if len(r.notes) < 1000 {
		r.notes = append(r.notes, fmt.Sprintf(format, args...))
	}
}
