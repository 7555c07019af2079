package nbd

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"sync"
	"syscall"
	"time"

	"github.com/hikae/hikae/pipe"
)

// session is the server's side of one connection in transmission. Its reader takes requests one after another and hands
// each to a worker; answers go out as they are ready, one message at a time.
//
//	reader ── slots, budget ──► workers ──── writing ────► connection
//
// Content is handled in portions, so that what a request holds in memory does not grow with its length.
type session struct {
	opts   *ServerOptions
	raw    net.Conn
	conn   net.Conn
	in     *bufio.Reader
	form   form
	export *Export
	size   uint64
	status bool // base:allocation was selected

	slots   chan struct{}
	budget  *budget
	workers sync.WaitGroup

	writing sync.Mutex
	broken  error // guarded by writing: no more answers
}

// portion is how much content is read, written and held at a time.
const portion = 1 << 20

func newSession(n *negotiation) *session {
	o := &n.server.opts
	return &session{
		opts: o, raw: n.raw, conn: n.conn, in: bufio.NewReaderSize(n.conn, 64<<10), form: n.form, export: n.export,
		size: uint64(n.export.Image.Size()), status: n.picked,
		slots: make(chan struct{}, o.InFlight), budget: newBudget(o.BytesInFlight),
	}
}

// run answers requests until the client leaves. When ctx ends, requests that were read are answered within the grace.
func (s *session) run(ctx context.Context) error {
	work, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	ended := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(ended)
		s.raw.SetReadDeadline(time.Unix(1, 0))
		time.AfterFunc(s.opts.Grace, cancel)
	})
	err := s.readAll(ctx, work)
	if err != nil && ctx.Err() == nil {
		cancel() // nobody is there to take the answers
	}
	s.workers.Wait()
	if !stop() {
		<-ended
		err = ctx.Err()
	}
	if s.conn != s.raw {
		cut := time.AfterFunc(grace, func() { s.raw.Close() })
		s.conn.Close() // tells the peer that the end is not a cut
		cut.Stop()
	}
	return err
}

func (s *session) readAll(ctx, work context.Context) error {
	header := make([]byte, s.form.requestLen())
	for {
		if _, err := io.ReadFull(s.in, header); err != nil {
			if err == io.EOF {
				return nil // a client may simply go
			}
			return lost(err)
		}
		q, err := parseRequest(header, s.form)
		if err != nil {
			return err
		}
		if q.cmd == cmdDisconnect {
			return nil
		}
		select {
		case s.slots <- struct{}{}:
		case <-ctx.Done():
			return ctx.Err()
		}
		if err := s.accept(ctx, work, q); err != nil {
			<-s.slots
			return err
		}
	}
}

// accept takes what a request carries and starts a worker for it. The worker gives the slot back.
func (s *session) accept(ctx, work context.Context, q request) error {
	payload := uint64(0)
	if s.form == formExtended && q.flags&cmdFlagPayload != 0 || s.form != formExtended && q.cmd == cmdWrite {
		payload = q.n
	}
	if payload > maxPayload {
		return broken("a %v with %d bytes", q.cmd, payload)
	}
	refusal := s.check(q)
	var data []byte
	if payload > 0 {
		stop := s.hurry(ctx)
		defer stop()
		if refusal != 0 || payload > portion {
			var err error
			if refusal, err = s.stream(work, q, payload, refusal); err != nil {
				return err
			}
			q.n = 0 // it is done
		} else {
			if err := s.budget.take(work, portionOf(payload)); err != nil {
				return err
			}
			data = buffer(int(payload))
			if _, err := io.ReadFull(s.in, data); err != nil {
				s.release(data)
				return lost(err)
			}
		}
	}
	s.workers.Go(func() {
		defer func() { <-s.slots }()
		s.answer(work, q, data, refusal)
	})
	return nil
}

// hurry sets a deadline for the rest of a message.
func (s *session) hurry(ctx context.Context) (stop func()) {
	s.raw.SetReadDeadline(time.Now().Add(s.opts.Timeout))
	return func() {
		s.raw.SetReadDeadline(time.Time{})
		if ctx.Err() != nil {
			s.raw.SetReadDeadline(time.Unix(1, 0)) // the end of the server may have come in between
		}
	}
}

// portionOf is what a buffer of n bytes counts for: its capacity.
func portionOf(n uint64) int {
	c := uint64(smallestBuffer)
	for c < n {
		c *= 2
	}
	return int(c)
}

