package repo

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/hikae/hikae/repo/internal/cell"
	"github.com/hikae/hikae/repo/internal/object"
	"github.com/hikae/hikae/repo/store"
)

// MendLogOptions say what MendLog may believe. Nil is a good default.
type MendLogOptions struct {
	// DryRun: find out and tell, write nothing.
	DryRun bool
	// Trust are Ed25519 keys, 64 hexadecimal digits each, of which a person knows that they are machines of this repository, enrolled
	// by a record that is lost. Nothing else makes their records count.
	Trust []string
	// Distrust goes on although records or manifests are signed by keys that nobody is known to have let in: what they say is then lost
	// for good, if the lost record had let them in. Without it and without naming them in Trust, MendLog stops there.
	Distrust bool
	// Why is for the audit log.
	Why string
}

// LogMending is what MendLog found out and did.
type LogMending struct {
	Recovered []string  `json:"recovered"` // places of records that were put back, for the record itself could be had
	Gaps      []LogGap  `json:"gaps"`      // records that are gone
	Unknown   []LogSign `json:"unknown"`   // keys that later records are signed with, and that nobody is known to have enrolled
}

// LogGap are records that are gone, and what they said as far as it shows.
type LogGap struct {
	First uint64 `json:"first"`
	Last  uint64 `json:"last"`
	// Proven: a later record of a key that is enrolled carries their hash, or this machine has seen the last of them, so the history goes
	// on behind them as it was. False: there is nothing behind them.
	Proven bool     `json:"proven"`
	Found  []string `json:"found"` // sentences for people
	Open   []string `json:"open"`  // what they may have said besides, and what that would mean
}

// LogSign is a key, and how many records are signed with it.
type LogSign struct {
	Key     string `json:"key"`
	Records int    `json:"records"`
}

// ErrUnproven says that something behind a lost record is signed by keys of which it is not known that they are enrolled. The report
// names them, and MendLogOptions says what to do.
var ErrUnproven = errors.New("records behind the lost one are signed by keys that nobody is known to have let in")

// maxMendings bounds how many gaps one call closes.
const maxMendings = 64

// MendLog goes on where records of the log are damaged or lost in all three places, by a person's word. Where a record can still be had
// (from parts of several places, or from behind a forged one), it is put back. Where not, a gap takes its place: signed by the root key,
// it ties the next record that is proven to the last one before, and restates what the lost ones said as far as other records and the
// manifests prove it: sessions that are referred to, points whose manifests their writers signed, points of which a later prune removed the
// manifest. What was committed stays; where it does not show whether something was forgotten, it is kept. No key is believed that
// a record which is still there, or the caller, does not enrol. Where the log is whole, nothing is done.
//
// Where the log is whole, but ends before what this machine has seen of it, and points are there that were committed in what is lost, a gap
// takes the place of that too. Without such points it may be an older state that was put back: see [Repository.Adopt].
//
// Clients that are open all the time are told by a record at the log's end, and read the log anew: a session whose lease is among what was
// lost, and of which nothing shows, is refused its commit. Where a call broke off before that record, another one writes it.
//
// Verify afterwards. Errors: ErrUnproven, ErrReadOnly, *ErrRollback where this machine has seen another history than the one that is tied to, or more of it, and
// no point shows what.
func (r *Repository) MendLog(ctx context.Context, opts *MendLogOptions) (LogMending, error) {
	m := &logMender{r: r, rep: LogMending{Recovered: []string{}, Gaps: []LogGap{}, Unknown: []LogSign{}}}
	if opts != nil {
		m.opts = *opts
	}
	if r.writer != nil {
		return m.rep, errWriteOnly
	}
	if r.opts.ReadOnly && !m.opts.DryRun {
		return m.rep, ErrReadOnly
	}
	for _, t := range m.opts.Trust {
		var k publicKey
		if k.UnmarshalText([]byte(t)) != nil {
			return m.rep, fmt.Errorf("key %q: %w", t, fs.ErrInvalid)
		}
		m.trust = append(m.trust, k)
	}
	for range 2 * maxMendings { // each is told of first, and then looked at once more
		if err := r.log.findHole(ctx); err != nil {
			return m.rep, err
		}
		if r.log.damage() == nil && !m.lostEnd() {
			if m.gone {
				return m.rep, r.client.suspect // a person decides
			}
			return m.rep, errors.Join(m.tellOthers(ctx), m.settled(ctx))
		}
		unknown := slices.Clone(m.rep.Unknown)
		mend := m.mend
		if r.log.damage() == nil {
			mend = m.mendEnd
		}
		err := mend(ctx)
		if err != nil && !errors.Is(err, errOutrun) || m.opts.DryRun {
			return m.rep, err
		}
		if err != nil {
			m.rep.Unknown = unknown // they are counted anew
		}
		// What is known was read before: it is read anew.
		r.log.mu.Lock()
		r.log.readAnew()
		r.log.mu.Unlock()
	}
	return m.rep, fmt.Errorf("more than %d gaps: what is left takes another run", maxMendings)
}

