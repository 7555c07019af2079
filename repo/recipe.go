package repo

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/hikae/hikae/pipe"
	"github.com/hikae/hikae/repo/internal/object"
)

// A recipe is an assembled block (FORMAT.md section 5): pieces of other blocks, and what none of them has. It gives
// back what blocks of a fixed grid lose against content-defined chunks, when the same files lie elsewhere on another
// disk, and keeps the grid: any block is still found by its place, and an increment is still cut where the hypervisor
// cuts it.
type recipe struct {
	pieces  []piece
	literal []byte // encoded
	codec   pipe.Codec
	plain   int // length of the literal
}

// piece is a part of the block, in order: length bytes of another block from offset on, or of the literal.
type piece struct {
	length int
	from   pipe.ID
	offset int
	copied bool // from another block
}

const (
	codecAssembled pipe.Codec = 3 // only in a repository, never on a wire

	maxPieces    = 128
	maxRecipeIDs = 16 // distinct blocks: what reading one block may cost
)

func (r *recipe) encode() []byte {
	b := binary.LittleEndian.AppendUint16(nil, uint16(len(r.pieces)))
	for _, p := range r.pieces {
		if !p.copied {
			b = binary.LittleEndian.AppendUint32(append(b, 0), uint32(p.length))
			continue
		}
		b = binary.LittleEndian.AppendUint32(append(b, 1), uint32(p.length))
		b = append(b, p.from[:]...)
		b = binary.LittleEndian.AppendUint32(b, uint32(p.offset))
	}
	b = append(b, byte(r.codec))
	b = binary.LittleEndian.AppendUint32(b, uint32(r.plain))
	return append(b, r.literal...)
}

// decodeRecipe reads the recipe of a block of plain bytes.
func decodeRecipe(b []byte, plain int) (*recipe, error) {
	fail := func(why string) (*recipe, error) { return nil, fmt.Errorf("assembled block: %s", why) }
	if len(b) < 2 {
		return fail("no pieces")
	}
	r, count := new(recipe), int(binary.LittleEndian.Uint16(b))
	b = b[2:]
	if count == 0 || count > maxPieces {
		return fail("too many pieces or none")
	}
	total, literal := 0, 0
	for range count {
		if len(b) < 5 || b[0] > 1 {
			return fail("a piece is cut or unknown")
		}
		p := piece{copied: b[0] == 1, length: int(binary.LittleEndian.Uint32(b[1:]))}
		b = b[5:]
		if p.copied {
			if len(b) < 36 {
				return fail("a piece is cut")
			}
			copy(p.from[:], b)
			p.offset = int(binary.LittleEndian.Uint32(b[32:]))
			b = b[36:]
		} else {
			literal += p.length
		}
		if n := len(r.pieces); p.length <= 0 || p.length > plain-total || !p.copied && n > 0 && !r.pieces[n-1].copied {
			return fail("a piece has a wrong length")
		}
		total += p.length
		r.pieces = append(r.pieces, p)
	}
	if total != plain || len(b) < 5 {
		return fail("the pieces do not give the block")
	}
	r.codec, r.plain, r.literal = pipe.Codec(b[0]), int(binary.LittleEndian.Uint32(b[1:])), b[5:]
	if r.plain != literal || r.codec > pipe.Zstd {
		return fail("the literal has a wrong length or codec")
	}
	if len(r.sources()) > maxRecipeIDs {
		return fail("too many blocks are needed")
	}
	return r, nil
}

// sources are the blocks that the recipe needs, each once.
func (r *recipe) sources() []pipe.ID {
	var ids []pipe.ID
	seen := map[pipe.ID]bool{}
	for _, p := range r.pieces {
		if p.copied && !seen[p.from] {
			seen[p.from] = true
			ids = append(ids, p.from)
		}
	}
	return ids
}

// assemble makes a block of its recipe, into dst. Blocks that it needs are whole ones: a recipe never needs a recipe,
// so that reading one block has a bound.
func (r *Repository) assemble(ctx context.Context, idx *index, encoded, dst []byte) error {
	rec, err := decodeRecipe(encoded, len(dst))
	if err != nil {
		return err
	}
	literal := make([]byte, rec.plain)
	if rec.plain > 0 || len(rec.literal) > 0 {
		if literal, err = pipe.Decode(literal, rec.literal, rec.codec, rec.plain); err != nil {
			return err
		}
	}
	at := 0
	for _, p := range rec.pieces {
		if !p.copied {
			literal = literal[copy(dst[at:at+p.length], literal):]
		}
		at += p.length
	}
	// By source and not by piece, so that each is read once, however they alternate.
	for _, id := range rec.sources() {
		source, err := r.wholeBlock(ctx, idx, id)
		if err != nil {
			return &sourceError{err}
		}
		at := 0
		for _, p := range rec.pieces {
			if p.copied && p.from == id {
				if p.offset < 0 || p.offset > len(source) || p.length > len(source)-p.offset {
					return errors.New("assembled block: a piece lies outside its block")
				}
				copy(dst[at:at+p.length], source[p.offset:])
			}
			at += p.length
		}
	}
	return nil
}

// sourceError says that a block that a recipe needs cannot be had: the recipe and its pack are not at fault.
type sourceError struct{ error }

func (e *sourceError) Unwrap() error { return e.error }

func isSourceError(err error) bool {
	_, ok := errors.AsType[*sourceError](err)
	return ok
}

// wholeBlock fetches a block that is stored whole. The result is shared: it is not written to.
func (r *Repository) wholeBlock(ctx context.Context, idx *index, id pipe.ID) ([]byte, error) {
	if b, ok := idx.blocks.get(id); ok {
		return b, nil
	}
	b, err := r.contentOf(ctx, idx, id, func(l location) bool { return l.typ == object.TypeBlock && l.whole() }, true)
	if err != nil {
		return nil, err
	}
	if b == nil {
		return nil, &ErrCorrupt{Object: "block " + id.String(), Reason: "an assembled block needs it, and no pack holds it whole"}
	}
	idx.blocks.put(id, b)
	return b, nil
}

// reusable finds content that a new point may refer to. An assembled block is as good as the blocks that it needs:
// once anything is known to be missing, they are looked at, without being read (hazard H28).
func (r *Repository) reusable(ctx context.Context, x *index, id pipe.ID) (location, bool, error) {
	for {
		loc, ok, err := x.reusable(id)
		if err != nil || !ok || loc.whole() || !x.doubtful() || x.isSound(id, loc.pack) {
			return loc, ok, err
		}
		err = r.checkRecipe(ctx, x, id, loc)
		if err == nil {
			x.vouch(id, loc.pack)
			return loc, true, nil
		}
		if ctx.Err() != nil || isFailure(err) {
			return loc, false, err
		}
		x.markBad(id, loc.pack)
		if next, ok, err := x.reusable(id); err != nil || !ok || next.pack == loc.pack { // the same: too much is bad to be remembered
			return loc, false, err
		}
	}
}

func (r *Repository) checkRecipe(ctx context.Context, x *index, id pipe.ID, loc location) error {
	rec, err := r.fetchRecipe(ctx, x.pack(loc.pack), id, loc)
	if err != nil {
		return err
	}
	for _, from := range rec.sources() {
		if _, _, good, err := x.whole(from); err != nil {
			return failure{err}
		} else if !good {
			return fmt.Errorf("block %s is missing or damaged", from)
		}
	}
	return nil
}