func (s *session) release(b []byte) {
	if b != nil {
		n := cap(b)
		recycle(b)
		s.budget.give(n)
	}
}

// stream takes a long write portion by portion, and the payload of a refused request.
func (s *session) stream(ctx context.Context, q request, n uint64, refusal Errno) (Errno, error) {
	if err := s.budget.take(ctx, portion); err != nil {
		return 0, err
	}
	b := buffer(portion)
	defer s.release(b)
	disk, _ := s.export.disk()
	for at := uint64(0); at < n; {
		part := b[:min(n-at, portion)]
		s.raw.SetReadDeadline(time.Now().Add(s.opts.Timeout))
		if _, err := io.ReadFull(s.in, part); err != nil {
			return 0, lost(err)
		}
		if refusal == 0 {
			if _, err := disk.WriteAt(ctx, part, int64(q.off+at)); err != nil {
				refusal = errnoOf(err)
			}
		}
		at += uint64(len(part))
	}
	return refusal, nil
}

// flagsFor are the flags that a command may have.
var flagsFor = map[command]uint16{
	cmdRead: cmdFlagFUA | cmdFlagDontFragment, cmdWrite: cmdFlagFUA | cmdFlagPayload, cmdFlush: cmdFlagFUA, cmdTrim: cmdFlagFUA,
	cmdCache: cmdFlagFUA, cmdWriteZeroes: cmdFlagFUA | cmdFlagNoHole, cmdBlockStatus: cmdFlagFUA | cmdFlagOne,
}

// check refuses what cannot be done, before anything is done.
func (s *session) check(q request) Errno {
	flags, known := flagsFor[q.cmd]
	_, writable := s.export.disk()
	writes := q.cmd == cmdWrite || q.cmd == cmdTrim || q.cmd == cmdWriteZeroes
	outside := q.n > s.size || q.off > s.size-q.n
	switch {
	case !known || q.flags&^flags != 0:
		return EINVAL
	case writes && !writable:
		return EPERM
	case q.cmd == cmdWrite && s.form == formExtended && q.flags&cmdFlagPayload == 0:
		return EINVAL
	case outside && (q.cmd == cmdWrite || q.cmd == cmdWriteZeroes):
		return ENOSPC
	case outside:
		return EINVAL
	case q.cmd == cmdRead && q.n > maxPayload, q.cmd == cmdRead && q.flags&cmdFlagDontFragment != 0 && q.n > portion:
		return EOVERFLOW
	case q.cmd == cmdBlockStatus && (!s.status || q.n == 0):
		return EINVAL
	case s.form == formSimple && q.flags&cmdFlagDontFragment != 0:
		return EINVAL
	}
	return 0
}

// answer does what a request asks for.
func (s *session) answer(ctx context.Context, q request, data []byte, refusal Errno) {
	defer s.release(data)
	if refusal != 0 {
		s.refuse(q, refusal, "")
		return
	}
	var err error
	switch disk, _ := s.export.disk(); q.cmd {
	case cmdRead:
		s.answerRead(ctx, q)
		return
	case cmdBlockStatus:
		s.answerStatus(ctx, q)
		return
	case cmdWrite:
		if q.n > 0 {
			_, err = disk.WriteAt(ctx, data, int64(q.off))
		}
	case cmdWriteZeroes, cmdTrim: // a range that is not needed any more reads as zero
		err = disk.Zero(ctx, int64(q.off), int64(q.n))
	case cmdFlush:
		err = s.flush(ctx)
	}
	if err == nil && q.flags&cmdFlagFUA != 0 {
		err = s.flush(ctx)
	}
	if err != nil {
		s.refuse(q, errnoOf(err), err.Error())
		return
	}
	s.done(q)
}

func (s *session) flush(ctx context.Context) error {
	if disk, ok := s.export.disk(); ok {
		return disk.Flush(ctx)
	}
	return nil
}

// errnoOf is the number for an error of an image.
func errnoOf(err error) Errno {
	switch {
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT), errors.Is(err, syscall.EFBIG):
		return ENOSPC
	case errors.Is(err, fs.ErrPermission):
		return EPERM
	case errors.Is(err, fs.ErrInvalid):
		return EINVAL
	case errors.Is(err, context.Canceled):
		return ESHUTDOWN
	}
	return EIO
}

// send writes one message. What cannot be written ends the connection: the stream is cut in the middle.
func (s *session) send(parts ...[]byte) error {
	s.writing.Lock()
	defer s.writing.Unlock()
	return s.sendLocked(parts...)
}

