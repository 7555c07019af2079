package nbd

import (
	"context"
	"crypto/tls"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"strings"
)

// negotiation is the server's side of a handshake. It reads exactly what belongs to it: what a client sent in the clear
// behind STARTTLS goes into the TLS handshake and fails there.
type negotiation struct {
	server *Server
	raw    net.Conn
	conn   net.Conn // raw, or TLS over it

	flags   uint32 // the client's
	secure  bool
	form    form
	context string  // the export that base:allocation was selected for
	picked  bool    // it was selected
	export  *Export // set when the transmission begins
}

// allocationID is what the one metadata context is called in answers.
const allocationID = 1

func (n *negotiation) read(p []byte) error {
	if _, err := io.ReadFull(n.conn, p); err != nil {
		return lost(err)
	}
	return nil
}

func (n *negotiation) write(p []byte) error {
	if _, err := n.conn.Write(p); err != nil {
		return lost(err)
	}
	return nil
}

// run answers options until one enters the transmission, or the client leaves.
func (n *negotiation) run(ctx context.Context) error {
	b := binary.BigEndian.AppendUint64(nil, magicGreeting)
	b = binary.BigEndian.AppendUint64(b, magicOption)
	if err := n.write(binary.BigEndian.AppendUint16(b, flagFixedNewstyle|flagNoZeroes)); err != nil {
		return err
	}
	var flags [4]byte
	if err := n.read(flags[:]); err != nil {
		return err
	}
	if n.flags = binary.BigEndian.Uint32(flags[:]); n.flags&^(flagFixedNewstyle|flagNoZeroes) != 0 {
		return broken("the client's flags are %#x", n.flags)
	}
	for range maxOptions {
		o, data, err := n.option()
		if err != nil {
			return err
		}
		if done, err := n.answer(ctx, o, data); done || err != nil {
			return err
		}
	}
	return broken("more than %d options", maxOptions)
}

func (n *negotiation) option() (option, []byte, error) {
	var b [16]byte
	if err := n.read(b[:]); err != nil {
		return 0, nil, err
	}
	if magic := binary.BigEndian.Uint64(b[:]); magic != magicOption {
		return 0, nil, broken("an option starts with %#x", magic)
	}
	o, size := option(binary.BigEndian.Uint32(b[8:])), binary.BigEndian.Uint32(b[12:])
	if size > maxOptionData {
		return 0, nil, broken("%v with %d bytes", o, size)
	}
	data := make([]byte, size)
	return o, data, n.read(data)
}

// reply sends one reply to an option.
func (n *negotiation) reply(o option, kind uint32, data []byte) error {
	b := binary.BigEndian.AppendUint64(make([]byte, 0, 20+len(data)), magicOptionReply)
	b = binary.BigEndian.AppendUint32(b, uint32(o))
	b = binary.BigEndian.AppendUint32(b, kind)
	b = binary.BigEndian.AppendUint32(b, uint32(len(data)))
	return n.write(append(b, data...))
}

// answer answers one option. done means that the options are over: the transmission begins where an export is set.
func (n *negotiation) answer(ctx context.Context, o option, data []byte) (done bool, err error) {
	if n.server.opts.TLS != nil && !n.secure && o != optStartTLS && o != optAbort {
		if o == optExportName {
			return true, fmt.Errorf("NBD: the client asks for an export without TLS: %w", ErrTLS) // it cannot be told
		}
		return false, n.reply(o, repErrTLSRequired, []byte("this server answers with TLS only"))
	}
	switch o {
	case optExportName:
		return true, n.enterByName(string(data))
	case optAbort:
		return true, n.reply(o, repAck, nil)
	case optStartTLS:
		return false, n.startTLS(ctx, data)
	case optList:
		return false, n.list(data)
	case optInfo, optGo:
		return n.describe(o, data)
	case optStructuredReply, optExtendedHeaders:
		return false, n.setForm(o, data)
	case optListMetaContext, optSetMetaContext:
		return false, n.contexts(o, data)
	}
	return false, n.reply(o, repErrUnsupported, nil)
}

func (n *negotiation) startTLS(ctx context.Context, data []byte) error {
	switch {
	case len(data) > 0 || n.secure:
		return n.reply(optStartTLS, repErrInvalid, []byte("TLS is started once, without data"))
	case n.server.opts.TLS == nil:
		return n.reply(optStartTLS, repErrPolicy, []byte("this server has no certificate"))
	}
	if err := n.reply(optStartTLS, repAck, nil); err != nil {
		return err
	}
	conn := tls.Server(n.raw, n.server.opts.TLS)
	if err := conn.HandshakeContext(ctx); err != nil {
		return fmt.Errorf("NBD: TLS: %w", err)
	}
	n.conn, n.secure = conn, true
	n.form, n.picked = formSimple, false // what was agreed on in the clear is void
	return nil
}

func (n *negotiation) list(data []byte) error {
	if len(data) > 0 {
		return n.reply(optList, repErrInvalid, []byte("LIST takes no data"))
	}
	for _, e := range n.server.exports {
		if err := n.reply(optList, repServer, append(appendString(nil, e.Name), e.Description...)); err != nil {
			return err
		}
	}
	return n.reply(optList, repAck, nil)
}