// logMender is one run.
type logMender struct {
	r     *Repository
	opts  MendLogOptions
	trust []publicKey
	rep   LogMending

	gone   bool // nothing was found of what this machine has seen behind the log's end
	fooled bool // what this machine has seen last is a record that somebody had put in another's place

	base    *ledger                  // the state before what is lost
	there   map[uint64][]logEvidence // readable records by number
	chain   []logEvidence            // those that are proven, the lowest first
	trusted map[publicKey]bool       // keys that are known to be enrolled
}

// logEvidence is one signed document that stands somewhere as a record.
type logEvidence struct {
	rec  *record
	key  publicKey
	hash hash
	file []byte
}

// settled holds what this machine has seen against the mended log.
func (m *logMender) settled(ctx context.Context) error {
	if len(m.rep.Gaps) == 0 && len(m.rep.Recovered) == 0 || m.opts.DryRun {
		return nil
	}
	m.r.client.suspect = nil
	if m.fooled {
		return m.r.client.replaceMark(m.r.log)
	}
	if err := m.r.client.refresh(ctx, m.r.log); err != nil {
		return err
	}
	return m.r.client.suspect
}

func (m *logMender) mend(ctx context.Context) error {
	last, _ := m.r.log.head()
	if err := m.gather(ctx); err != nil {
		return err
	}
	m.prove()
	if len(m.chain) == 0 {
		return m.tail(ctx, last+1)
	}
	first := m.chain[0]
	if err := m.putBack(ctx); err != nil {
		return err
	}
	switch before := first.rec.N - 1; {
	case m.r.log.hashOf(before) == first.rec.Prev, before == 0 && first.rec.Prev == m.r.headerHash:
		return nil // something else stood in the place of what was put back
	case before <= last: // something else stands in the place of the record before, and the log was read on with that
		last = m.believable(before - 1)
	}
	if seen := m.r.client.mark; seen.N > last && m.r.log.hashOf(seen.N) == seen.Hash {
		m.fooled = true
	}
	if err := m.rewind(ctx, last); err != nil {
		return err
	}
	if mark := m.r.client.mark; mark.N >= first.rec.N {
		if e, ok := m.proven(mark.N); ok && e.hash != mark.Hash {
			return &ErrRollback{Seen: mark.N, Found: last, Fork: true}
		}
	}
	gap := &record{Kind: recordGap, Mark: first.rec.N - 1, Lost: &first.rec.Prev}
	if gap.Mark-last > maxGap {
		return fmt.Errorf("%d records are gone, more than a gap stands for", gap.Mark-last)
	}
	return m.close(ctx, gap)
}

// lostEnd reports whether this machine has seen records behind the last one that is there.
func (m *logMender) lostEnd() bool {
	back, ok := errors.AsType[*ErrRollback](m.r.client.suspect)
	n, _ := m.r.log.head()
	return ok && !back.Fork && n < m.r.client.mark.N && !m.gone
}

// mendEnd closes the end of a log of which this machine remembers that it went on, where points are there that were committed in it: what
// it remembers is the hash of the last record. Where there are none, an older state may have been put back, and nothing is made of that.
func (m *logMender) mendEnd(ctx context.Context) error {
	m.gone = true
	seen := m.r.client.mark
	last, _ := m.r.log.head()
	if seen.N-last > maxGap {
		return nil
	}
	if err := m.gather(ctx); err != nil {
		return err
	}
	m.prove()
	m.chain = nil
	if err := m.rewind(ctx, last); err != nil {
		return err
	}
	gap := &record{Kind: recordGap, Mark: seen.N, Lost: &seen.Hash}
	var found LogGap
	if err := m.restate(ctx, gap, &found); err != nil || !slices.ContainsFunc(gap.Said, func(s restated) bool { return s.Kind == recordCommit }) {
		return err
	}
	gap.Said, m.gone = nil, false
	return m.close(ctx, gap)
}

