package main

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"strconv"
	"strings"
	"time"
)

// Kinds of entries, section 5 of FORMAT.md.
const (
	entryZero = 0
	entryData = 1
	entryBad  = 5
)

var kindNames = []string{"zero", "data", "free", "swap", "excluded", "bad"}

// manifest is one restore point.
type manifest struct {
	name  string
	id    id16
	scope []byte
	vm    string
	time  time.Time
	state string // consistency
	disks []disk
	blobs []blob
}

type disk struct {
	key  string
	size int64
	root entry
	last byte // kind of the last block
}

type blob struct {
	name   string
	size   int64
	chunks [][]byte
}

// entry stands for a block, or for all blocks below a page.
type entry struct {
	kind   byte
	id     [32]byte
	counts [6]uint64
}

// manifest reads a point from whichever place holds what the record names.
func (r *repository) manifest(c *commit) (*manifest, error) {
	base := manifestName(c.lease, c.point)
	var last error
	for _, place := range places {
		m, err := r.manifestAt(place+base, c)
		if err == nil {
			return m, nil
		}
		if last == nil || errors.Is(last, errMissing) {
			last = err
		}
	}
	if errors.Is(last, errMissing) {
		last = damaged(base, -1, "none of its three copies is there, and %s names it", logName(c.n))
	}
	return nil, last
}

func (r *repository) manifestAt(name string, c *commit) (*manifest, error) {
	cells, err := r.cells(name, want{kindManifest, &c.point, &r.id})
	if err != nil {
		return nil, err
	}
	if got := hash(cells.stream); !bytes.Equal(got[:], c.object) {
		return nil, damaged(name, -1, "it is not the manifest that %s names", logName(c.n))
	}
	raw, o, err := r.document(name, want{kindManifest, &c.point, &r.id}, r.keys)
	if err != nil {
		return nil, err
	}
	s, err := r.parseSigned(raw, "hikae/1/sign/manifest")
	if err != nil {
		return nil, named(name, err)
	}
	if !s.good || r.log.keys[s.key] == nil || c.key != "" && s.key != c.key || o.suite != r.suite {
		return nil, damaged(name, -1, "it is not signed by the key of its commit, or has another suite")
	}
	m, err := r.parseManifest(s.body, c)
	if err != nil {
		return nil, named(name, err)
	}
	m.name, m.scope = name, r.log.scope(c.lease)
	return m, nil
}

func (r *repository) parseManifest(body []byte, c *commit) (*manifest, error) {
	doc := parseDocument(body, "point", "lease", "vm", "time", "consistency", "disks", "blobs", "tracking", "facts", "base", "new")
	m := &manifest{id: c.point, vm: doc.text("vm"), state: doc.text("consistency")}
	if !bytes.Equal(doc.bytes("point", 16), c.point[:]) || doc.number("lease") != c.lease {
		doc.fail("it is of another point or lease")
	}
	if tag := keyed(derive(r.idKey, nil, "hikae/1/vm"), []byte(m.vm)); !bytes.Equal(tag[:16], c.vm) {
		doc.fail("it is of another VM than its record says")
	}
	if len(m.vm) < 1 || len(m.vm) > 1024 {
		doc.fail("a VM's name of %d bytes", len(m.vm))
	}
	var err error
	if m.time, err = time.Parse(time.RFC3339, doc.text("time")); err != nil {
		doc.fail("no time")
	}
	var disks, blobs []json.RawMessage
	doc.must("disks", &disks)
	doc.must("blobs", &blobs)
	for _, raw := range disks {
		m.disks = append(m.disks, r.parseDisk(doc, raw))
	}
	for _, raw := range blobs {
		m.blobs = append(m.blobs, parseBlob(doc, raw))
	}
	return m, doc.err
}

func (r *repository) parseDisk(whole *document, raw []byte) disk {
	doc := parseDocument(raw, "key", "size", "root", "last", "bad")
	size := doc.number("size")
	d := disk{key: doc.text("key"), size: int64(size)}
	if d.size < 0 {
		doc.fail("a disk of %d bytes", size)
	}
	d.root = parseRoot(doc)
	if d.size > 0 {
		d.last = kindOf(doc, doc.text("last"))
	} else if doc.text("last") != "" {
		doc.fail("an empty disk with a last block")
	}
	if whole.err == nil {
		whole.err = doc.err
	}
	return d
}

func parseRoot(doc *document) (e entry) {
	parts := strings.Split(doc.text("root"), ":")
	if e.kind = kindOf(doc, parts[0]); e.kind != entryData || doc.err != nil {
		if len(parts) != 1 {
			doc.fail("a root with too much in it")
		}
		return e
	}
	if len(parts) != 8 {
		doc.fail("a root without its counts")
		return e
	}
	copy(e.id[:], doc.hex("root", parts[1], 32))
	for i, p := range parts[2:] {
		n, err := strconv.ParseUint(p, 10, 64)
		if err != nil {
			doc.fail("a root with a count that is none")
		}
		e.counts[i] = n
	}
	return e
}

func kindOf(doc *document, name string) byte {
	for i, k := range kindNames {
		if k == name {
			return byte(i)
		}
	}
	doc.unknown("kind %q", name)
	return 0
}

func parseBlob(whole *document, raw []byte) blob {
	doc := parseDocument(raw, "name", "size", "chunks")
	b := blob{name: doc.text("name"), size: int64(doc.number("size")), chunks: doc.list("chunks", 32)}
	if whole.err == nil {
		whole.err = doc.err
	}
	return b
}

// unreadable counts the blocks of a disk that its source could not read.
func (d disk) unreadable() uint64 {
	if d.root.kind == entryBad {
		return 1
	}
	return d.root.counts[entryBad]
}

func hex32(id [32]byte) string { return hex.EncodeToString(id[:]) }
