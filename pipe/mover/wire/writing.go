package wire

import "github.com/hikae/hikae/pipe"

// Begin begins a point. Answer: Begun.
type Begin struct {
	VM          string
	Base        string
	Time        int64 // nanoseconds since 1970; 0: now
	Consistency string
	Facts       map[string]string
}

func (*Begin) Kind() Kind { return KindBegin }
func (m *Begin) fields(c *coder) {
	c.text(&m.VM, MaxName)
	c.text(&m.Base, MaxName)
	c.stamp(&m.Time)
	c.text(&m.Consistency, MaxName)
	c.table(&m.Facts, MaxFacts, MaxName, MaxFact)
}

// Begun is an open writer. Key is the key of this caller's fingerprints: an id on the wire is the BLAKE3 keyed hash of a
// block's content under it.
type Begun struct {
	Writer Ref
	Key    [32]byte
}

func (*Begun) Kind() Kind { return KindBegun }
func (m *Begun) fields(c *coder) {
	c.u32(&m.Writer)
	c.key(&m.Key)
}

// StartDisk begins a disk of a point. Answer: DiskStarted.
type StartDisk struct {
	Writer Ref
	Key    string
	Size   int64
}

func (*StartDisk) Kind() Kind { return KindStartDisk }
func (m *StartDisk) fields(c *coder) {
	c.u32(&m.Writer)
	c.text(&m.Key, MaxName)
	c.size(&m.Size)
}

// DiskStarted is an open disk. BlockSize is 0 where the target takes no blocks; Marks: it takes marks.
type DiskStarted struct {
	Disk      Ref
	BlockSize uint32
	Marks     bool
}

func (*DiskStarted) Kind() Kind { return KindDiskStarted }
func (m *DiskStarted) fields(c *coder) {
	c.u32(&m.Disk)
	c.u32(&m.BlockSize)
	c.flag(&m.Marks)
}

// Query asks which of the ids' blocks are known. Answer: Known.
type Query struct {
	Disk Ref
	IDs  []pipe.ID
}

func (*Query) Kind() Kind { return KindQuery }
func (m *Query) fields(c *coder) {
	c.u32(&m.Disk)
	list(c, &m.IDs, MaxIDs, 32, func(id *pipe.ID) { c.key((*[32]byte)(id)) })
}

// Known has one bit for each id of a Query, the first id in the highest bit of the first byte; 1: the content is not
// needed. Bits behind the last id are 0.
type Known struct{ Bits []byte }

func (*Known) Kind() Kind        { return KindKnown }
func (m *Known) fields(c *coder) { c.rest(&m.Bits, MaxIDs/8) }

// Put places a block at byte Off. Without content the target uses the block that it has, or answers CodeNeedBlock.
// Answer: Placed.
type Put struct {
	Disk    Ref
	Off     int64
	ID      pipe.ID
	Plain   uint32 // length of the decoded block
	Codec   pipe.Codec
	Content bool // false: Data is empty, and the target is to have the block
	Data    []byte
}

func (*Put) Kind() Kind { return KindPut }
func (m *Put) fields(c *coder) {
	c.u32(&m.Disk)
	c.size(&m.Off)
	c.key((*[32]byte)(&m.ID))
	c.encoded(&m.Plain, &m.Codec)
	c.flag(&m.Content)
	c.span(m.Off, int64(m.Plain))
	c.rest(&m.Data, MaxStored)
	if m.Content != (len(m.Data) > 0) {
		c.fail("content of %d bytes that is said to be there or not", len(m.Data))
	}
}

// Placed says what a Put did, in bytes.
type Placed struct{ Deduplicated, Stored int64 }

func (*Placed) Kind() Kind { return KindPlaced }
func (m *Placed) fields(c *coder) {
	c.size(&m.Deduplicated)
	c.size(&m.Stored)
}

// Mark says why a range carries no data. Answer: OK.
type Mark struct {
	Disk   Ref
	Extent pipe.Extent
}

func (*Mark) Kind() Kind { return KindMark }
func (m *Mark) fields(c *coder) {
	c.u32(&m.Disk)
	c.extent(&m.Extent)
}

