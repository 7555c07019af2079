package layout

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// lvm gathers physical volumes and makes logical volumes of them when all disks have been looked at.
type lvm struct {
	physical []*physical
	groups   map[string]*group // by id
	nodes    int               // parsed so far, of all groups
}

// group is a volume group: its text, and those physical volumes that hold it.
type group struct {
	name  string
	id    string
	text  []byte
	root  *node
	doubt string
}

// Limits of a group that make sense: 4 KiB to 16 GiB an extent.
const (
	maxColumns       = 256
	maxSegments      = 1 << 16
	maxExtentSectors = 1 << 25
)

// add takes a physical volume; an answer says why it is stored whole instead.
func (l *lvm) add(ctx context.Context, v *Volume, d *Disk, off int64) string {
	p, err := readPhysical(ctx, v, d, off)
	if err != nil {
		return err.Error()
	}
	l.physical = append(l.physical, p)
	l.group(p)
	p.text = nil // it is the group's now, once for all its disks
	return ""
}

// volumes are the logical volumes, and those physical volumes that belong to none that could be read. others are what
// else lies on the disks.
func (l *lvm) volumes(others []*Volume) (out []*Volume) {
	regions := slices.Clone(others)
	for _, p := range l.physical {
		regions = append(regions, p.v)
	}
	doubtOverlaps(regions)
	named := map[string]*group{} // by the id of a physical volume
	for _, g := range l.sorted() {
		for _, id := range g.members() {
			if other := named[id]; other != nil {
				g.doubt, other.doubt = "another group claims a disk of it", "another group claims a disk of it"
			}
			named[id] = g
		}
	}
	byID := map[string]*physical{}
	for _, p := range l.physical {
		g := named[p.id]
		if twin := byID[p.id]; twin != nil {
			p.v.Whole, twin.v.Whole = "two physical volumes have the same id", "two physical volumes have the same id"
		}
		byID[p.id] = p
		if g == nil {
			p.v.Whole = cmp.Or(p.v.Whole, "it belongs to no volume group that is known here")
		}
	}
	for _, p := range l.physical {
		if p.v.Whole != "" {
			out = append(out, p.v)
			if g := named[p.id]; g != nil {
				g.doubt = cmp.Or(g.doubt, "its physical volume "+p.v.Name+" is doubtful: "+p.v.Whole)
			}
		}
	}
	for _, g := range l.sorted() {
		out = append(out, g.volumes(byID)...)
	}
	return out
}

func (l *lvm) sorted() []*group {
	return slices.SortedFunc(maps.Values(l.groups), func(a, b *group) int { return cmp.Or(cmp.Compare(a.name, b.name), cmp.Compare(a.id, b.id)) })
}

// group reads the text that a physical volume holds, and compares it with that of the others of its group.
func (l *lvm) group(p *physical) {
	if p.text == nil {
		return
	}
	for _, g := range l.groups {
		if bytes.Equal(g.text, p.text) {
			return
		}
	}
	root, err := parseText(p.text, &l.nodes)
	if err != nil {
		p.v.Whole = cmp.Or(p.v.Whole, err.Error())
		return
	}
	g := &group{text: p.text}
	for _, key := range root.keys {
		if s := root.section(key); s != nil && s.section("physical_volumes") != nil {
			if g.root != nil {
				p.v.Whole = cmp.Or(p.v.Whole, "its text describes two volume groups")
				return
			}
			g.name, g.root = key, s
		}
	}
	if g.root == nil || g.root.str("id") == "" {
		p.v.Whole = cmp.Or(p.v.Whole, "its text describes no volume group")
		return
	}
	g.id = g.root.str("id")
	if other := l.groups[g.id]; other != nil {
		// The disks of a group are written one after the other: the moment lies between two of them, or a disk was away.
		other.doubt = "its disks hold different versions of its metadata"
		return
	}
	l.groups[g.id] = g
}

// members are the ids of the group's physical volumes, as labels write them.
func (g *group) members() (ids []string) {
	pvs := g.root.section("physical_volumes")
	for _, key := range pvs.keys {
		ids = append(ids, strings.ReplaceAll(pvs.section(key).str("id"), "-", ""))
	}
	return ids
}

// slot is a physical volume as the group's text has it.
type slot struct {
	p     *physical // nil: it is not here
	start int64     // of its first extent, in bytes
	count int64     // extents
}