func (s *session) sendLocked(parts ...[]byte) error {
	if s.broken != nil {
		return s.broken
	}
	s.raw.SetWriteDeadline(time.Now().Add(s.opts.Timeout))
	buffers := net.Buffers(parts)
	if _, err := buffers.WriteTo(s.conn); err != nil {
		s.cut(err)
	}
	return s.broken
}

func (s *session) cut(err error) {
	s.broken = lost(err)
	s.raw.Close() // the reader ends too
}

// simple reports whether a request is answered without chunks: those that carry no data, in the old form.
func (s *session) simple() bool { return s.form == formSimple }

func simpleReply(q request, errno Errno) []byte {
	b := binary.BigEndian.AppendUint32(make([]byte, 0, 16), magicSimpleReply)
	b = binary.BigEndian.AppendUint32(b, uint32(errno))
	return binary.BigEndian.AppendUint64(b, q.cookie)
}

func (s *session) header(q request, flags, kind uint16, n int) []byte {
	h := chunk{flags: flags, kind: kind, cookie: q.cookie, off: q.off, n: uint64(n)}
	return h.append(make([]byte, 0, 48), s.form)
}

func (s *session) done(q request) {
	if s.simple() {
		s.send(simpleReply(q, 0))
		return
	}
	s.send(s.header(q, chunkFlagDone, chunkNone, 0))
}

// refuse fails a request. The message is for people, and cut to what the protocol allows.
func (s *session) refuse(q request, errno Errno, message string) {
	if s.simple() {
		s.send(simpleReply(q, errno))
		return
	}
	message = message[:min(len(message), 512)]
	b := s.header(q, chunkFlagDone, chunkError, 6+len(message))
	b = binary.BigEndian.AppendUint32(b, uint32(errno))
	b = binary.BigEndian.AppendUint16(b, uint16(len(message)))
	s.send(append(b, message...))
}

// answerRead sends a range portion by portion.
func (s *session) answerRead(ctx context.Context, q request) {
	n := min(q.n, portion)
	if n == 0 {
		s.done(q)
		return
	}
	if err := s.budget.take(ctx, portionOf(n)); err != nil {
		s.refuse(q, ESHUTDOWN, "")
		return
	}
	b := buffer(int(n))
	defer s.release(b)
	if s.simple() {
		s.sendWhole(ctx, q, b)
		return
	}
	for at := uint64(0); at < q.n; {
		part := b[:min(q.n-at, uint64(len(b)))]
		if got, err := s.export.Image.ReadAt(ctx, part, int64(q.off+at)); got < len(part) {
			s.refuseAt(q, q.off+at+uint64(max(got, 0)), err)
			return
		}
		at += uint64(len(part))
		if s.sendPart(q, part, at) != nil {
			return
		}
	}
}

// sendPart sends what was read up to byte at of the request: a data chunk, or where it is all zeros a hole.
func (s *session) sendPart(q request, part []byte, at uint64) error {
	flags := uint16(0)
	if at == q.n {
		flags = chunkFlagDone
	}
	off := q.off + at - uint64(len(part))
	if q.flags&cmdFlagDontFragment == 0 && isZero(part) {
		b := binary.BigEndian.AppendUint64(s.header(q, flags, chunkHole, 12), off)
		return s.send(binary.BigEndian.AppendUint32(b, uint32(len(part))))
	}
	return s.send(binary.BigEndian.AppendUint64(s.header(q, flags, chunkData, 8+len(part)), off), part)
}

// isZero compares the bytes with themselves, one further: the library does that many at a time.
func isZero(p []byte) bool { return p[0] == 0 && bytes.Equal(p[1:], p[:len(p)-1]) }

func (s *session) refuseAt(q request, off uint64, err error) {
	if err == nil {
		err = fmt.Errorf("%w: a short read without an error", pipe.ErrBroken)
	}
	message := err.Error()
	message = message[:min(len(message), 512)]
	b := s.header(q, chunkFlagDone, chunkErrorOffset, 14+len(message))
	b = binary.BigEndian.AppendUint32(b, uint32(errnoOf(err)))
	b = binary.BigEndian.AppendUint16(b, uint16(len(message)))
	s.send(binary.BigEndian.AppendUint64(append(b, message...), off))
}

