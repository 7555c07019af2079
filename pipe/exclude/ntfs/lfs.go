package ntfs

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/bits"

	"github.com/hikae/hikae/pipe/exclude/fsys"
)

// The log file service keeps the log: two restart pages, copies of the pages written last, and record pages that are
// used in turn. It knows nothing of what the records say.
const (
	lfsHeader     = 0x30     // of a record
	lfsNoClient   = 0xFFFF   // the list of clients is empty: nobody uses the log
	lfsClean      = 0x0002   // the volume was put away in order
	lfsMultiPage  = 0x0001   // a record goes on in the next page
	lfsMaxRecord  = 4 << 20  // of a record, in bytes: the tables of a checkpoint are the longest
	lfsPages      = 1 << 20  // kept of the log, in bytes
	lfsProbe      = 64 << 10 // holds both restart pages at every size that they have
	lfsTailsOne   = 2        // copies of pages in version 1.1
	lfsTailsTwo   = 32       // in version 2.0
	recordOrdered = 1        // types of records: of a client, and its restart area
	recordRestart = 2
)

// logError says why a log cannot be replayed.
type logError struct{ why string }

func (e *logError) Error() string { return e.why }

func logErrorf(format string, args ...any) error { return &logError{fmt.Sprintf(format, args...)} }

// lfs is an opened log.
type lfs struct {
	s        *stream
	page     int64 // bytes of a page
	first    int64 // the byte of the first record page
	size     int64
	seqBits  uint
	data     int64  // where the records begin in a page
	current  uint64 // the last record when the restart page was written
	restart  uint64 // the client's last restart area
	clean    bool
	copies   int64            // the byte of the first copy of a page
	two      bool             // version 2.0: pages say themselves where they belong
	tails    map[int64][]byte // copies of pages by the place that they are for
	pages    lru[int64, []byte]
	lastTail uint64 // the last record that ends in any of the copies
	budget   int64  // bytes that may yet be read of records: each has its part in the passes, whatever leads to it
}

// openLFS reads the restart pages. A nil log without an error is one that was never used.
func openLFS(ctx context.Context, s *stream) (*lfs, error) {
	head := make([]byte, min(lfsProbe, s.size))
	if _, err := s.readAt(ctx, head, 0); err != nil {
		return nil, err
	}
	if len(head) < 8192 {
		return nil, logErrorf("it has %d bytes", s.size)
	}
	if blank(head, 0xFF) {
		return nil, nil
	}
	var best *lfs
	var why error
	for _, at := range restartPlaces(head) {
		l, err := parseRestart(head[at:])
		if err != nil {
			why = err
		} else if best == nil || l.current > best.current {
			best = l
		}
	}
	if best == nil {
		return nil, logErrorf("it has no restart page: %v", why)
	}
	best.s = s
	if best.clean {
		return best, nil
	}
	if best.size > s.size {
		return nil, logErrorf("it is %d bytes of %d", s.size, best.size)
	}
	return best, best.readTails(ctx)
}

// restartPlaces are where restart pages may be: the second lies one page behind the first, whose size the first names.
func restartPlaces(head []byte) []int {
	second := int64(4096)
	if n := int64(le.Uint32(head[0x10:])); string(head[:4]) == "RSTR" && powerOfTwo(n, 512, lfsProbe/2) {
		second = n
	}
	return []int{0, int(second)}
}

// parseRestart reads one restart page; p may be longer.
func parseRestart(p []byte) (*lfs, error) {
	if string(p[:4]) == "CHKD" {
		return nil, logErrorf("chkdsk was at work on it")
	}
	if string(p[:4]) != "RSTR" {
		return nil, logErrorf("a restart page begins with %q", p[:4])
	}
	system, page := int64(le.Uint32(p[0x10:])), int64(le.Uint32(p[0x14:]))
	if !powerOfTwo(system, 512, int64(len(p))) || !powerOfTwo(page, 512, lfsProbe) {
		return nil, logErrorf("pages of %d and %d bytes", system, page)
	}
	p = bytes.Clone(p[:system])
	if err := unfix(p); err != nil {
		return nil, logErrorf("restart page: %v", err)
	}
	at := int(le.Uint16(p[0x18:]))
	if at < 0x30 || at+0x30 > len(p) {
		return nil, logErrorf("the restart area is at %d", at)
	}
	area := p[at:]
	l := &lfs{page: page, current: le.Uint64(area), seqBits: uint(le.Uint32(area[0x10:])), size: int64(le.Uint64(area[0x18:])),
		data: int64(le.Uint16(area[0x26:]))}
	inUse, flags := le.Uint16(area[0x0C:]), le.Uint16(area[0x0E:])
	if l.clean = inUse == lfsNoClient || flags&lfsClean != 0; l.clean {
		return l, nil
	}
	return l, l.parseVersion(p, area, system)
}

