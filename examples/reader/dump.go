package main

import (
	"encoding/hex"
	"fmt"
	"io"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"
)

// dump writes down a repository for people: what the log says, record by record, and every object with its cells and frames. Ids are
// cut to eight digits, as they are random.
func (r *repository) dump(out io.Writer) error {
	fmt.Fprintf(out, "repository %s: suite %d, blocks of %d bytes\n\n", r.id, r.suite, r.blockSize)
	r.dumpLog(out)
	r.dumpState(out)
	return r.dumpObjects(out)
}

// dumpLog reads the log anew and writes each record down as it is read.
func (r *repository) dumpLog(out io.Writer) {
	state := r.log
	defer func() { r.log = state }()
	r.log = newHistory(r.headerHash)
	_ = r.jump()
	if r.log.from > 0 {
		fmt.Fprintf(out, "records to %d: %s stands for them\n", r.log.from, checkpointName((r.log.from+1)/r.every))
	}
	for {
		s, err := r.readRecord(r.log.end + 1)
		if err != nil {
			fmt.Fprintf(out, "record %d: %v\n", r.log.end+1, err)
			return
		}
		if s == nil {
			break
		}
		r.log.end, r.log.last = r.log.end+1, s.whole
		e := r.parseRecord(s)
		fmt.Fprintf(out, "record %d by %s: %s\n", r.log.end, short([]byte(s.key)), e.words(s.good))
		if e.kind == "gap" && s.good && s.key == string(r.root) && e.gap.counts(r.log, e.mark) {
			r.log.end = e.mark
			if e.gap.lost != nil {
				r.log.last = [32]byte(e.gap.lost)
			}
		}
	}
	fmt.Fprintln(out)
}

// words tells what a record says.
func (e *event) words(good bool) string {
	b := new(strings.Builder)
	b.WriteString(e.kind)
	if e.unknown || !good {
		return e.kind + ", which is not known or wrongly signed"
	}
	add := func(format string, args ...any) { fmt.Fprintf(b, " "+format, args...) }
	if e.subject != "" {
		add("%s as %s", short([]byte(e.subject)), e.role)
	}
	for _, tag := range e.vms {
		add("vm %s", short(tag))
	}
	if e.lease > 0 {
		add("lease %d", e.lease)
	}
	if e.access != "" {
		add("to %s", e.access)
	}
	if e.forKey != "" {
		add("for %s", short([]byte(e.forKey)))
	}
	if e.kind == "gap" {
		add("for records to %d", e.mark)
		for i, s := range e.gap.said {
			add("(%d by %s: %s)", s.n, short([]byte(e.gap.by[i])), s.words(true))
		}
	}
	for _, p := range e.points {
		add("point %s", short(p[:]))
	}
	if e.point != nil {
		add("point %s of vm %s", short(e.point), short(e.vm))
	}
	for _, name := range e.packs {
		add("%s", shortName(name))
	}
	for _, id := range e.ids {
		add("%s", short(id))
	}
	for _, s := range e.slots {
		add("%s", short(s[:]))
	}
	if e.note != "" {
		add("(%s)", e.note)
	}
	return b.String()
}

// dumpState writes down what all records say together.
func (r *repository) dumpState(out io.Writer) {
	h := r.log
	for _, n := range slices.Sorted(keysOf(h.leases)) {
		if l := h.leases[n]; !l.over {
			fmt.Fprintf(out, "open: lease %d to %s\n", n, l.access)
		}
	}
	for _, name := range slices.Sorted(keysOf(h.tombs)) {
		how := "is to go"
		if h.tombs[name].final {
			how = "goes for good"
		}
		fmt.Fprintf(out, "tombstone: %s %s\n", shortName(name), how)
	}
	for _, c := range h.points {
		if note, held := h.held[c.point]; held {
			fmt.Fprintf(out, "held: point %s (%s)\n", short(c.point[:]), note)
		}
	}
	for _, u := range h.begun {
		fmt.Fprintf(out, "unfinished: point %s of vm %s under lease %d\n", short(u.point[:]), short(u.vm), u.lease)
	}
	if h.bad > 0 {
		fmt.Fprintf(out, "bad: %d ids\n", h.bad)
	}
	for _, s := range h.slots {
		fmt.Fprintf(out, "in force: slot %s\n", short(s[:]))
	}
	for _, c := range h.points {
		m, err := r.manifest(c)
		if err != nil {
			fmt.Fprintf(out, "point %s: %v\n", short(c.point[:]), err)
			continue
		}
		fmt.Fprintf(out, "point %s of %q, committed by record %d under lease %d: %s\n", short(m.id[:]), m.vm, c.n, c.lease, m.state)
		for _, d := range m.disks {
			fmt.Fprintf(out, "\tdisk %q of %d bytes: %s\n", d.key, d.size, d.root)
		}
		for _, b := range m.blobs {
			fmt.Fprintf(out, "\tblob %q of %d bytes in %d chunks\n", b.name, b.size, len(b.chunks))
		}
	}
	fmt.Fprintln(out)
}