func (n *negotiation) setForm(o option, data []byte) error {
	form := formStructured
	if o == optExtendedHeaders {
		form = formExtended
	}
	switch most := n.server.opts.most; {
	case len(data) > 0:
		return n.reply(o, repErrInvalid, []byte("the option takes no data"))
	case most != nil && form > *most:
		return n.reply(o, repErrUnsupported, nil)
	case n.form == formExtended && form == formStructured:
		return n.reply(o, repErrExtendedFirst, []byte("extended headers are in use"))
	}
	n.form = form
	return n.reply(o, repAck, nil)
}

// flagsOf are the transmission flags of an export.
func (n *negotiation) flagsOf(e *Export) uint16 {
	flags := uint16(flagHasFlags | flagMultiConn | flagCache)
	if n.form != formSimple {
		flags |= flagDontFragment
	}
	if _, ok := e.disk(); ok {
		return flags | flagFlush | flagFUA | flagTrim | flagWriteZeroes
	}
	return flags | flagReadOnly | flagFlush
}

// disk is the export's ability to be written to.
func (e *Export) disk() (Disk, bool) {
	d, ok := e.Image.(Disk)
	return d, ok
}

func (n *negotiation) enterByName(name string) error {
	e := n.server.find(name)
	if e == nil || n.form == formExtended {
		return fmt.Errorf("NBD: the client asks for the export %.80q, which is not there or not so", name) // it cannot be told
	}
	b := binary.BigEndian.AppendUint64(nil, uint64(e.Image.Size()))
	b = binary.BigEndian.AppendUint16(b, n.flagsOf(e))
	if n.flags&flagNoZeroes == 0 {
		b = append(b, make([]byte, 124)...)
	}
	n.enter(e, name)
	return n.write(b)
}

// enter begins the transmission. Metadata contexts count only where they were selected for this very export.
func (n *negotiation) enter(e *Export, name string) {
	n.export = e
	n.picked = n.picked && n.context == name
}

// describe answers INFO and GO.
func (n *negotiation) describe(o option, data []byte) (done bool, err error) {
	name, rest, ok := cutString(data)
	if !ok || len(rest) < 2 || len(rest) != 2+2*int(binary.BigEndian.Uint16(rest)) {
		return false, n.reply(o, repErrInvalid, []byte("the request's lengths do not fit"))
	}
	e := n.server.find(name)
	if e == nil {
		return false, n.reply(o, repErrUnknown, []byte("there is no such export"))
	}
	for _, info := range n.infos(e) {
		if err := n.reply(o, repInfo, info); err != nil {
			return false, err
		}
	}
	if err := n.reply(o, repAck, nil); err != nil || o == optInfo {
		return false, err
	}
	n.enter(e, name)
	return true, nil
}

// preferredBlock is the unit in which clients are advised to read and write.
const preferredBlock = 4096

func (n *negotiation) infos(e *Export) [][]byte {
	export := binary.BigEndian.AppendUint16(nil, infoExport)
	export = binary.BigEndian.AppendUint64(export, uint64(e.Image.Size()))
	export = binary.BigEndian.AppendUint16(export, n.flagsOf(e))
	blocks := binary.BigEndian.AppendUint16(nil, infoBlockSize)
	for _, size := range []uint32{1, preferredBlock, maxPayload} {
		blocks = binary.BigEndian.AppendUint32(blocks, size)
	}
	list := [][]byte{export, blocks, append(binary.BigEndian.AppendUint16(nil, infoName), e.Name...)}
	if e.Description != "" {
		list = append(list, append(binary.BigEndian.AppendUint16(nil, infoDescription), e.Description...))
	}
	return list
}

// contexts answers LIST_META_CONTEXT and SET_META_CONTEXT. There is one context, base:allocation.
func (n *negotiation) contexts(o option, data []byte) error {
	if o == optSetMetaContext {
		n.picked = false // also where this fails
	}
	name, queries, ok := cutQueries(data)
	switch {
	case !ok:
		return n.reply(o, repErrInvalid, []byte("the request's lengths do not fit"))
	case n.form == formSimple:
		return n.reply(o, repErrInvalid, []byte("structured replies come first"))
	case len(queries) > maxQueries:
		return n.reply(o, repErrTooBig, nil)
	case n.server.find(name) == nil:
		return n.reply(o, repErrUnknown, []byte("there is no such export"))
	}
	found := o == optListMetaContext && len(queries) == 0
	for _, q := range queries {
		if !strings.Contains(q, ":") {
			return n.reply(o, repErrInvalid, []byte("a context's name has a colon"))
		}
		found = found || q == baseAllocation || q == "base:" && o == optListMetaContext
	}
	if found {
		id := uint32(0)
		if o == optSetMetaContext {
			id, n.picked, n.context = allocationID, true, name
		}
		if err := n.reply(o, repMetaContext, append(binary.BigEndian.AppendUint32(nil, id), baseAllocation...)); err != nil {
			return err
		}
	}
	return n.reply(o, repAck, nil)
}

// cutQueries reads the name of an export and a list of strings, and nothing after it.
func cutQueries(data []byte) (name string, queries []string, ok bool) {
	name, rest, ok := cutString(data)
	if !ok || len(rest) < 4 {
		return "", nil, false
	}
	count := binary.BigEndian.Uint32(rest)
	rest = rest[4:]
	if uint64(count)*4 > uint64(len(rest)) {
		return "", nil, false
	}
	for range count {
		var q string
		if q, rest, ok = cutString(rest); !ok {
			return "", nil, false
		}
		queries = append(queries, q)
	}
	return name, queries, len(rest) == 0
}
