package stripe

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"fmt"

	"github.com/hikae/hikae/repo/store"
)

// record says that an object exists, and holds it or says where its shards are. It stands under the object's own name
// on every member. See the package comment for its picture.
type record struct {
	Name       string
	Set        [16]byte
	Attempt    [16]byte // random: names this creation, and its shards
	Generation uint64   // of the state under which it was made
	Length     int64    // of the object
	Striped    bool
	K, M       int
	Cell       int    // payload bytes of a cell
	Seats      []byte // of shard 0 … k+m−1
	Content    []byte // where it is not striped
}

const (
	recordMagic  = "HKSR"
	recordInline = 512 // content begins here; a striped record is shorter, so that sizes tell them apart in a listing
	recordFixed  = 4 + 2 + 3 + 16 + 16 + 8 + 8 + 4 + 2
	sumSize      = 16

	// MaxMirrored is the size above which any object is striped.
	MaxMirrored = 1 << 20
	maxRecord   = recordInline + MaxMirrored
	// MaxObject is how large an object may be: creating one needs more than its size of memory.
	MaxObject = 1 << 30
)

func digest(parts ...[]byte) (sum [sumSize]byte) {
	h := sha256.New()
	for _, p := range parts {
		h.Write(p)
	}
	copy(sum[:], h.Sum(nil))
	return sum
}

func (r *record) encode() []byte {
	b := make([]byte, 0, recordInline+len(r.Content))
	b = append(b, recordMagic...)
	b = binary.LittleEndian.AppendUint16(b, 1)
	kind := byte(1)
	if r.Striped {
		kind = 2
	}
	b = append(b, kind, byte(r.K), byte(r.M))
	b = append(b, r.Set[:]...)
	b = append(b, r.Attempt[:]...)
	b = binary.LittleEndian.AppendUint64(b, r.Generation)
	b = binary.LittleEndian.AppendUint64(b, uint64(r.Length))
	b = binary.LittleEndian.AppendUint32(b, uint32(r.Cell))
	b = binary.LittleEndian.AppendUint16(b, uint16(len(r.Name)))
	b = append(b, r.Name...)
	b = append(b, r.Seats...)
	if !r.Striped {
		b = append(b, make([]byte, recordInline-sumSize-len(b))...)
	}
	sum := digest(b, r.Content)
	return append(append(b, sum[:]...), r.Content...)
}

// decodeRecord reads a record. It keeps b.
func decodeRecord(b []byte) (*record, error) {
	bad := func(why string) (*record, error) { return nil, fmt.Errorf("record: %w: %s", ErrDamaged, why) }
	if len(b) < recordFixed+sumSize || len(b) > maxRecord || string(b[:4]) != recordMagic {
		return bad("not a record")
	}
	if v := binary.LittleEndian.Uint16(b[4:]); v != 1 {
		return nil, fmt.Errorf("record: version %d is not known here", v)
	}
	r := &record{Striped: b[6] == 2, K: int(b[7]), M: int(b[8])}
	if b[6] != 1 && b[6] != 2 || r.Striped != (len(b) < recordInline) {
		return bad("kind")
	}
	copy(r.Set[:], b[9:])
	copy(r.Attempt[:], b[25:])
	r.Generation = binary.LittleEndian.Uint64(b[41:])
	length := binary.LittleEndian.Uint64(b[49:])
	r.Cell = int(binary.LittleEndian.Uint32(b[57:]))
	nameEnd := recordFixed + int(binary.LittleEndian.Uint16(b[61:]))
	end := len(b) - sumSize
	if !r.Striped {
		end = recordInline - sumSize
		r.Content = b[recordInline:]
	}
	if nameEnd > end || length > MaxObject {
		return bad("length")
	}
	r.Name, r.Length = string(b[recordFixed:nameEnd]), int64(length)
	if sum := digest(b[:end], r.Content); !bytes.Equal(sum[:], b[end:end+sumSize]) {
		return bad("wrong checksum")
	}
	r.Seats = b[nameEnd:end]
	if !r.Striped {
		r.Seats = nil
	}
	return r, r.valid()
}

func (r *record) valid() error {
	bad := func(why string) error { return fmt.Errorf("record: %w: %s", ErrDamaged, why) }
	if !store.ValidName(r.Name) {
		return bad("name")
	}
	if !r.Striped {
		if r.Length != int64(len(r.Content)) || r.K|r.M|r.Cell != 0 {
			return bad("length")
		}
		return nil
	}
	if geometry(r.K, r.M, r.K+r.M) != nil || len(r.Seats) != r.K+r.M || r.Cell < minCell || r.Cell > maxCell || r.Length < 1 {
		return bad("geometry")
	}
	var seen [MaxMembers]bool
	for _, s := range r.Seats {
		if s >= MaxMembers || seen[s] {
			return bad("seats")
		}
		seen[s] = true
	}
	return nil
}
