package wire

import "math"

// Images asks a source service for the images that it lets this peer read. Answer: ImageList.
type Images struct{}

func (*Images) Kind() Kind      { return KindImages }
func (*Images) fields(c *coder) {}

// ImageList are a source's images.
type ImageList struct{ Images []NamedImage }

// NamedImage is an image of a source.
type NamedImage struct {
	Name string
	Size int64
}

func (*ImageList) Kind() Kind { return KindImageList }
func (m *ImageList) fields(c *coder) {
	list(c, &m.Images, MaxDisks, 10, func(i *NamedImage) {
		c.text(&i.Name, MaxName)
		c.size(&i.Size)
	})
}

// OpenSource opens an image of a source. Answer: ImageOpened.
type OpenSource struct{ Name string }

func (*OpenSource) Kind() Kind        { return KindOpenSource }
func (m *OpenSource) fields(c *coder) { c.text(&m.Name, MaxName) }

// Collect tells a source service to bring a VM's disks to the target that asks: the job's instructions (R011). The
// source then calls on this session's lanes, as if it had opened them. Answer, when all is done: Collected.
type Collect struct {
	VM           string
	Disks        []CollectDisk
	Compression  string
	ExcludeSwap  bool
	ExcludeFree  bool
	ExcludeFiles []string
	Full         bool
}

// CollectDisk is one disk of a Collect: its key in the point, and the source's name for the image.
type CollectDisk struct{ Key, Image string }

func (*Collect) Kind() Kind { return KindCollect }
func (m *Collect) fields(c *coder) {
	c.text(&m.VM, MaxName)
	list(c, &m.Disks, MaxDisks, 4, func(d *CollectDisk) {
		c.text(&d.Key, MaxName)
		c.text(&d.Image, MaxName)
	})
	c.text(&m.Compression, MaxName)
	c.flag(&m.ExcludeSwap)
	c.flag(&m.ExcludeFree)
	list(c, &m.ExcludeFiles, MaxPatterns, 2, func(p *string) { c.text(p, MaxText) })
	c.flag(&m.Full)
}

// Collected is the session's result, a document of the embedding program.
type Collected struct{ Result []byte }

func (*Collected) Kind() Kind        { return KindCollected }
func (m *Collected) fields(c *coder) { c.rest(&m.Result, MaxResult) }

// Enrol takes the place of a one-time token: from now on the peer is known by PublicKey (Ed25519). Answer: Enrolled.
type Enrol struct {
	PublicKey [32]byte
	Host      string // the machine's name, for lists
}

func (*Enrol) Kind() Kind { return KindEnrol }
func (m *Enrol) fields(c *coder) {
	c.key(&m.PublicKey)
	c.text(&m.Host, MaxName)
}

// Enrolled says as whom.
type Enrolled struct {
	Name string
	Role string
	Mode string // trusted, blind, source or proxy
}

func (*Enrolled) Kind() Kind { return KindEnrolled }
func (m *Enrolled) fields(c *coder) {
	c.text(&m.Name, MaxName)
	c.text(&m.Role, MaxName)
	c.text(&m.Mode, MaxName)
}

// Rotate replaces the peer's key by a new one; the old one is good until the new one was used. Answer: OK.
type Rotate struct{ PublicKey [32]byte }

func (*Rotate) Kind() Kind        { return KindRotate }
func (m *Rotate) fields(c *coder) { c.key(&m.PublicKey) }

// Health asks how the mover is. Answer: HealthIs.
type Health struct{}

func (*Health) Kind() Kind      { return KindHealth }
func (*Health) fields(c *coder) {}

// HealthIs is how a mover is. What an append peer may not know is zero.
type HealthIs struct {
	Version  string
	Mode     string // trusted, blind, source or proxy
	Seconds  uint64 // since its start
	Sessions uint32
	Lanes    uint32
	Writers  uint32
	Waiting  uint32 // sessions that wait for a writer
	Free     int64  // bytes; 0 where it is not known
	Draining bool
	Role     string // of the peer that asks: append or full
}

func (*HealthIs) Kind() Kind { return KindHealthIs }
func (m *HealthIs) fields(c *coder) {
	c.text(&m.Version, MaxName)
	c.text(&m.Mode, MaxName)
	c.u64(&m.Seconds)
	c.u32(&m.Sessions)
	c.u32(&m.Lanes)
	c.u32(&m.Writers)
	c.u32(&m.Waiting)
	c.amount(&m.Free, math.MaxInt64)
	c.flag(&m.Draining)
	c.text(&m.Role, MaxName)
}
