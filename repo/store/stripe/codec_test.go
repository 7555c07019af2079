package stripe

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func sampleRecords() []*record {
	set, attempt := [16]byte{1, 2, 3}, [16]byte{9, 8, 7}
	return []*record{
		{Name: "log/1", Set: set, Attempt: attempt, Generation: 3, Content: []byte{}},
		{Name: "log/2", Set: set, Attempt: attempt, Generation: 3, Length: 5, Content: []byte("hello")},
		{Name: "data/x", Set: set, Attempt: attempt, Generation: 1 << 40, Length: 1 << 24, Striped: true, K: 4, M: 2, Cell: cellSize, Seats: []byte{5, 0, 1, 3, 2, 4}},
		{Name: "data/y", Set: set, Attempt: attempt, Length: 1, Striped: true, K: 1, M: 1, Cell: minCell, Seats: []byte{0, 63}},
	}
}

func FuzzRecord(f *testing.F) {
	for _, r := range sampleRecords() {
		f.Add(r.encode())
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := decodeRecord(b)
		if err != nil {
			require.ErrorContains(t, err, "record")
			return
		}
		require.True(t, bytes.Equal(b, r.encode()))
	})
}

func FuzzState(f *testing.F) {
	st := &State{Set: "000102030405060708090a0b0c0d0e0f", Generation: 4, Data: 2, Parity: 1}
	for i := range 3 {
		st.Members = append(st.Members, Member{fmt.Sprintf("%032x", i), "a", Current})
	}
	st.Arbiter = st.Members[1].ID
	f.Add(st.encode())
	f.Fuzz(func(t *testing.T, b []byte) {
		if st, err := decodeState(b); err == nil {
			require.True(t, bytes.Equal(b, st.encode()))
		}
	})
}

func FuzzIdentity(f *testing.F) {
	id := identity{"000102030405060708090a0b0c0d0e0f", "0f0102030405060708090a0b0c0d0e0f"}
	f.Add(text(memberMagic, id))
	f.Add([]byte(memberMagic + "\n{}\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		if id, err := decodeIdentity(b); err == nil {
			require.True(t, bytes.Equal(b, text(memberMagic, id)))
		}
	})
}

// A shard of a member that lies: what is taken for whole is what this object's creation wrote there, and its name has one spelling.
func FuzzShard(f *testing.F) {
	r := &record{Name: "data/x", Set: [16]byte{1}, Attempt: [16]byte{2}, Generation: 7, Length: 2500, Striped: true, K: 2, M: 1, Cell: minCell, Seats: []byte{0, 1, 2}}
	sh := shapeOf(r)
	enc, err := encoder(2, 1)
	require.NoError(f, err)
	shards := [][]byte{make([]byte, sh.size()), make([]byte, sh.size()), make([]byte, sh.size())}
	require.NoError(f, sh.cut(enc, bytes.Repeat([]byte("stripe"), 500)[:2500], shards))
	for i, s := range shards {
		f.Add(s, shardName(r.Attempt, i))
	}
	f.Add(shards[0][:sh.size()-1], "hikae-stripe/shard/zz")
	f.Fuzz(func(t *testing.T, b []byte, name string) {
		for i := range shards {
			if sh.whole(i, b) == nil {
				require.True(t, bytes.Equal(b[:shardHeader], shards[i][:shardHeader]))
			}
			c, _ := newColumn(&view{State: State{Members: make([]Member, 3)}}, sh, 0, r.Length)
			if c.take(fetched{shard: i, span: span{0, sh.cells}, raw: b}) {
				require.GreaterOrEqual(t, len(b), int(sh.width)+sh.cells*cellSum)
			}
		}
		if attempt, i, ok := parseShard(name); ok {
			require.Equal(t, name, shardName(attempt, i))
		}
	})
}

// A record of which any byte differs, or that is cut at any length, is none.
func TestRecordProvesItself(t *testing.T) {
	for _, r := range sampleRecords() {
		whole := r.encode()
		got, err := decodeRecord(bytes.Clone(whole))
		require.NoError(t, err)
		assert.Equal(t, whole, got.encode())
		for at := range whole {
			bad := bytes.Clone(whole)
			bad[at] ^= 1 << (at % 8)
			_, err := decodeRecord(bad)
			require.Error(t, err, "byte %d", at)
			_, err = decodeRecord(bytes.Clone(whole[:at]))
			require.Error(t, err, "%d bytes", at)
		}
	}
}

// What a record may claim is bounded, whatever its checksum says.
func TestRecordsThatClaimTooMuch(t *testing.T) {
	for name, change := range map[string]func(*record){
		"length":   func(r *record) { r.Length = MaxObject + 1 },
		"negative": func(r *record) { r.Length = -1 },
		"nothing":  func(r *record) { r.Length = 0 },
		"no data":  func(r *record) { r.K, r.M = 0, 6 },
		"cell":     func(r *record) { r.Cell = maxCell + 1 },
		"no cell":  func(r *record) { r.Cell = 0 },
		"seats":    func(r *record) { r.Seats = r.Seats[1:] },
		"twice":    func(r *record) { r.Seats = []byte{1, 1, 2, 3, 4, 5} },
		"far seat": func(r *record) { r.Seats = []byte{1, 64, 2, 3, 4, 5} },
		"name":     func(r *record) { r.Name = "../x" },
	} {
		r := sampleRecords()[2]
		change(r)
		_, err := decodeRecord(r.encode())
		require.ErrorIs(t, err, ErrDamaged, name)
	}
}

// The shards of one object as the format has them: whoever changes how they are made changes what old sets hold.
func TestShardVector(t *testing.T) {
	data := make([]byte, 200_001)
	for i := range data {
		data[i] = byte(i * i >> 3)
	}
	r := &record{Name: "data/vector", Set: [16]byte{1}, Attempt: [16]byte{2}, Generation: 7, Length: int64(len(data)),
		Striped: true, K: 3, M: 2, Cell: cellSize, Seats: []byte{0, 1, 2, 3, 4}}
	sh := shapeOf(r)
	enc, err := encoder(3, 2)
	require.NoError(t, err)
	var b buffers
	shards, _ := b.take(5, sh.size())
	require.NoError(t, sh.cut(enc, data, shards))
	all := sha256.New()
	all.Write(r.encode())
	for i, s := range shards {
		require.NoError(t, sh.whole(i, s))
		require.Error(t, sh.whole((i+1)%5, s))
		all.Write(s)
	}
	assert.EqualValues(t, shardHeader+66_667+3*cellSum, sh.size())
	assert.Equal(t, vector, hex.EncodeToString(all.Sum(nil)))
}

const vector = "5b8ded824b786d8e65ed6e8f8b72d8a386f3a66a4a18b594b603441d3e7cfb40"
