package wire

import "github.com/hikae/hikae/pipe"

// Points asks for the points of a VM, or of all where VM is empty, behind the point After. Answer: PointList.
type Points struct {
	VM    string
	After string
}

func (*Points) Kind() Kind { return KindPoints }
func (m *Points) fields(c *coder) {
	c.text(&m.VM, MaxName)
	c.text(&m.After, MaxName)
}

// PointList are points in the order of their commits. More: there are others behind the last.
type PointList struct {
	More   bool
	Points []Point
}

func (*PointList) Kind() Kind { return KindPointList }
func (m *PointList) fields(c *coder) {
	c.flag(&m.More)
	list(c, &m.Points, MaxPoints, 32, func(p *Point) { p.fields(c) })
	if m.More && len(m.Points) == 0 {
		c.fail("there is more behind nothing")
	}
}

// Point is a committed point. Damage: it is there and its description cannot be read; Fail says why, and the other
// fields are empty.
type Point struct {
	ID          string
	VM          string
	Time        int64 // nanoseconds since 1970
	Consistency string
	New         int64
	Disks       []PointDisk
	Blobs       []PointBlob
	Tracking    map[string]string
	Facts       map[string]string
	Damage      string
}

// PointDisk is one disk of a point.
type PointDisk struct {
	Key    string
	Size   int64
	Data   int64
	Absent map[string]uint64
}

// PointBlob is one blob of a point.
type PointBlob struct {
	Name string
	Size int64
}

func (m *Point) fields(c *coder) {
	c.text(&m.ID, MaxName)
	c.text(&m.VM, MaxName)
	c.stamp(&m.Time)
	c.text(&m.Consistency, MaxName)
	c.size(&m.New)
	list(c, &m.Disks, MaxDisks, 20, func(d *PointDisk) {
		c.text(&d.Key, MaxName)
		c.size(&d.Size)
		c.size(&d.Data)
		c.amounts(&d.Absent)
	})
	list(c, &m.Blobs, MaxBlobs, 10, func(b *PointBlob) {
		c.text(&b.Name, MaxName)
		c.size(&b.Size)
	})
	c.table(&m.Tracking, MaxDisks, MaxName, MaxFact)
	c.table(&m.Facts, MaxFacts, MaxName, MaxFact)
	c.prose(&m.Damage, MaxText)
}

// OpenDisk opens one disk of a point. Answer: ImageOpened.
type OpenDisk struct{ Point, Disk string }

func (*OpenDisk) Kind() Kind { return KindOpenDisk }
func (m *OpenDisk) fields(c *coder) {
	c.text(&m.Point, MaxName)
	c.text(&m.Disk, MaxName)
}

// ImageOpened is an open image.
type ImageOpened struct {
	Image   Ref
	Size    int64
	Extents bool // it knows which parts hold data
}

func (*ImageOpened) Kind() Kind { return KindImageOpened }
func (m *ImageOpened) fields(c *coder) {
	c.u32(&m.Image)
	c.size(&m.Size)
	c.flag(&m.Extents)
}

// ReadImage reads at most MaxContent bytes. Answer: Content.
type ReadImage struct {
	Image Ref
	Off   int64
	Len   uint32
}

func (*ReadImage) Kind() Kind { return KindReadImage }
func (m *ReadImage) fields(c *coder) {
	c.u32(&m.Image)
	c.size(&m.Off)
	c.u32(&m.Len)
	c.upTo(m.Len, MaxContent)
	c.span(m.Off, int64(m.Len))
}

// Content is what was read: fewer bytes than asked for only at the end of the image.
type Content struct {
	Plain uint32 // length of the decoded bytes
	Codec pipe.Codec
	Data  []byte
}

func (*Content) Kind() Kind { return KindContent }
func (m *Content) fields(c *coder) {
	c.encoded(&m.Plain, &m.Codec)
	c.rest(&m.Data, MaxStored)
}

// encoded is how long content is once it is decoded, and how it is to be decoded.
func (c *coder) encoded(plain *uint32, codec *pipe.Codec) {
	c.u32(plain)
	c.upTo(*plain, MaxContent)
	c.u8((*uint8)(codec))
	if *codec > pipe.Zstd {
		c.fail("content in %v", *codec)
	}
}

// ImageExtents asks which parts of [Off, Off+Len) hold data. Answer: ExtentList, of which the last extent may end before
// the range does; then the caller asks again from there.
type ImageExtents struct {
	Image Ref
	Off   int64
	Len   int64
}

func (*ImageExtents) Kind() Kind { return KindImageExtents }
func (m *ImageExtents) fields(c *coder) {
	c.u32(&m.Image)
	c.size(&m.Off)
	c.size(&m.Len)
	c.span(m.Off, m.Len)
}

// ExtentList are extents, none of them empty, each beginning where the one before it ends.
type ExtentList struct{ Extents []pipe.Extent }

func (*ExtentList) Kind() Kind { return KindExtentList }
func (m *ExtentList) fields(c *coder) {
	list(c, &m.Extents, MaxExtents, 17, c.extent)
	for i, e := range m.Extents {
		if e.Len == 0 || i > 0 && e.Off != m.Extents[i-1].End() {
			c.fail("extent %d of the list is empty or does not begin where the one before it ends", i)
			return
		}
	}
}

// CloseImage closes an image. Answer: OK.
type CloseImage struct{ Image Ref }

func (*CloseImage) Kind() Kind        { return KindCloseImage }
func (m *CloseImage) fields(c *coder) { c.u32(&m.Image) }

// ReadBlob reads at most MaxPart bytes of a point's blob. Answer: BlobContent.
type ReadBlob struct {
	Point, Name string
	Off         int64
	Len         uint32
}

func (*ReadBlob) Kind() Kind { return KindReadBlob }
func (m *ReadBlob) fields(c *coder) {
	c.text(&m.Point, MaxName)
	c.text(&m.Name, MaxName)
	c.size(&m.Off)
	c.u32(&m.Len)
	c.upTo(m.Len, MaxPart)
	c.span(m.Off, int64(m.Len))
}

// BlobContent is a part of a blob; Size is the whole blob's.
type BlobContent struct {
	Size int64
	Data []byte
}

func (*BlobContent) Kind() Kind { return KindBlobContent }
func (m *BlobContent) fields(c *coder) {
	c.size(&m.Size)
	c.rest(&m.Data, MaxPart)
}