// sendWhole sends a simple answer: its header promises all of the data. What fails after that can only be told by an end
// of the connection.
func (s *session) sendWhole(ctx context.Context, q request, b []byte) {
	if n, err := s.export.Image.ReadAt(ctx, b, int64(q.off)); n < len(b) {
		s.refuse(q, errnoOf(err), "")
		return
	}
	s.writing.Lock()
	defer s.writing.Unlock()
	err := s.sendLocked(simpleReply(q, 0), b)
	for at := uint64(len(b)); at < q.n && err == nil; {
		part := b[:min(q.n-at, uint64(len(b)))]
		if n, err := s.export.Image.ReadAt(ctx, part, int64(q.off+at)); n < len(part) {
			s.cut(fmt.Errorf("read in the middle of an answer: %w", err))
			return
		}
		err = s.sendLocked(part)
		at += uint64(len(part))
	}
}

// maxDescribed is the most ranges in one answer: what a client needs beyond it, it asks for again.
const maxDescribed = 4096

// answerStatus answers from the extents of the image.
func (s *session) answerStatus(ctx context.Context, q request) {
	list, err := s.describe(ctx, q)
	if len(list) == 0 {
		s.refuse(q, errnoOf(err), fmt.Sprint(err))
		return
	}
	if s.form == formExtended {
		b := s.header(q, chunkFlagDone, chunkStatusWide, 8+16*len(list))
		b = binary.BigEndian.AppendUint32(b, allocationID)
		b = binary.BigEndian.AppendUint32(b, uint32(len(list)))
		for _, st := range list {
			b = binary.BigEndian.AppendUint64(b, uint64(st.Len))
			b = binary.BigEndian.AppendUint64(b, st.Flags)
		}
		s.send(b)
		return
	}
	b := s.header(q, chunkFlagDone, chunkStatus, 4+8*len(list))
	b = binary.BigEndian.AppendUint32(b, allocationID)
	for _, st := range list {
		b = binary.BigEndian.AppendUint32(b, uint32(st.Len))
		b = binary.BigEndian.AppendUint32(b, uint32(st.Flags))
	}
	s.send(b)
}

// describe collects ranges, neighbours of one state as one. What came before an error stands.
//
// Zero is told in whole units alone, the rest of them is data: QEMU's clients count in sectors of 512 bytes, and where a
// range of zeros ended inside one, qemu-img 7.2 took the sector's data for zeros.
func (s *session) describe(ctx context.Context, q request) (list []Status, err error) {
	const unit = preferredBlock
	size := int64(s.size)
	from, end := int64(q.off), int64(q.off+q.n)
	start := from &^ (unit - 1)
	d := description{pos: from, end: end, most: maxDescribed}
	if q.flags&cmdFlagOne != 0 {
		d.most = 1
	}
	zeros := span{} // the run of zeros that may go on
	looked := 0
	for e, err := range pipe.Extents(ctx, s.export.Image, start, min(size, (end+unit-1)&^(unit-1))-start) {
		if err != nil {
			return d.list, err
		}
		if looked++; looked > maxLooked {
			end = e.Off &^ (unit - 1) // it is an answer too, and the client asks for the rest
			break
		}
		if !s.readsZero(e.Kind) {
			continue
		}
		if zeros.to != uint64(e.Off) || zeros.to == 0 {
			if !d.add(zeros, size) {
				return d.list, nil
			}
			zeros.from = uint64(e.Off)
		}
		zeros.to = uint64(e.End())
	}
	if d.add(zeros, size) && d.pos < end {
		d.put(end, 0)
	}
	return d.list, nil
}

// maxLooked is the most extents of the image that are looked at for one answer, so that it comes in time.
const maxLooked = 1 << 16

// readsZero reports whether a range of a kind is sure to read as zero.
func (s *session) readsZero(k pipe.Kind) bool {
	return k == pipe.Zero || k.Dropped() && s.export.DroppedIsZero
}

// description is the answer to a block status as it grows.
type description struct {
	list     []Status
	pos, end int64
	most     int
}

// add takes a run of zeros, cut to whole units; what lies before it is data. It reports false when the answer is full.
func (d *description) add(zeros span, size int64) bool {
	const unit = preferredBlock
	from, to := (int64(zeros.from)+unit-1)&^(unit-1), int64(zeros.to)
	if to != size {
		to &^= unit - 1
	}
	from, to = max(from, d.pos), min(to, d.end)
	if from >= to {
		return true
	}
	return d.put(from, 0) && d.put(to, stateHole|stateZero)
}

func (d *description) put(to int64, flags uint64) bool {
	if to > d.pos {
		d.list = append(d.list, Status{Off: d.pos, Len: to - d.pos, Flags: flags})
		d.pos = to
	}
	return len(d.list) < d.most
}