// tail closes the log's end: what stands there can be read by nobody, and nothing is behind it.
func (m *logMender) tail(ctx context.Context, n uint64) error {
	for k, list := range m.there {
		if k > n && len(list) > 0 {
			for _, e := range list {
				m.stranger(e.key)
			}
		}
	}
	if len(m.rep.Unknown) > 0 {
		return ErrUnproven
	}
	if err := m.rewind(ctx, n-1); err != nil {
		return err
	}
	return m.close(ctx, &record{Kind: recordGap, Mark: n})
}

func (m *logMender) stranger(k publicKey) {
	text := publicKeyText(k)
	i := slices.IndexFunc(m.rep.Unknown, func(s LogSign) bool { return s.Key == text })
	if i < 0 {
		m.rep.Unknown = append(m.rep.Unknown, LogSign{Key: text})
		i = len(m.rep.Unknown) - 1
	}
	m.rep.Unknown[i].Records++
}

// gather reads every record from the last checkpoint on, in every place.
func (m *logMender) gather(ctx context.Context) error {
	var base uint64
	m.r.log.view(func(l *ledger) { base = l.base })
	m.there = map[uint64][]logEvidence{}
	numbers := map[uint64]bool{}
	for _, prefix := range copiesOf("log/") {
		for info, err := range m.r.st.List(ctx, prefix) {
			if err != nil {
				return err
			}
			if n, ok := parseNumber(strings.TrimPrefix(info.Name, prefix)); ok && n > base {
				numbers[n] = true
			}
		}
	}
	for n := range numbers {
		if err := m.read(ctx, n); err != nil {
			return err
		}
	}
	return nil
}

// read takes what its places hold of one record, and what can be put together from all of them.
func (m *logMender) read(ctx context.Context, n uint64) error {
	var files [][]byte
	for _, place := range copiesOf(logName(n)) {
		file, err := readSteady(ctx, m.r.st, place, maxVital)
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case isUnread(err): // it may be there
			return err
		case err == nil:
			files = append(files, file)
		}
	}
	seen := map[hash]bool{}
	for _, file := range append(files, together(files)) {
		e, ok := m.evidence(n, file)
		if ok && !seen[e.hash] {
			seen[e.hash] = true
			m.there[n] = append(m.there[n], e)
		}
	}
	return nil
}

func (m *logMender) evidence(n uint64, file []byte) (e logEvidence, ok bool) {
	var v vital
	if file == nil || v.parse(file, kindLog, m.r.header.ID, []object.Unwrapper{object.Clear{}}) != nil {
		return e, false
	}
	s, err := openSigned(v.content, signRecord, m.r.header.ID)
	if err != nil {
		return e, false
	}
	rec, err := decodeRecord(s.body)
	if err != nil || rec.N != n {
		return e, false
	}
	return logEvidence{rec, s.key, hashBytes(v.content), v.file}, true
}

// together takes from several damaged copies of a file the cells that are good in any of them.
func together(files [][]byte) []byte {
	longest := slices.MaxFunc(append(files, nil), func(a, b []byte) int { return len(a) - len(b) })
	if len(files) < 2 || len(longest)%cell.Size != 0 {
		return nil
	}
	out := slices.Clone(longest)
	for at := 0; at < len(out); at += cell.Size {
		for _, f := range files {
			if len(f) >= at+cell.Size && len(cell.CheckSpan(f[at:at+cell.Size], at/cell.Size)) == 0 {
				copy(out[at:], f[at:at+cell.Size])
				break
			}
		}
	}
	return out
}

