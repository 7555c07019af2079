package wire

import "math"

// StoreOpen begins an object of Size bytes. Answer: StoreOpened, or CodeExists.
type StoreOpen struct {
	Name string
	Size int64
}

func (*StoreOpen) Kind() Kind { return KindStoreOpen }
func (m *StoreOpen) fields(c *coder) {
	c.text(&m.Name, MaxName)
	c.amount(&m.Size, MaxObject)
}

// StoreOpened is an object that is being brought.
type StoreOpened struct{ Object Ref }

func (*StoreOpened) Kind() Kind        { return KindStoreOpened }
func (m *StoreOpened) fields(c *coder) { c.u32(&m.Object) }

// StorePart is a part of an object; parts may come in any order. Answer: OK.
type StorePart struct {
	Object Ref
	Off    int64
	Data   []byte
}

func (*StorePart) Kind() Kind { return KindStorePart }
func (m *StorePart) fields(c *coder) {
	c.u32(&m.Object)
	c.size(&m.Off)
	c.rest(&m.Data, MaxPart)
	if m.Off > MaxObject-int64(len(m.Data)) {
		c.fail("%d bytes at %d of an object of at most %d", len(m.Data), m.Off, MaxObject)
	}
}

// StoreSeal creates the object from its parts, exclusively and durably. Answer: OK, or CodeExists.
type StoreSeal struct{ Object Ref }

// StoreDrop abandons an object that was not sealed. Answer: OK.
type StoreDrop struct{ Object Ref }

func (*StoreSeal) Kind() Kind        { return KindStoreSeal }
func (m *StoreSeal) fields(c *coder) { c.u32(&m.Object) }
func (*StoreDrop) Kind() Kind        { return KindStoreDrop }
func (m *StoreDrop) fields(c *coder) { c.u32(&m.Object) }

// StoreRead reads at most MaxPart bytes of an object. Answer: Content, shorter than asked for only at its end.
type StoreRead struct {
	Name string
	Off  int64
	Len  uint32
}

func (*StoreRead) Kind() Kind { return KindStoreRead }
func (m *StoreRead) fields(c *coder) {
	c.text(&m.Name, MaxName)
	c.size(&m.Off)
	c.u32(&m.Len)
	c.upTo(m.Len, MaxPart)
	c.span(m.Off, int64(m.Len))
}

// StoreStat asks for an object's size. Answer: StoreSize.
type StoreStat struct{ Name string }

func (*StoreStat) Kind() Kind        { return KindStoreStat }
func (m *StoreStat) fields(c *coder) { c.text(&m.Name, MaxName) }

// StoreSize is an object's size.
type StoreSize struct{ Size int64 }

func (*StoreSize) Kind() Kind        { return KindStoreSize }
func (m *StoreSize) fields(c *coder) { c.size(&m.Size) }

// StoreList asks for the objects under a prefix. The first call has List 0; the answer names the listing, and further
// calls with that number go on with it. Answer: StoreNames.
type StoreList struct {
	Prefix string
	List   Ref
}

func (*StoreList) Kind() Kind { return KindStoreList }
func (m *StoreList) fields(c *coder) {
	c.text(&m.Prefix, MaxName)
	c.u32(&m.List)
}

// StoreNames is a part of a listing. More: there are others; ask again with List.
type StoreNames struct {
	List  Ref
	More  bool
	Names []StoreName
}

// StoreName is one object.
type StoreName struct {
	Name string
	Size int64
}

func (*StoreNames) Kind() Kind { return KindStoreNames }
func (m *StoreNames) fields(c *coder) {
	c.u32(&m.List)
	c.flag(&m.More)
	list(c, &m.Names, MaxExtents, 10, func(n *StoreName) {
		c.text(&n.Name, MaxName)
		c.size(&n.Size)
	})
	if m.More && len(m.Names) == 0 {
		c.fail("there is more behind nothing")
	}
}

// StoreRemove removes an object. Answer: OK.
type StoreRemove struct{ Name string }

func (*StoreRemove) Kind() Kind        { return KindStoreRemove }
func (m *StoreRemove) fields(c *coder) { c.text(&m.Name, MaxName) }

// StoreProbe asks what the store can do, and how much room is left. Answer: StoreIs.
type StoreProbe struct{}

func (*StoreProbe) Kind() Kind      { return KindStoreProbe }
func (*StoreProbe) fields(c *coder) {}

// StoreIs is what the store can do. Free is in bytes, 2^63-1 where it is not known.
type StoreIs struct {
	ExclusiveCreate, DurableNames, FreshReads bool
	Free                                      int64
}

func (*StoreIs) Kind() Kind { return KindStoreIs }
func (m *StoreIs) fields(c *coder) {
	c.flag(&m.ExclusiveCreate)
	c.flag(&m.DurableNames)
	c.flag(&m.FreshReads)
	c.amount(&m.Free, math.MaxInt64)
}
