package main

import (
	"bytes"
	"errors"
	"fmt"

	"github.com/klauspost/compress/s2"
	"github.com/klauspost/compress/zstd"
)

// Bounds of this reader, not of the format.
const (
	maxPlaces  = 1 << 27
	keptPacks  = 4
	maxPieces  = 128
	maxOthers  = 16
	zstdMemory = 128 << 20
)

// packs knows where content is, from the tables of the packs alone: index objects are copies of them.
type packs struct {
	packs  []*pack
	heads  map[[32]byte]int32 // the first place of an id
	places []place
	kept   []*opened // whole packs in memory, the one used last at the end
	faults []error   // packs that could not be opened
	zstd   *zstd.Decoder
}

type pack struct {
	objectName
	kind  byte
	scope []byte
}

// place is one frame; next is the next place of the same id, or -1.
type place struct {
	frame frame
	pack  int32
	next  int32
}

// readPacks takes in the table of every pack.
func (r *repository) readPacks() error {
	decoder, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(zstdMemory),
		zstd.WithDecodeAllCapLimit(true))
	if err != nil {
		return err
	}
	r.packs = &packs{heads: map[[32]byte]int32{}, zstd: decoder}
	for kind, top := range map[byte]string{kindMeta: "meta", kindData: "data"} {
		names, err := r.leased(top)
		if err != nil {
			return err
		}
		for _, n := range names {
			if n.lease > r.log.end {
				continue // its session has not begun, as far as this log knows
			}
			if err := r.addPack(&pack{objectName: n, kind: kind, scope: r.log.scope(n.lease)}); err != nil {
				return err
			}
		}
	}
	return nil
}

func (r *repository) addPack(p *pack) error {
	o, err := r.openPack(p)
	if err != nil {
		r.packs.faults = append(r.packs.faults, err)
		return nil
	}
	number := int32(len(r.packs.packs))
	r.packs.packs = append(r.packs.packs, p)
	for _, f := range o.frames {
		if f.kind == typeVoid {
			continue
		}
		if len(r.packs.places) >= maxPlaces {
			return unsupported(p.name, "more than %d pieces of content", maxPlaces)
		}
		next, ok := r.packs.heads[f.id]
		if !ok {
			next = -1
		}
		r.packs.heads[f.id] = int32(len(r.packs.places))
		r.packs.places = append(r.packs.places, place{f, number, next})
	}
	return nil
}

// openPack reads a pack whole, unless it is still in memory.
func (r *repository) openPack(p *pack) (*opened, error) {
	kept := r.packs.kept
	for i, o := range kept {
		if o.name == p.name {
			r.packs.kept = append(append(kept[:i:i], kept[i+1:]...), o)
			return o, nil
		}
	}
	w := want{p.kind, &p.id, &r.id}
	c, err := r.cells(p.name, w)
	if err != nil {
		return nil, err
	}
	if len(c.damaged) > 0 {
		r.note("%s: %d cells are damaged; parity mended them for this reading", p.name, len(c.damaged))
	}
	o, err := openObject(memory(c.stream), w, r.keys)
	if err != nil {
		return nil, named(p.name, err)
	}
	if o.suite != r.suite {
		return nil, damaged(p.name, 11, "suite %d in a repository of suite %d", o.suite, r.suite)
	}
	for _, f := range o.frames {
		if f.kind != typeVoid && (f.kind == typeBlock) != (p.kind == kindData) || f.kind > typeVoid || f.kind == typeDocument || f.kind == typePack {
			return nil, damaged(p.name, -1, "frame %d has type %d, which is not for such a pack", f.ordinal, f.kind)
		}
	}
	o.name = p.name
	if r.packs.kept = append(kept, o); len(r.packs.kept) > keptPacks {
		r.packs.kept = r.packs.kept[1:]
	}
	return o, nil
}

// content finds a piece of content of a scope, trying every place that claims to have it. whole asks for one that is no
// recipe.
func (r *repository) content(scope []byte, kind byte, id [32]byte, whole bool) ([]byte, error) {
	var last error
	at, ok := r.packs.heads[id]
	for ; ok && at >= 0; at = r.packs.places[at].next {
		pl := r.packs.places[at]
		p := r.packs.packs[pl.pack]
		if !bytes.Equal(p.scope, scope) || pl.frame.kind != kind || whole && pl.frame.codec == codecRecipe {
			continue
		}
		plain, err := r.frameOf(p, pl.frame)
		if err == nil {
			return plain, nil
		}
		last = err
	}
	if last == nil {
		last = damaged("", -1, "content %s is in no pack that can be read", hex32(id))
		if n := len(r.packs.faults); n > 0 {
			last = fmt.Errorf("%w; %d packs cannot be read, the first: %w", last, n, r.packs.faults[0])
		}
	}
	return nil, last
}

// frameOf gives the plain content of one frame, held against its id.
func (r *repository) frameOf(p *pack, f frame) ([]byte, error) {
	o, err := r.openPack(p)
	if err != nil {
		return nil, err
	}
	body, err := o.encoded(f)
	if err != nil {
		return nil, err
	}
	var plain []byte
	switch f.codec {
	case codecRecipe:
		plain, err = r.assemble(p.scope, body, int(f.plain))
	case codecZstd:
		plain, err = r.packs.unzstd(body, int(f.plain))
	default:
		plain, err = decode(f.codec, body, int(f.plain))
	}
	if err != nil {
		return nil, fmt.Errorf("%w: %w", damaged(p.name, int64(f.offset), "frame %d of the stream", f.ordinal), err)
	}
	if got := r.contentID(p.scope, f.kind, plain); got != f.id {
		return nil, damaged(p.name, int64(f.offset), "frame %d of the stream holds other content than its id says", f.ordinal)
	}
	return plain, nil
}

func (r *repository) contentID(scope []byte, kind byte, plain []byte) [32]byte {
	key := r.idKey
	if scope != nil {
		key = scope
	}
	switch kind {
	case typePage:
		key = derive(key, nil, "hikae/1/id/page")
	case typeChunk:
		key = derive(key, nil, "hikae/1/id/blob")
	}
	return [32]byte(keyed(key, plain))
}

var errEncoding = errors.New("it does not decode to the length that its table says")

// decode undoes a codec other than a recipe; exactly plain bytes come out.
func decode(codec byte, body []byte, plain int) ([]byte, error) {
	switch codec {
	case codecPlain:
		if len(body) == plain {
			return body, nil
		}
	case codecS2:
		if n, err := s2.DecodedLen(body); err == nil && n == plain {
			return s2.Decode(make([]byte, plain), body)
		}
	case codecZstd:
		d, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(zstdMemory),
			zstd.WithDecodeAllCapLimit(true))
		if err != nil {
			return nil, err
		}
		defer d.Close()
		return (&packs{zstd: d}).unzstd(body, plain)
	}
	return nil, errEncoding
}

// unzstd decodes one frame that says how long its content is.
func (p *packs) unzstd(body []byte, plain int) ([]byte, error) {
	var h zstd.Header
	if err := h.Decode(body); err != nil || !h.HasFCS || h.FrameContentSize != uint64(plain) || h.DictionaryID != 0 || h.Skippable {
		return nil, errEncoding
	}
	out, err := p.zstd.DecodeAll(body, make([]byte, 0, plain))
	if err != nil || len(out) != plain {
		return nil, errEncoding
	}
	return out, nil
}