// prove finds the chain of records that the newest record of a trusted key carries the hashes of.
func (m *logMender) prove() {
	m.chain = nil
	m.trusted = map[publicKey]bool{m.r.header.Root: true}
	trusted := m.trusted
	m.r.log.view(func(l *ledger) {
		for k := range l.keys {
			trusted[k] = true
		}
	})
	for _, k := range m.trust {
		trusted[k] = true
	}
	numbers := slices.Sorted(maps.Keys(m.there))
	for _, n := range numbers {
		for _, e := range m.there[n] {
			if e.rec.Kind == recordKey && e.key == m.r.header.Root && e.rec.Key != nil {
				trusted[*e.rec.Key] = true
			}
		}
	}
	last, _ := m.r.log.head()
	for _, n := range slices.Backward(numbers) {
		for _, e := range m.there[n] {
			if !trusted[e.key] {
				continue
			}
			chain := m.back(e)
			// One that ends in what was read already is no news: it lies before what is lost.
			if n > last || m.r.log.hashOf(n) != e.hash {
				m.chain = chain
			}
			return
		}
	}
}

// believable is the last of the records up to n, as they were read, that says something. What stands above it is signed by nobody who
// was let in: it counts for nothing, and may stand where others were.
func (m *logMender) believable(n uint64) uint64 {
	for ; n > 0; n-- {
		h := m.r.log.hashOf(n)
		if h == (hash{}) || slices.ContainsFunc(m.there[n], func(e logEvidence) bool { return e.hash == h && m.trusted[e.key] }) {
			break
		}
	}
	return n
}

// back walks from a record to those whose hashes it carries.
func (m *logMender) back(e logEvidence) (chain []logEvidence) {
	for {
		chain = append(chain, e)
		i := slices.IndexFunc(m.there[e.rec.N-1], func(b logEvidence) bool { return b.hash == e.rec.Prev })
		if i < 0 {
			slices.Reverse(chain)
			return chain
		}
		e = m.there[e.rec.N-1][i]
	}
}

func (m *logMender) proven(n uint64) (logEvidence, bool) {
	i := slices.IndexFunc(m.chain, func(e logEvidence) bool { return e.rec.N == n })
	if i < 0 {
		return logEvidence{}, false
	}
	return m.chain[i], true
}

// putBack gives proven records the places in which something else stands, where it would be read first.
func (m *logMender) putBack(ctx context.Context) error {
	last, _ := m.r.log.head()
	for _, e := range m.chain {
		if e.rec.N <= last && m.r.log.hashOf(e.rec.N) == e.hash {
			continue
		}
		if len(m.there[e.rec.N]) == 1 && m.whole(ctx, e) {
			continue // nothing else is there
		}
		if err := m.place(ctx, e.rec.N, e.file); err != nil {
			return err
		}
	}
	return nil
}

// whole reports whether a record's first place holds it.
func (m *logMender) whole(ctx context.Context, e logEvidence) bool {
	for _, place := range copiesOf(logName(e.rec.N)) {
		if file, err := readAll(ctx, m.r.st, place, maxVital); err == nil {
			if got, ok := m.evidence(e.rec.N, file); ok && got.hash == e.hash {
				return true
			}
		}
	}
	return false
}

// place puts a record into its three places: created where nothing is, and by one step where something else is.
func (m *logMender) place(ctx context.Context, n uint64, file []byte) error {
	if m.opts.DryRun {
		m.rep.Recovered = append(m.rep.Recovered, logName(n))
		return nil
	}
	for _, place := range copiesOf(logName(n)) {
		err := m.r.vital.createFirst(ctx, place, file)
		if errors.Is(err, fs.ErrExist) {
			mender, ok := store.As[store.Mender](m.r.st)
			if !ok {
				return fmt.Errorf("%s: %w", place, ErrCannotMend)
			}
			if err = m.outrun(ctx, n, file); err == nil {
				err = mender.Mend(ctx, place, file)
			}
		}
		if err != nil {
			return err
		}
		m.rep.Recovered = append(m.rep.Recovered, place)
	}
	return nil
}

// rewind is the state up to record n.
func (m *logMender) rewind(ctx context.Context, n uint64) error {
	m.base = m.r.reread(n)
	if n > 0 {
		if err := m.base.refresh(ctx); err != nil {
			return err
		}
	}
	if m.base.n != n {
		return &ErrCorrupt{Object: logName(m.base.n + 1), Reason: "it cannot be read either"}
	}
	return nil
}

