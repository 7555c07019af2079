package nbd

import (
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"slices"
	"time"
)

// terms are what client and server agreed on.
type terms struct {
	form     form
	size     int64
	flags    uint16
	min      int64 // unit of access in bytes, a power of two
	prefer   int64
	max      int64             // bytes of one request
	contexts map[string]uint32 // ids of the metadata contexts that were selected
}

func (t *terms) has(flag uint16) bool { return t.flags&flag != 0 }

// haggling is the client's side of a handshake. It reads exactly what belongs to it, so that nothing that was sent in
// the clear is left over when TLS begins.
type haggling struct {
	raw  net.Conn // what is closed
	conn net.Conn // raw, or TLS over it
	opts *Options
	addr Address
	form form

	zeroes bool // the answer to EXPORT_NAME ends in 124 zeros
}

// connect opens a connection and shakes hands up to where options are chosen.
func connect(ctx context.Context, addr Address, opts *Options) (*haggling, error) {
	raw, err := opts.dial(ctx, addr.Network, addr.Host)
	if err != nil {
		return nil, fmt.Errorf("NBD: connect: %w", err)
	}
	h := &haggling{raw: raw, conn: raw, opts: opts, addr: addr}
	if err := h.within(ctx, h.greet); err != nil {
		raw.Close()
		return nil, err
	}
	return h, nil
}

// within does a step with the handshake's deadline, and ends it early with the context. The connection's own deadline is
// there for one whose context cannot wake it, and lies later, so that the reason is always the context's.
func (h *haggling) within(ctx context.Context, step func(context.Context) error) error {
	if err := h.raw.SetDeadline(time.Now().Add(h.opts.Timeout + time.Second)); err != nil {
		return fmt.Errorf("NBD handshake: %w: %w", ErrLost, err)
	}
	ctx, cancel := context.WithTimeout(ctx, h.opts.Timeout)
	defer cancel()
	stop := context.AfterFunc(ctx, func() { h.raw.SetDeadline(time.Unix(1, 0)) })
	err := step(ctx)
	if !stop() { // the deadline is set, or will be: the connection is of no use
		return fmt.Errorf("NBD handshake: %w", ctx.Err())
	}
	return err
}

func (h *haggling) read(p []byte) error {
	if _, err := io.ReadFull(h.conn, p); err != nil {
		return fmt.Errorf("NBD handshake: %w: %w", ErrLost, noEOF(err))
	}
	return nil
}

func (h *haggling) write(p []byte) error {
	if _, err := h.conn.Write(p); err != nil {
		return fmt.Errorf("NBD handshake: %w: %w", ErrLost, err)
	}
	return nil
}

