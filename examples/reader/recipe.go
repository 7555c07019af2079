package main

import (
	"encoding/binary"
	"errors"
)

var errRecipe = errors.New("it is no recipe")

// piece is one part of an assembled block: of the literal, or of another block.
type piece struct {
	other  bool
	id     [32]byte
	length uint32
	offset uint32
}

// recipe is an assembled block before it is assembled.
type recipe struct {
	pieces  []piece
	literal []byte
}

// assemble puts a block together from its recipe.
func (r *repository) assemble(scope, body []byte, plain int) ([]byte, error) {
	rec, err := parseRecipe(body, plain)
	if err != nil {
		return nil, err
	}
	out := make([]byte, 0, plain)
	others := map[[32]byte][]byte{}
	for _, p := range rec.pieces {
		if !p.other {
			out = append(out, rec.literal[:p.length]...)
			rec.literal = rec.literal[p.length:]
			continue
		}
		if others[p.id] == nil {
			if others[p.id], err = r.content(scope, typeBlock, p.id, true); err != nil {
				return nil, err
			}
		}
		from := others[p.id]
		if uint64(p.offset)+uint64(p.length) > uint64(len(from)) {
			return nil, errRecipe
		}
		out = append(out, from[p.offset:p.offset+p.length]...)
	}
	return out, nil
}

func parseRecipe(body []byte, plain int) (*recipe, error) {
	if len(body) < 2 {
		return nil, errRecipe
	}
	count := int(binary.LittleEndian.Uint16(body))
	body = body[2:]
	if count < 1 || count > maxPieces {
		return nil, errRecipe
	}
	rec := &recipe{}
	var total, literal uint64
	others := map[[32]byte]bool{}
	for i := range count {
		p, rest, ok := parsePiece(body)
		if !ok || i > 0 && !p.other && !rec.pieces[i-1].other {
			return nil, errRecipe
		}
		body = rest
		total += uint64(p.length)
		if p.other {
			others[p.id] = true
		} else {
			literal += uint64(p.length)
		}
		rec.pieces = append(rec.pieces, p)
	}
	if total != uint64(plain) || len(others) > maxOthers || len(body) < 5 || body[0] > codecZstd ||
		uint64(binary.LittleEndian.Uint32(body[1:])) != literal {
		return nil, errRecipe
	}
	var err error
	rec.literal, err = decode(body[0], body[5:], int(literal))
	return rec, err
}

func parsePiece(b []byte) (p piece, rest []byte, ok bool) {
	if len(b) < 5 || b[0] > 1 {
		return p, nil, false
	}
	p.length = binary.LittleEndian.Uint32(b[1:])
	if b[0] == 0 {
		return p, b[5:], p.length > 0
	}
	if len(b) < 41 {
		return p, nil, false
	}
	p.other, p.id, p.offset = true, [32]byte(b[5:37]), binary.LittleEndian.Uint32(b[37:])
	return p, b[41:], p.length > 0
}
