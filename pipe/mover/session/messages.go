package session

import "github.com/hikae/hikae/pipe/mover/wire"

// content is the part of a message that refers to the memory into which it was read.
func content(m wire.Message) []byte {
	switch m := m.(type) {
	case *wire.Put:
		return m.Data
	case *wire.Write:
		return m.Data
	case *wire.StorePart:
		return m.Data
	case *wire.BlobPart:
		return m.Data
	case *wire.Content:
		return m.Data
	case *wire.BlobContent:
		return m.Data
	case *wire.Known:
		return m.Bits
	case *wire.Collected:
		return m.Result
	}
	return nil
}

// answers reports whether a message of this kind answers a call. Every other that belongs to a call is a request.
func answers(k wire.Kind) bool {
	switch k {
	case wire.KindOK, wire.KindFail, wire.KindPointList, wire.KindImageOpened, wire.KindContent, wire.KindExtentList,
		wire.KindBlobContent, wire.KindBegun, wire.KindDiskStarted, wire.KindKnown, wire.KindPlaced, wire.KindBlobStarted,
		wire.KindCommitted, wire.KindUsageIs, wire.KindImageList, wire.KindCollected, wire.KindStoreOpened,
		wire.KindStoreSize, wire.KindStoreNames, wire.KindStoreIs, wire.KindEnrolled, wire.KindHealthIs:
		return true
	}
	return false
}

// repeatable reports whether an answer comes from a call that only reads and depends on nothing but its own fields: it is
// not kept, because the call can be carried out again.
func repeatable(answer wire.Message) bool {
	switch answer.Kind() {
	case wire.KindContent, wire.KindBlobContent, wire.KindExtentList, wire.KindPointList, wire.KindImageList:
		return true
	}
	return false
}

// large reports whether a kept answer is to be acknowledged at once.
func large(answer wire.Message) bool {
	k := answer.Kind()
	return k == wire.KindStoreNames || k == wire.KindCollected
}

// What a call costs besides its content: its fields on both sides, and the largest answers.
const (
	costOfAny     = 512
	costOfList    = 1 << 20
	costOfExtents = 72 << 10
)

// cost is what a call takes of the window, in bytes: the content that it brings, and what its answer may bring.
func cost(req wire.Message) int64 {
	n := costOfAny + int64(len(content(req))) + expected(req)
	switch m := req.(type) {
	case *wire.Query:
		n += int64(len(m.IDs)) * 32
	case *wire.Begin:
		n += tableSize(m.Facts)
	case *wire.Commit:
		n += tableSize(m.Tracking)
	}
	return n
}

// tableSize is the bytes of a table's keys and values.
func tableSize(table map[string]string) (n int64) {
	for k, v := range table {
		n += int64(len(k) + len(v))
	}
	return n
}

// sort says with which other calls one shares the window. What may wait for long is apart, so that it never keeps out
// those by which what it waits for comes to its end.
type sort int

const (
	brief sort = iota
	lasting
	sorts
)

func sortOf(req wire.Message) sort {
	if k := req.Kind(); k == wire.KindBegin || k == wire.KindCollect {
		return lasting
	}
	return brief
}

// expected is what the answer of a call may bring, in bytes; 0: not worth counting.
func expected(req wire.Message) int64 {
	switch m := req.(type) {
	case *wire.ReadImage:
		return min(int64(m.Len), wire.MaxContent)
	case *wire.ReadBlob:
		return min(int64(m.Len), wire.MaxPart)
	case *wire.StoreRead:
		return min(int64(m.Len), wire.MaxPart)
	case *wire.ImageExtents:
		return costOfExtents
	case *wire.Points, *wire.Images, *wire.StoreList, *wire.Collect:
		return costOfList
	}
	return 0
}
