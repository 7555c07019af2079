package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
)

// report is what a check found.
type report struct {
	objects, frames, points int
	mended                  []string // objects whose damage parity or a copy makes good
	faults                  []error
}

// check opens every object, every frame and every tree.
func (r *repository) check(ctx context.Context) (*report, error) {
	rep := &report{}
	rep.faults = append(rep.faults, r.packs.faults...)
	if err := r.checkVital(rep); err != nil {
		return rep, err
	}
	if err := r.checkPacks(ctx, rep); err != nil {
		return rep, err
	}
	if err := r.checkRest(ctx, rep); err != nil {
		return rep, err
	}
	return rep, r.checkPoints(ctx, rep)
}

// checkVital looks at the three copies of each small object. What is wrong with one alone can be mended from the others.
func (r *repository) checkVital(rep *report) error {
	if r.log.broken != nil {
		rep.faults = append(rep.faults, r.log.broken)
	}
	for k := uint64(1); r.log.from > 0 && k <= (r.log.from+1)/r.every; k++ {
		r.checkCopies(rep, checkpointName(k), want{kind: kindCheckpoint, repository: &r.id})
	}
	for n := r.log.from + 1; n <= r.log.end; n++ {
		if !slices.Contains(r.log.gone, n) {
			r.checkCopies(rep, logName(n), want{kind: kindLog, repository: &r.id})
		}
	}
	r.checkCopies(rep, "header", want{kind: kindHeader, repository: &r.id})
	for _, c := range r.log.points {
		r.checkCopies(rep, manifestName(c.lease, c.point), want{kindManifest, &c.point, &r.id})
	}
	slots := map[string]bool{}
	for _, place := range places {
		ids, err := r.list(place+"slot", isID)
		if err != nil {
			return err
		}
		for _, id := range ids {
			slots[id] = true
		}
	}
	for s := range slots {
		id := parseID(s)
		r.checkCopies(rep, "slot/"+s, want{kindSlot, &id, &r.id})
	}
	return nil
}

func (r *repository) checkCopies(rep *report, name string, w want) {
	votes := map[[32]byte]int{}
	var streams [3]*[32]byte
	for i, place := range places {
		c, err := r.cells(place+name, w)
		rep.objects++
		if err != nil {
			rep.mended = append(rep.mended, err.Error())
			continue
		}
		if len(c.damaged) > 0 {
			rep.mended = append(rep.mended, fmt.Sprintf("%s: damaged cells %v", place+name, c.damaged))
		}
		h := hash(c.stream)
		streams[i] = &h
		votes[h]++
	}
	if len(votes) > 1 {
		rep.mended = append(rep.mended, name+": its copies are not the same")
	}
	if len(votes) == 0 {
		rep.faults = append(rep.faults, damaged(name, -1, "none of its three copies can be read"))
	}
}

// checkPacks opens and decodes every frame of every pack.
func (r *repository) checkPacks(ctx context.Context, rep *report) error {
	for number, p := range r.packs.packs {
		if err := ctx.Err(); err != nil {
			return err
		}
		rep.objects++
		c, err := r.cells(p.name, want{p.kind, &p.id, &r.id})
		if err == nil && len(c.damaged) > 0 {
			rep.mended = append(rep.mended, fmt.Sprintf("%s: damaged cells %v", p.name, c.damaged))
		}
		o, err := r.openPack(r.packs.packs[number])
		if err != nil {
			rep.faults = append(rep.faults, err)
			continue
		}
		for _, f := range o.frames {
			if f.kind == typeVoid {
				continue
			}
			rep.frames++
			if _, err := r.frameOf(p, f); err != nil {
				rep.faults = append(rep.faults, err)
			}
		}
	}
	return nil
}

// checkRest opens index and anchor objects and heartbeats. Nothing depends on them, and so what is wrong with them is
// damage that anybody can make good by leaving them out.
func (r *repository) checkRest(ctx context.Context, rep *report) error {
	for kind, top := range map[byte]string{kindIndex: "index", kindAnchor: "anchor"} {
		names, err := r.leased(top)
		if err != nil {
			return err
		}
		for _, n := range names {
			if err := ctx.Err(); err != nil {
				return err
			}
			rep.objects++
			if err := r.checkExtra(n, kind, rep); err != nil {
				rep.mended = append(rep.mended, err.Error()+" (nothing is lost by it)")
			}
		}
	}
	return nil
}

func (r *repository) checkExtra(n objectName, kind byte, rep *report) error {
	w := want{kind, &n.id, &r.id}
	c, err := r.cells(n.name, w)
	if err != nil {
		return err
	}
	if len(c.damaged) > 0 {
		rep.mended = append(rep.mended, fmt.Sprintf("%s: damaged cells %v", n.name, c.damaged))
	}
	o, err := openObject(memory(c.stream), w, r.keys)
	if err != nil {
		return named(n.name, err)
	}
	o.name = n.name
	if o.suite != r.suite {
		return damaged(n.name, 11, "suite %d in a repository of suite %d", o.suite, r.suite)
	}
	for _, f := range o.frames {
		rep.frames++
		body, err := o.encoded(f)
		if err != nil {
			return err
		}
		plain, err := decode(f.codec, body, int(f.plain))
		if err != nil || hash(plain) != f.id {
			return damaged(n.name, int64(f.offset), "frame %d does not hold what its id says", f.ordinal)
		}
	}
	return nil
}

// checkPoints walks every tree. Blocks were decoded before: here each must be somewhere.
func (r *repository) checkPoints(ctx context.Context, rep *report) error {
	for _, c := range r.log.points {
		rep.points++
		m, err := r.manifest(c)
		if err != nil {
			rep.faults = append(rep.faults, err)
			continue
		}
		for _, d := range m.disks {
			err := r.walk(ctx, m, d, func(block uint64, id [32]byte) error {
				_, _, err := r.block(m, d, block, id)
				return err
			})
			if errors.Is(err, context.Canceled) {
				return err
			}
			if err != nil {
				rep.faults = append(rep.faults, err)
			}
		}
		for _, b := range m.blobs {
			if err := r.checkBlob(m, b); err != nil {
				rep.faults = append(rep.faults, err)
			}
		}
	}
	return nil
}

// checkBlob reads a blob through: each chunk but the last is a block long.
func (r *repository) checkBlob(m *manifest, b blob) error {
	var size int64
	for i, id := range b.chunks {
		plain, err := r.content(m.scope, typeChunk, [32]byte(id), false)
		if err != nil {
			return fmt.Errorf("blob %q of point %s: %w", b.name, m.id, err)
		}
		if i < len(b.chunks)-1 && int64(len(plain)) != r.blockSize {
			return damaged(m.name, -1, "chunk %d of blob %q has %d bytes", i, b.name, len(plain))
		}
		size += int64(len(plain))
	}
	if size != b.size {
		return damaged(m.name, -1, "blob %q has %d bytes and not %d", b.name, size, b.size)
	}
	return nil
}