func (e entry) String() string {
	if e.kind != entryData {
		return "all " + kindNames[e.kind]
	}
	s := "page " + short(e.id[:]) + ","
	for k, n := range e.counts {
		if n > 0 {
			s += fmt.Sprintf(" %d %s", n, kindNames[k])
		}
	}
	return s
}

// dumpObjects writes down every file. The second and third place of an object are counted with the first.
func (r *repository) dumpObjects(out io.Writer) error {
	found := map[string]int{}
	err := filepath.WalkDir(string(r.folder), func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		name, err := filepath.Rel(string(r.folder), path)
		if err == nil {
			name = filepath.ToSlash(name)
			found[strings.TrimPrefix(strings.TrimPrefix(name, "copy1/"), "copy2/")]++
		}
		return err
	})
	for _, name := range slices.Sorted(keysOf(found)) {
		r.dumpObject(out, name, found[name])
	}
	return err
}

var tops = map[string]byte{"header": kindHeader, "slot": kindSlot, "data": kindData, "meta": kindMeta, "manifest": kindManifest, "log": kindLog,
	"checkpoint": kindCheckpoint, "index": kindIndex, "beat": kindBeat, "anchor": kindAnchor}

func (r *repository) dumpObject(out io.Writer, name string, times int) {
	top, _, _ := strings.Cut(name, "/")
	fmt.Fprintf(out, "%s", shortName(name))
	if times > 1 {
		fmt.Fprintf(out, ", %d times", times)
	}
	c, err := r.cells(name, want{kind: tops[top], repository: &r.id})
	if err != nil {
		fmt.Fprintf(out, ": %v\n", err)
		return
	}
	fmt.Fprintf(out, ": %d+%d cells, code %d, stream of %d bytes\n", c.n, c.m, c.code, len(c.stream))
	w := want{tops[top], &c.object, &r.id}
	head := &opened{source: memory(c.stream)}
	if wraps, _, _, err := head.readHeader(w); err == nil {
		for _, p := range wraps {
			fmt.Fprintf(out, "\tkey wrapped %s\n", wrapNames[p.kind&7])
		}
	}
	o, err := openObject(memory(c.stream), w, r.keys)
	if err != nil {
		fmt.Fprintf(out, "\t%v\n", err)
		return
	}
	for _, f := range o.frames {
		fmt.Fprintf(out, "\tframe %d at %d: %s %s, %s, %d bytes as %d\n", f.ordinal, f.offset, typeNames[f.kind&7], short(f.id[:]), codecNames[f.codec&3], f.plain, f.stored)
	}
}

var (
	wrapNames  = [8]string{"in the clear", "by master key", "for the repository's recipient", "by passphrase", "by key file or own key", "by age", "unknown", "unknown"}
	typeNames  = [8]string{"table", "block", "page", "chunk", "document", "pack's table", "void", "anchors"}
	codecNames = [4]string{"plain", "S2", "zstd", "recipe"}
)

func short(id []byte) string { return hex.EncodeToString(id[:min(4, len(id))]) }

// shortName cuts the id in a name, and the zeros before a number.
func shortName(name string) string {
	parts := strings.FieldsFunc(name, func(c rune) bool { return c == '/' || c == '-' })
	for i, p := range parts {
		switch {
		case isID(p):
			parts[i] = p[:8]
		case isNumber(p):
			parts[i] = fmt.Sprint(number(p))
		}
	}
	return strings.Join(parts, "/")
}

func keysOf[K comparable, V any](m map[K]V) func(func(K) bool) {
	return func(yield func(K) bool) {
		for k := range m {
			if !yield(k) {
				return
			}
		}
	}
}