// noEOF: an end of the stream in the middle is not the end of an image.
func noEOF(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

func (h *haggling) greet(ctx context.Context) error {
	var b [18]byte
	if err := h.read(b[:16]); err != nil {
		return err
	}
	if magic := binary.BigEndian.Uint64(b[:]); magic != magicGreeting {
		return broken("the server greets with %#x", magic)
	}
	switch magic := binary.BigEndian.Uint64(b[8:]); magic {
	case magicOption:
	case magicOldstyle:
		return fmt.Errorf("the NBD server speaks the old style of the protocol: %w", errors.ErrUnsupported)
	default:
		return broken("the server's greeting goes on with %#x", magic)
	}
	if err := h.read(b[16:18]); err != nil {
		return err
	}
	flags := binary.BigEndian.Uint16(b[16:])
	if flags&flagFixedNewstyle == 0 {
		return fmt.Errorf("the NBD server does not speak the fixed newstyle protocol: %w", errors.ErrUnsupported)
	}
	if err := h.write(binary.BigEndian.AppendUint32(nil, uint32(flags&(flagFixedNewstyle|flagNoZeroes)))); err != nil {
		return err
	}
	h.zeroes = flags&flagNoZeroes == 0
	return h.secure(ctx)
}

// secure starts TLS where the address or the options ask for it. There is no going on without.
func (h *haggling) secure(ctx context.Context) error {
	if !h.addr.TLS && h.opts.TLS == nil {
		return nil
	}
	if err := h.ask(optStartTLS, nil, nil); err != nil {
		return fmt.Errorf("%w: %w", ErrTLS, err)
	}
	config := &tls.Config{MinVersion: tls.VersionTLS12}
	if h.opts.TLS != nil {
		config = h.opts.TLS.Clone()
	}
	if config.ServerName == "" {
		config.ServerName = h.addr.serverName()
	}
	conn := tls.Client(h.raw, config)
	if err := conn.HandshakeContext(ctx); err != nil {
		return fmt.Errorf("NBD: TLS: %w", err)
	}
	h.conn = conn
	return nil
}

// ask sends one option and takes its replies until the last: each goes to take, which may be nil where none but an
// acknowledgement is expected. An *OptionError is a refusal, after which the handshake can go on.
func (h *haggling) ask(o option, data []byte, take func(kind uint32, data []byte) error) error {
	b := binary.BigEndian.AppendUint64(nil, magicOption)
	b = binary.BigEndian.AppendUint32(b, uint32(o))
	b = binary.BigEndian.AppendUint32(b, uint32(len(data)))
	if err := h.write(append(b, data...)); err != nil {
		return err
	}
	limit := maxReplies
	if o == optList {
		limit = maxExports
	}
	for range limit {
		kind, data, err := h.reply(o)
		switch {
		case err != nil:
			return err
		case kind == repAck:
			return nil
		case kind&repError != 0:
			return &OptionError{Option: o.String(), Code: kind, Message: printable(data)}
		case take == nil:
			return broken("reply %d to %v", kind, o)
		}
		if err := take(kind, data); err != nil {
			return err
		}
	}
	return broken("more than %d replies to %v", limit, o)
}

func (h *haggling) reply(o option) (kind uint32, data []byte, err error) {
	var b [20]byte
	if err := h.read(b[:]); err != nil {
		return 0, nil, err
	}
	if magic := binary.BigEndian.Uint64(b[:]); magic != magicOptionReply {
		return 0, nil, broken("a reply to %v starts with %#x", o, magic)
	}
	if got := option(binary.BigEndian.Uint32(b[8:])); got != o {
		return 0, nil, broken("a reply to %v where %v was asked", got, o)
	}
	n := binary.BigEndian.Uint32(b[16:])
	if n > maxOptionData {
		return 0, nil, broken("a reply of %d bytes to %v", n, o)
	}
	data = make([]byte, n)
	return binary.BigEndian.Uint32(b[12:]), data, h.read(data)
}

// printable is what a server says to people, cut to what a line holds.
func printable(b []byte) string { return string(b[:min(len(b), 512)]) }

// refused reports whether the server turned an option down in good order.
func refused(err error) bool {
	_, ok := errors.AsType[*OptionError](err)
	return ok
}

// agree chooses the form of messages and the metadata contexts, and enters the transmission.
func (h *haggling) agree(context.Context) (*terms, error) {
	if err := h.chooseForm(); err != nil {
		return nil, err
	}
	t := &terms{form: h.form, min: 1, prefer: 4096, max: maxPayload}
	if t.form != formSimple {
		contexts, err := h.contexts(optSetMetaContext, append([]string{baseAllocation}, h.opts.Contexts...))
		if err != nil && !refused(err) {
			return nil, err
		}
		t.contexts = contexts
	}
	if err := h.enter(t); err != nil {
		return nil, err
	}
	return t, t.check()
}

func (h *haggling) chooseForm() error {
	for _, try := range []struct {
		form form
		o    option
	}{{formExtended, optExtendedHeaders}, {formStructured, optStructuredReply}} {
		if h.opts.most != nil && try.form > *h.opts.most {
			continue
		}
		err := h.ask(try.o, nil, nil)
		if err == nil {
			h.form = try.form
			return nil
		}
		if !refused(err) {
			return err
		}
		if errors.Is(err, ErrTLS) {
			return err // no option will succeed
		}
	}
	return nil
}

// contexts asks for metadata contexts by name. Those that the server does not have are not in what is returned.
func (h *haggling) contexts(o option, names []string) (map[string]uint32, error) {
	data := appendString(nil, h.addr.Export)
	data = binary.BigEndian.AppendUint32(data, uint32(len(names)))
	for _, name := range names {
		data = appendString(data, name)
	}
	found := map[string]uint32{}
	err := h.ask(o, data, func(kind uint32, data []byte) error {
		if kind != repMetaContext || len(data) < 4 || len(data) > 4+maxString {
			return broken("reply %d of %d bytes to %v", kind, len(data), o)
		}
		name, id := string(data[4:]), binary.BigEndian.Uint32(data)
		if o == optSetMetaContext && !slices.Contains(names, name) {
			return broken("the metadata context %q was not asked for", name)
		}
		if _, twice := found[name]; twice {
			return broken("the metadata context %q is named twice", name)
		}
		found[name] = id
		return nil
	})
	if err != nil {
		return nil, err
	}
	return found, nil
}

// enter starts the transmission by GO, or for a server that does not know it by EXPORT_NAME.
func (h *haggling) enter(t *terms) error {
	data := appendString(nil, h.addr.Export)
	data = binary.BigEndian.AppendUint16(data, 1)
	data = binary.BigEndian.AppendUint16(data, infoBlockSize)
	known := false
	err := h.ask(optGo, data, func(kind uint32, data []byte) error {
		if kind != repInfo || len(data) < 2 {
			return broken("reply %d of %d bytes to GO", kind, len(data))
		}
		known = known || binary.BigEndian.Uint16(data) == infoExport
		return t.learn(data)
	})
	if e, ok := errors.AsType[*OptionError](err); ok && e.Code == repErrUnsupported && t.form != formExtended {
		return h.enterByName(t)
	}
	if err == nil && !known {
		return broken("the server did not tell the export's size")
	}
	return err
}

func (t *terms) learn(data []byte) error {
	switch binary.BigEndian.Uint16(data) {
	case infoExport:
		if len(data) != 12 {
			return broken("the export is described in %d bytes", len(data))
		}
		return t.export(data[2:])
	case infoBlockSize:
		if len(data) != 14 {
			return broken("the block sizes take %d bytes", len(data))
		}
		t.min = int64(binary.BigEndian.Uint32(data[2:]))
		t.prefer = int64(binary.BigEndian.Uint32(data[6:]))
		t.max = int64(binary.BigEndian.Uint32(data[10:]))
	}
	return nil
}

func (t *terms) export(b []byte) error {
	size := binary.BigEndian.Uint64(b)
	if size > math.MaxInt64-maxPayload {
		return broken("the export's size is %d bytes", size)
	}
	t.size, t.flags = int64(size), binary.BigEndian.Uint16(b[8:])
	return nil
}

func (h *haggling) enterByName(t *terms) error {
	b := binary.BigEndian.AppendUint64(nil, magicOption)
	b = binary.BigEndian.AppendUint32(b, uint32(optExportName))
	if err := h.write(appendString(b, h.addr.Export)); err != nil {
		return err
	}
	answer := make([]byte, 10, 10+124)
	if h.zeroes {
		answer = answer[:10+124]
	}
	if err := h.read(answer); err != nil {
		return err
	}
	return t.export(answer[:10])
}

// check holds what the server demands against what the specification allows it to.
func (t *terms) check() error {
	switch {
	case t.min < 1 || t.min > maxBlock || t.min&(t.min-1) != 0:
		return broken("the smallest block has %d bytes", t.min)
	case t.max < t.min || t.max < 512:
		return broken("a request has at most %d bytes, and a block %d", t.max, t.min)
	case t.prefer < t.min || t.prefer&(t.prefer-1) != 0:
		return broken("the preferred block has %d bytes, and the smallest %d", t.prefer, t.min)
	case !t.has(flagHasFlags):
		return broken("the export's flags are %#x", t.flags)
	}
	t.max = min(t.max, maxPayload) &^ (t.min - 1)
	return nil
}

// abort ends a handshake in good order. The server need not answer.
func (h *haggling) abort() {
	b := binary.BigEndian.AppendUint64(nil, magicOption)
	b = binary.BigEndian.AppendUint32(b, uint32(optAbort))
	h.conn.SetDeadline(time.Now().Add(time.Second))
	h.conn.Write(binary.BigEndian.AppendUint32(b, 0))
	h.raw.Close()
}