// close writes the gap behind the state before it.
func (m *logMender) close(ctx context.Context, gap *record) error {
	found := LogGap{First: m.base.n + 1, Last: gap.Mark, Proven: gap.Lost != nil}
	if err := m.restate(ctx, gap, &found); err != nil {
		return err
	}
	m.rep.Gaps = append(m.rep.Gaps, found)
	if len(m.rep.Unknown) > 0 && !m.opts.Distrust && !m.opts.DryRun {
		m.rep.Gaps = m.rep.Gaps[:len(m.rep.Gaps)-1]
		return ErrUnproven
	}
	gap.Note = note(m.opts.Why)
	file, _, err := m.base.seal(m.r.keys.root, gap)
	if err != nil || m.opts.DryRun {
		return err
	}
	recovered := m.rep.Recovered
	if err = m.forewarn(ctx, found.First); err == nil {
		err = m.place(ctx, found.First, file)
	}
	m.rep.Recovered = recovered
	if err != nil {
		m.rep.Gaps = m.rep.Gaps[:len(m.rep.Gaps)-1]
	}
	return err
}

// forewarn says at the log's end that there will be a gap, before there is. Clients that were open all the time read the log anew and find
// it broken until then: so nothing is committed, under a session that the gap does not know, after the mender has looked at what there is.
// errOutrun: it was said just now, and what there is has to be looked at once more.
func (m *logMender) forewarn(ctx context.Context, first uint64) error {
	if len(m.chain) == 0 {
		return nil // what the next record has to follow is lost
	}
	for _, e := range m.chain {
		if e.rec.Kind == recordGap && e.rec.Mark == first && e.key == m.r.header.Root {
			return nil
		}
	}
	end := m.chain[len(m.chain)-1]
	for n, list := range m.there {
		if n > end.rec.N && len(list) > 0 {
			return nil // strangers' records, of which it is not known whether they count
		}
	}
	tail := m.r.reread(end.rec.N)
	tail.n, tail.last = end.rec.N, end.hash
	file, _, err := tail.seal(m.r.keys.root, &record{Kind: recordGap, Mark: first})
	if err != nil {
		return err
	}
	err = m.r.vital.create(ctx, logName(end.rec.N+1), file)
	if errors.Is(err, fs.ErrExist) {
		if err = m.read(ctx, end.rec.N+1); err == nil && len(m.there[end.rec.N+1]) == 0 {
			return nil // nobody can read what stands there
		}
	}
	return errors.Join(err, errOutrun)
}

// tellOthers says at the log's end which gaps there are by now. Clients that were open all the time have read what the gaps stand for,
// and sessions that began there are in no other client's state: they read the log anew, and do not take for committed what nobody counts.
func (m *logMender) tellOthers(ctx context.Context) error {
	if m.opts.DryRun {
		return nil
	}
	var silent []uint64 // also those of a mender that broke off
	m.r.log.view(func(l *ledger) {
		for first, g := range l.gaps {
			if !g.told {
				silent = append(silent, first)
			}
		}
	})
	slices.Sort(silent)
	for _, first := range silent {
		_, err := m.r.log.append(ctx, m.r.keys.root, func() (*record, error) {
			return &record{Kind: recordGap, Mark: first}, nil
		})
		if err != nil {
			return fmt.Errorf("clients that are open are not told of the gap: %w", err)
		}
		m.r.log.view(func(l *ledger) {
			if g, ok := l.gaps[first]; ok {
				g.told = true
				l.gaps[first] = g
			}
		})
	}
	return nil
}

// errOutrun says that somebody has written a record where the mender was about to.
var errOutrun = errors.New("a record has come into being while the log was mended")

// outrun reports whether a record stands in a place by now that was not there when it was looked at, and is not the mender's own.
func (m *logMender) outrun(ctx context.Context, n uint64, own []byte) error {
	before := m.there[n]
	m.there[n] = nil
	err := m.read(ctx, n)
	for _, e := range m.there[n] {
		if !bytes.Equal(e.file, own) && !slices.ContainsFunc(before, func(b logEvidence) bool { return b.hash == e.hash }) {
			return errors.Join(err, errOutrun)
		}
	}
	m.there[n] = before
	return err
}

func spoken(t time.Time) string { return t.UTC().Format("2006-01-02 15:04") }
