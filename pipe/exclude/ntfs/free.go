package ntfs

import (
	"context"
	"fmt"
	"iter"

	"github.com/hikae/hikae/pipe/exclude/fsys"
)

// Free implements [fsys.FileSystem]. Before the first answer it reads the whole file table and holds what every file
// has against the bitmap, as chkdsk would: a cluster that the bitmap gives away although a file has it makes the volume
// doubtful, and ends the sequence with a [*fsys.CorruptError].
func (v *volume) Free(ctx context.Context) iter.Seq2[fsys.Range, error] {
	return func(yield func(fsys.Range, error) bool) {
		if v.Info().Doubt != "" {
			return
		}
		if err := v.checkOnce(ctx); err != nil {
			yield(fsys.Range{}, err)
			return
		}
		j := joiner{yield: yield, last: fsys.Range{Off: -1}}
		if err := v.free(ctx, &j); err != nil {
			yield(fsys.Range{}, err)
		} else if !j.stopped {
			j.flush()
		}
	}
}

// free walks the bitmap.
func (v *volume) free(ctx context.Context, j *joiner) error {
	whole := (v.now.clusters + 7) / 8
	p, q := make([]byte, bitBlock), make([]byte, bitBlock)
	for off := int64(0); off < whole && !j.stopped; off += bitBlock {
		n := min(bitBlock, whole-off)
		if err := v.nowMap.read(ctx, p[:n], off); err != nil {
			return err
		}
		if v.now != v.disk {
			if err := v.diskMap.read(ctx, q[:n], off); err != nil {
				return err
			}
			for i := range p[:n] {
				p[i] |= q[i]
			}
		}
		freeRuns(p[:n], off*8, v.now.clusters, v.now.cluster, j.add)
	}
	return nil
}

// joiner joins ranges that touch and leaves out the boot sectors, which belong to no cluster that a bitmap could free.
type joiner struct {
	yield   func(fsys.Range, error) bool
	last    fsys.Range
	stopped bool
}

func (j *joiner) add(r fsys.Range) bool {
	if cut := bootBytes - r.Off; cut > 0 {
		if r.Off, r.Len = bootBytes, r.Len-cut; r.Len <= 0 {
			return true
		}
	}
	if j.last.Off >= 0 && j.last.End() == r.Off {
		j.last.Len += r.Len
		return true
	}
	j.flush()
	j.last = r
	return !j.stopped
}

func (j *joiner) flush() {
	if j.last.Off >= 0 && !j.stopped {
		j.stopped = !j.yield(j.last, nil)
	}
	j.last.Off = -1
}

// checkOnce runs the check until it has come to an end.
func (v *volume) checkOnce(ctx context.Context) error {
	v.mu.Lock()
	done := v.checked
	v.mu.Unlock()
	if done {
		return nil
	}
	err := v.now.check(ctx, v.nowMap)
	if err == nil {
		v.mu.Lock()
		v.checked = true
		v.mu.Unlock()
		return nil
	}
	if e := v.doubtful(err); e != nil {
		return e
	}
	return err
}

// checkRead is how much of the file table is read at once, a multiple of every size of a record.
const checkRead = 1 << 20

// checker holds the file table against the bitmap.
type checker struct {
	*view
	m      *clusterMap
	used   bitReader // which records are in use
	runs   []run
	total  int64 // clusters that files have
	number int64
}

// check reads every file record. Its work is bounded by the size of the table and of the bitmap, for files that have
// more clusters than the volume have some twice.
func (w *view) check(ctx context.Context, m *clusterMap) error {
	f, err := w.file(ctx, numberTable)
	if err != nil {
		return err
	}
	used, err := w.solidStream(f, typeBitmap, "")
	if err != nil {
		return err
	}
	c := &checker{view: w, m: m, used: bitReader{s: used}}
	p := make([]byte, checkRead)
	for off, end := int64(0), w.records()*w.record; off < end; off += checkRead {
		n := min(checkRead, end-off)
		if _, err := w.table.readAt(ctx, p[:n], off); err != nil {
			return err
		}
		for at := int64(0); at < n; at += w.record {
			if err := c.checkRecord(ctx, p[at:at+w.record]); err != nil {
				return err
			}
			c.number++
		}
	}
	return c.checkRest(ctx)
}

// checkRest: no record is in use behind the part of the file table that was ever written, where none was looked at.
func (c *checker) checkRest(ctx context.Context) error {
	for k := c.number; k/8 < c.used.s.size; k++ {
		used, err := c.used.bit(ctx, k)
		if err != nil {
			return err
		}
		if used {
			return corrupt("file table", -1, fmt.Errorf("it has %d records, and record %d is in use", c.number, k))
		}
	}
	return nil
}

// checkRecord checks one record. One that neither the table's bitmap nor its own flag calls in use may hold anything.
func (c *checker) checkRecord(ctx context.Context, p []byte) error {
	used, err := c.used.bit(ctx, c.number)
	if err != nil {
		return err
	}
	file := string(p[:4]) == "FILE"
	if !used && !file || file && record(p).flags()&recordInUse == 0 {
		return nil
	}
	r, err := parseRecord(p)
	if err != nil {
		if !used {
			return nil
		}
		return c.bad(err)
	}
	for a, err := range r.attrs() {
		if err != nil {
			return c.bad(err)
		}
		if a.resident {
			continue
		}
		if err := c.checkRuns(ctx, a); err != nil {
			return err
		}
	}
	return nil
}

func (c *checker) bad(err error) error {
	return corrupt(fmt.Sprintf("file record %d", c.number), c.where(c.number), err)
}

// checkRuns checks that all clusters of one part of an attribute are in use.
func (c *checker) checkRuns(ctx context.Context, a attr) (err error) {
	if c.runs, err = appendRuns(c.runs[:0], a, c.clusters); err != nil {
		return c.bad(err)
	}
	for _, r := range c.runs {
		if r.lcn < 0 {
			continue
		}
		if c.total += r.n; c.total > c.clusters {
			return c.bad(fmt.Errorf("attribute %#x: files have more clusters than the volume", a.typ))
		}
		free, err := c.m.firstFree(ctx, r.lcn, r.n)
		if err != nil {
			return err
		}
		if free >= 0 {
			return c.bad(fmt.Errorf("attribute %#x has cluster %d, which the bitmap calls free", a.typ, free))
		}
	}
	return nil
}