// Write writes bytes at any offset. Sum is the BLAKE3 of the decoded bytes. Answer: OK.
type Write struct {
	Disk  Ref
	Off   int64
	Sum   [32]byte
	Plain uint32
	Codec pipe.Codec
	Data  []byte
}

func (*Write) Kind() Kind { return KindWrite }
func (m *Write) fields(c *coder) {
	c.u32(&m.Disk)
	c.size(&m.Off)
	c.key(&m.Sum)
	c.encoded(&m.Plain, &m.Codec)
	c.span(m.Off, int64(m.Plain))
	c.rest(&m.Data, MaxStored)
}

// SealDisk seals a disk. Answer: OK.
type SealDisk struct{ Disk Ref }

// DropDisk abandons a disk, and its point cannot be committed any more. Answer: OK.
type DropDisk struct{ Disk Ref }

func (*SealDisk) Kind() Kind        { return KindSealDisk }
func (m *SealDisk) fields(c *coder) { c.u32(&m.Disk) }
func (*DropDisk) Kind() Kind        { return KindDropDisk }
func (m *DropDisk) fields(c *coder) { c.u32(&m.Disk) }

// StartBlob begins a blob. Answer: BlobStarted.
type StartBlob struct {
	Writer Ref
	Name   string
}

func (*StartBlob) Kind() Kind { return KindStartBlob }
func (m *StartBlob) fields(c *coder) {
	c.u32(&m.Writer)
	c.text(&m.Name, MaxName)
}

// BlobStarted is an open blob.
type BlobStarted struct{ Blob Ref }

func (*BlobStarted) Kind() Kind        { return KindBlobStarted }
func (m *BlobStarted) fields(c *coder) { c.u32(&m.Blob) }

// BlobPart is the next part of a blob; Off is how much came before it. Answer: OK.
type BlobPart struct {
	Blob Ref
	Off  int64
	Data []byte
}

func (*BlobPart) Kind() Kind { return KindBlobPart }
func (m *BlobPart) fields(c *coder) {
	c.u32(&m.Blob)
	c.size(&m.Off)
	c.rest(&m.Data, MaxPart)
	c.span(m.Off, int64(len(m.Data)))
}

// SealBlob says that a blob of Size bytes, with the BLAKE3 Sum, is whole. Answer: OK.
type SealBlob struct {
	Blob Ref
	Size int64
	Sum  [32]byte
}

func (*SealBlob) Kind() Kind { return KindSealBlob }
func (m *SealBlob) fields(c *coder) {
	c.u32(&m.Blob)
	c.size(&m.Size)
	c.key(&m.Sum)
}

// Commit makes the point appear. Answer: Committed.
type Commit struct {
	Writer   Ref
	Tracking map[string]string
}

func (*Commit) Kind() Kind { return KindCommit }
func (m *Commit) fields(c *coder) {
	c.u32(&m.Writer)
	c.table(&m.Tracking, MaxDisks, MaxName, MaxFact)
}

// Committed: the point is durable and listed.
type Committed struct{ Point string }

func (*Committed) Kind() Kind        { return KindCommitted }
func (m *Committed) fields(c *coder) { c.text(&m.Point, MaxName) }

// DropPoint abandons a point that was not committed. Answer: OK.
type DropPoint struct{ Writer Ref }

func (*DropPoint) Kind() Kind        { return KindDropPoint }
func (m *DropPoint) fields(c *coder) { c.u32(&m.Writer) }

// Usage asks what a writer has added to the store. Answer: UsageIs.
type Usage struct{ Writer Ref }

func (*Usage) Kind() Kind        { return KindUsage }
func (m *Usage) fields(c *coder) { c.u32(&m.Writer) }

// UsageIs is what a writer has added, in bytes.
type UsageIs struct{ Stored, Parity int64 }

func (*UsageIs) Kind() Kind { return KindUsageIs }
func (m *UsageIs) fields(c *coder) {
	c.size(&m.Stored)
	c.size(&m.Parity)
}