// parseVersion reads what only matters for a log with something in it, and knows versions 1.1 and 2.0.
func (l *lfs) parseVersion(p, area []byte, system int64) error {
	minor, major := int16(le.Uint16(p[0x1A:])), int16(le.Uint16(p[0x1C:]))
	switch {
	case major == 1 && minor == 1:
		l.copies, l.first = 2*system, 2*system+lfsTailsOne*l.page
	case major == 2 && minor == 0:
		l.copies, l.first, l.two = 2*system, 2*system+lfsTailsTwo*l.page, true
	default:
		return logErrorf("version %d.%d is not known", major, minor)
	}
	if l.size < l.first+2*l.page || l.size%l.page != 0 || l.size > 4<<30 || l.seqBits != uint(67-bits.Len64(uint64(l.size))) {
		return logErrorf("%d bytes, %d bits of a number count the rounds", l.size, l.seqBits)
	}
	if int(le.Uint16(area[0x24:])) != lfsHeader || l.data < 0x40 || l.data%8 != 0 || l.data > l.page/2 {
		return logErrorf("records have headers of %d bytes and begin at %d", le.Uint16(area[0x24:]), l.data)
	}
	at := int(le.Uint16(area[0x16:]))
	if le.Uint16(area[8:]) != 1 || le.Uint16(area[0x0C:]) != 0 || at < 0x30 || at+0x28 > len(area) {
		return logErrorf("%d clients at %d", le.Uint16(area[8:]), at)
	}
	client := area[at:]
	if le.Uint32(client[0x1C:]) != 8 || string(client[0x20:0x28]) != "N\x00T\x00F\x00S\x00" {
		return logErrorf("its client is not NTFS")
	}
	l.restart = le.Uint64(client[8:])
	l.pages.most, l.budget = lfsPages, 6*l.size
	return nil
}

// readTails finds the copies. A page is written to one of them before it is written to its place again, so the place
// may hold a torn write, or less than the copy.
func (l *lfs) readTails(ctx context.Context) error {
	l.tails = map[int64][]byte{}
	for off := l.copies; off < l.first; off += l.page {
		p := make([]byte, l.page)
		if _, err := l.s.readAt(ctx, p, off); err != nil {
			return err
		}
		if string(p[:4]) != "RCRD" || unfix(p) != nil {
			continue
		}
		place := int64(le.Uint32(p[8:]))
		if l.two {
			place = int64(le.Uint32(p[0x3C:]))
		}
		if place < l.first || place >= l.size || place%l.page != 0 {
			continue
		}
		if old, ok := l.tails[place]; !ok || lastEnd(p) > lastEnd(old) {
			l.tails[place] = p
		}
		l.lastTail = max(l.lastTail, lastEnd(p))
	}
	return nil
}

// lastEnd is the last record that ends in a page.
func lastEnd(p []byte) uint64 { return le.Uint64(p[0x20:]) }

// errNoPage: no round of the log has come to a page.
var errNoPage = errors.New("no page of a log")

// pageAt is a page with its update sequence undone, from its place or from a copy that is newer.
func (l *lfs) pageAt(ctx context.Context, off int64) (p []byte, err error) {
	if p, ok := l.pages.get(off); ok {
		return p, nil
	}
	p = make([]byte, l.page)
	if _, err := l.s.readAt(ctx, p, off); err != nil {
		return nil, err
	}
	bad := error(nil)
	if string(p[:4]) != "RCRD" {
		bad = fmt.Errorf("byte %d: %w", off, errNoPage)
	} else if err := unfix(p); err != nil {
		bad = logErrorf("page at %d: %v", off, err)
	}
	if t, ok := l.tails[off]; ok && (bad != nil || lastEnd(t) > lastEnd(p)) {
		p, bad = t, nil
	}
	if bad != nil {
		return nil, bad
	}
	l.pages.put(off, p, len(p))
	return p, nil
}

// A number of the log (LSN) is the round in its upper bits, and below the place in the file in units of 8 bytes.
func (l *lfs) place(lsn uint64) int64  { return int64(lsn<<l.seqBits>>l.seqBits) << 3 }
func (l *lfs) round(lsn uint64) uint64 { return lsn >> (64 - l.seqBits) }
func (l *lfs) number(round uint64, place int64) uint64 {
	return round<<(64-l.seqBits) | uint64(place)>>3
}