func (g *group) volumes(byID map[string]*physical) (out []*Volume) {
	extent, ok := g.root.int("extent_size")
	if !ok || extent < 1 || extent > maxExtentSectors {
		g.doubt, extent = cmp.Or(g.doubt, "its extent size makes no sense"), 1
	}
	if g.root.str("format") != "lvm2" {
		g.doubt = cmp.Or(g.doubt, "its format is not known")
	}
	slots := map[string]*slot{}
	pvs := g.root.section("physical_volumes")
	for _, key := range pvs.keys {
		pv := pvs.section(key)
		s := &slot{p: byID[strings.ReplaceAll(pv.str("id"), "-", "")]}
		start, okStart := pv.int("pe_start")
		count, okCount := pv.int("pe_count")
		if !okStart || !okCount || start < 0 || count < 0 || start > maxDisk>>9 || count > maxDisk>>9/extent {
			g.doubt = cmp.Or(g.doubt, "the size of a physical volume makes no sense")
			continue
		}
		s.start, s.count = start<<9, count
		if s.p != nil && !s.fits(extent<<9) {
			g.doubt = cmp.Or(g.doubt, "the extents of "+s.p.v.Name+" lie outside of it or over its metadata")
		}
		slots[key] = s
	}
	lvs := g.root.section("logical_volumes")
	if lvs == nil {
		return nil
	}
	for _, key := range lvs.keys {
		if lv := lvs.section(key); lv != nil && len(out) <= maxVolumes {
			out = append(out, g.volume(key, lv, slots, extent<<9))
		}
	}
	for _, key := range g.referred(lvs) {
		for _, v := range out {
			if v.Name == g.name+"/"+key {
				v.Whole = cmp.Or(v.Whole, "another logical volume builds on it")
			}
		}
	}
	for _, v := range out {
		if g.doubt != "" {
			v.Whole = cmp.Or(v.Whole, "its volume group is doubtful: "+g.doubt)
		}
	}
	return out
}

// fits: the extents lie inside the physical volume and clear of its metadata.
func (s *slot) fits(extent int64) bool {
	end := s.start + s.count*extent
	if s.p == nil || end > s.p.v.Size || s.start < s.p.data[0].off {
		return false
	}
	for _, m := range s.p.meta {
		if m.off < end && s.start < m.off+m.n {
			return false
		}
	}
	return true
}

// volume makes a volume of a logical volume's section. Where anything is not as it should be, the volume is whole; its
// segments are then those that could be read.
func (g *group) volume(key string, lv *node, slots map[string]*slot, extent int64) *Volume {
	v := &Volume{Name: g.name + "/" + key}
	doubt := func(why string) { v.Whole = cmp.Or(v.Whole, why) }
	if !lv.has("status", "VISIBLE") {
		doubt("it is a part of another logical volume")
	}
	if lv.has("status", "PVMOVE") || lv.has("status", "LOCKED") || lv.has("status", "CONVERTING") {
		doubt("it is being moved or converted")
	}
	count, ok := lv.int("segment_count")
	if !ok || count < 1 || count > maxSegments {
		doubt("its segments make no sense")
		count = 0
	}
	types := map[string]bool{}
	next := int64(0) // extent
	for i := int64(1); i <= count; i++ {
		seg := lv.section(fmt.Sprintf("segment%d", i))
		start, okStart := seg.int("start_extent")
		n, okCount := seg.int("extent_count")
		if seg == nil || !okStart || !okCount || start != next || n < 1 || n > maxDisk/extent {
			doubt("its segments make no sense")
			break
		}
		next += n
		typ := seg.str("type")
		if types[typ] = true; typ != "striped" && typ != "linear" {
			doubt(fmt.Sprintf("segments of the type %q are not looked into", typ))
			continue
		}
		s, why := g.segment(seg, n, slots, extent)
		if why != "" {
			doubt(why)
		}
		if len(s.columns) > 0 {
			v.segments = append(v.segments, s)
		}
	}
	v.Type = strings.Join(slices.Sorted(maps.Keys(types)), ", ")
	if v.finish(); v.Size > maxDisk {
		doubt("its size makes no sense")
	}
	return v
}

// segment reads a linear or striped segment of n extents.
func (g *group) segment(seg *node, n int64, slots map[string]*slot, extent int64) (s segment, why string) {
	const bad = "its stripes make no sense"
	var stripes []*node
	if f := seg.fields["stripes"]; f != nil {
		stripes = f.list
	}
	columns, ok := seg.int("stripe_count")
	if !ok || columns < 1 || columns > maxColumns || int64(len(stripes)) != 2*columns || n%columns != 0 {
		return s, bad
	}
	s.n, s.stripe = n*extent, extent
	if columns > 1 {
		sectors, ok := seg.int("stripe_size")
		if s.stripe = sectors << 9; !ok || sectors < 1 || sectors > maxExtentSectors || n/columns*extent%s.stripe != 0 {
			return segment{}, bad
		}
	}
	for i := range columns {
		name, first := stripes[2*i], stripes[2*i+1]
		at := slots[name.text]
		switch {
		case !name.isText || first.isText || at == nil:
			return segment{}, "it lies on another logical volume"
		case first.number < 0 || first.number > at.count || n/columns > at.count-first.number:
			return segment{}, bad
		case at.p == nil:
			s.columns, why = append(s.columns, column{}), "a disk of its volume group is not here"
		default:
			s.columns = append(s.columns, column{at.p.disk, at.p.off + at.start + first.number*extent})
		}
	}
	return s, why
}

// referred are the logical volumes that others name: the origin of a snapshot, the parts of a pool, a cache.
func (g *group) referred(lvs *node) (names []string) {
	var visit func(n *node, own string)
	visit = func(n *node, own string) {
		for _, f := range n.fields {
			visit(f, own)
		}
		for _, x := range n.list {
			visit(x, own)
		}
		if n.isText && n.text != own && lvs.section(n.text) != nil {
			names = append(names, n.text)
		}
	}
	for _, key := range lvs.keys {
		for _, inner := range lvs.fields[key].keys {
			if f := lvs.fields[key].fields[inner]; f.fields != nil {
				visit(f, key) // a section: a segment. What stands beside them describes the volume
			}
		}
	}
	return names
}
