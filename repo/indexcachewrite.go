package repo

import (
	"bufio"
	"crypto/rand"
	"encoding/binary"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"
)

const (
	newCachePrefix = ".new-"
	tornAge        = time.Hour // after which a file that never got its name is nobody's
)

// sweep removes what killed processes left. A wrong guess costs another process its cache.
func (c *indexCache) sweep() {
	entries, err := os.ReadDir(c.dir)
	if err != nil {
		return
	}
	for _, e := range entries {
		info, err := e.Info()
		if err == nil && strings.HasPrefix(e.Name(), newCachePrefix) && time.Since(info.ModTime()) > tornAge {
			_ = os.Remove(filepath.Join(c.dir, e.Name()))
		}
	}
}

// writeCache writes an index as a cache file. The caller holds the index's lock.
func writeCache(to io.Writer, who *cacheIdentity, x *index, present map[packRef]int64) error {
	h := cacheHeader{doubts: x.doubts, packs: uint32(len(x.packs)), records: x.records.n, slots: uint64(x.table.slots())}
	_, _ = rand.Read(h.nonce[:])
	head := h.encode(who)
	out := bufio.NewWriterSize(to, 1<<20)
	if _, err := out.Write(head); err != nil {
		return err
	}
	w := pageWriter{out: out, seal: newPageSealer(who, head)}
	w.begin(sectionPacks, packPage)
	var b []byte
	for num, ref := range x.packs {
		size, ok := present[ref]
		if !ok {
			return fmt.Errorf("%s was listed no more", ref.name())
		}
		t, told := x.told[uint32(num)]
		p := cachedPack{ref, size, told, t}
		b = p.encode(b[:0])
		w.write(b)
	}
	w.begin(sectionParts, partPage)
	var slot [8]byte
	for i := range x.table.parts {
		binary.LittleEndian.PutUint32(slot[:], uint32(len(x.table.parts[i].slots)))
		w.write(slot[:4])
	}
	w.begin(sectionSlots, slotPage)
	for i := range x.table.parts {
		for _, s := range x.table.parts[i].slots {
			binary.LittleEndian.PutUint64(slot[:], s)
			w.write(slot[:])
		}
	}
	w.begin(sectionRecords, pageSize)
	err := x.records.eachRun(func(b []byte) error {
		for ; len(b) > 0; b = b[recordSize:] {
			w.write(b[:recordSize])
		}
		return w.err
	})
	if err != nil {
		return err
	}
	w.flush()
	if w.err != nil {
		return w.err
	}
	return out.Flush()
}

// pageWriter cuts a section to pages and puts a tag after each.
type pageWriter struct {
	out     io.Writer
	seal    *pageSealer
	section int
	page    int64
	size    int
	buf     []byte
	err     error
}

// begin ends the section before, and begins one.
func (w *pageWriter) begin(section, size int) {
	w.flush()
	w.section, w.page, w.size = section, 0, size
}

// write adds a piece; pages are whole numbers of them.
func (w *pageWriter) write(b []byte) {
	if w.buf = append(w.buf, b...); len(w.buf) >= w.size {
		w.flush()
	}
}

func (w *pageWriter) flush() {
	if len(w.buf) == 0 || w.err != nil {
		return
	}
	b := w.seal.tag(w.buf, w.section, w.page, w.buf)
	_, w.err = w.out.Write(b)
	w.buf = b[:0]
	w.page++
}