// lfsRecord is one record with its data, which may come from several pages.
type lfsRecord struct {
	lsn, prev, undoNext uint64
	typ                 uint32
	transaction         uint32
	data                []byte
	next                uint64 // where the next one would be
}

// errNoRecord: another record, or none, stands where this number leads.
var errNoRecord = errors.New("no such record")

// read reads the record with a number.
func (l *lfs) read(ctx context.Context, lsn uint64) (*lfsRecord, error) {
	at := l.place(lsn)
	in := at % l.page
	if at < l.first || at >= l.size || in < l.data || in+lfsHeader > l.page {
		return nil, logErrorf("the number %#x leads to byte %d", lsn, at)
	}
	p, err := l.pageAt(ctx, at-in)
	if err != nil {
		return nil, err
	}
	h := p[in:]
	if le.Uint64(h) != lsn {
		return nil, errNoRecord
	}
	r := &lfsRecord{lsn: lsn, prev: le.Uint64(h[8:]), undoNext: le.Uint64(h[0x10:]), typ: le.Uint32(h[0x20:]), transaction: le.Uint32(h[0x24:])}
	n := int64(le.Uint32(h[0x18:]))
	if n > lfsMaxRecord || n > l.size/2 || r.typ != recordOrdered && r.typ != recordRestart {
		return nil, logErrorf("record %#x has %d bytes and type %d", lsn, n, r.typ)
	}
	if l.budget -= n + lfsHeader; l.budget < 0 {
		return nil, errTooMuch
	}
	more := in+lfsHeader+n > l.page
	if more != (le.Uint16(h[0x28:])&lfsMultiPage != 0) {
		return nil, logErrorf("record %#x of %d bytes at %d: its flags are %#x", lsn, n, in, le.Uint16(h[0x28:]))
	}
	return r, l.gather(ctx, r, h[lfsHeader:], at-in, n)
}

// gather collects a record's data from the page that it begins in and those behind it.
func (l *lfs) gather(ctx context.Context, r *lfsRecord, p []byte, page, n int64) error {
	round := l.round(r.lsn)
	r.data = make([]byte, 0, n)
	for {
		step := min(n-int64(len(r.data)), int64(len(p)))
		r.data, p = append(r.data, p[:step]...), p[step:]
		if int64(len(r.data)) == n {
			break
		}
		if page += l.page; page >= l.size {
			page, round = l.first, round+1
		}
		next, err := l.pageAt(ctx, page)
		if err != nil {
			return logErrorf("record %#x does not end: %v", r.lsn, err)
		}
		if _, copied := l.tails[page]; !copied && le.Uint64(next[8:]) < r.lsn {
			return logErrorf("record %#x does not end: the page at %d is older", r.lsn, page)
		}
		p = next[l.data:]
	}
	end := (page + l.page - int64(len(p)) + 7) &^ 7
	if page+l.page-end < lfsHeader {
		if end = page + l.page + l.data; page+l.page >= l.size {
			end, round = l.first+l.data, round+1
		}
	}
	r.next = l.number(round, end)
	return nil
}

// checkEnd makes sure that the log ends before the number next: nothing says that there was more.
func (l *lfs) checkEnd(ctx context.Context, next, last uint64) error {
	if last < l.current || last < l.lastTail {
		return logErrorf("it ends at record %#x, and had %#x", last, max(l.current, l.lastTail))
	}
	at := l.place(next)
	p, err := l.pageAt(ctx, at-at%l.page)
	switch {
	case errors.Is(err, errNoPage) && at%l.page == l.data:
		return nil
	case err != nil:
		return err
	case at%l.page == l.data && max(lastEnd(p), le.Uint64(p[8:])) < next:
		return nil
	case at%l.page != l.data && lastEnd(p) == last && int64(le.Uint16(p[0x18:])) == at%l.page:
		return nil
	}
	return logErrorf("it does not end behind record %#x, as its page says", last)
}

// openLog opens the log of a view.
func (w *view) openLog(ctx context.Context) (*lfs, error) {
	f, err := w.file(ctx, numberLog)
	if err != nil {
		return nil, err
	}
	s, err := w.solidStream(f, typeData, "")
	if err != nil {
		return nil, err
	}
	if s.flags != 0 || s.init < s.size {
		return nil, &fsys.CorruptError{What: "log", Off: w.where(numberLog), Why: fmt.Sprintf("flags %#x, %d bytes valid of %d", s.flags, s.init, s.size)}
	}
	return openLFS(ctx, s)
}

// blank reports whether p is all one byte.
func blank(p []byte, b byte) bool { return len(bytes.TrimLeft(p, string([]byte{b}))) == 0 }
