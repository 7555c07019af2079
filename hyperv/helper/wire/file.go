package wire

// Open opens a file of a set by the name that it has in production.
type Open struct {
	Set  uint32
	Name string
}

// Kind implements [Message].
func (*Open) Kind() byte { return KindOpen }

func (m *Open) put(e *encoder) {
	e.u32(m.Set)
	e.text(m.Name)
}

func (m *Open) take(d *decoder) { m.Set, m.Name = d.u32(), d.text() }

// OpenAnswer is an open file.
type OpenAnswer struct {
	File uint32
	Size uint64 // bytes
}

// Kind implements [Message].
func (*OpenAnswer) Kind() byte { return KindOpen + KindAnswer }

func (m *OpenAnswer) put(e *encoder) {
	e.u32(m.File)
	e.u64(m.Size)
}

func (m *OpenAnswer) take(d *decoder) { m.File, m.Size = d.u32(), d.u64() }

// ReadAt reads of an open file.
type ReadAt struct {
	File   uint32
	Offset uint64
	Length uint32 // 1 to MaxRead
}

// Kind implements [Message].
func (*ReadAt) Kind() byte { return KindRead }

func (m *ReadAt) put(e *encoder) {
	e.u32(m.File)
	e.u64(m.Offset)
	e.u32(m.Length)
}

func (m *ReadAt) take(d *decoder) { m.File, m.Offset, m.Length = d.u32(), d.u64(), d.u32() }

// ReadAnswer is bytes. Data of a decoded one are the frame's own, and those of an encoded one the answer's: they are not copied.
type ReadAnswer struct{ Data []byte }

// Kind implements [Message].
func (*ReadAnswer) Kind() byte        { return KindRead + KindAnswer }
func (m *ReadAnswer) put(e *encoder)  { e.b = m.Data }
func (m *ReadAnswer) take(d *decoder) { m.Data = d.take(len(d.b)) }

// Shut closes a file.
type Shut struct{ File uint32 }

// Kind implements [Message].
func (*Shut) Kind() byte        { return KindShut }
func (m *Shut) put(e *encoder)  { e.u32(m.File) }
func (m *Shut) take(d *decoder) { m.File = d.u32() }

// List lists a folder of a set.
type List struct {
	Set    uint32
	Folder string
}

// Kind implements [Message].
func (*List) Kind() byte { return KindList }

func (m *List) put(e *encoder) {
	e.u32(m.Set)
	e.text(m.Folder)
}

func (m *List) take(d *decoder) { m.Set, m.Folder = d.u32(), d.text() }

// Entry is one of a folder.
type Entry struct {
	Name string
	Size uint64
	Dir  bool
}

// ListAnswer has a folder's.
type ListAnswer struct{ Entries []Entry }

// Kind implements [Message].
func (*ListAnswer) Kind() byte { return KindList + KindAnswer }

func (m *ListAnswer) put(e *encoder) {
	e.count(len(m.Entries))
	for _, n := range m.Entries {
		e.text(n.Name)
		e.u64(n.Size)
		e.yes(n.Dir)
	}
}

func (m *ListAnswer) take(d *decoder) {
	for range d.count(11) {
		m.Entries = append(m.Entries, Entry{d.text(), d.u64(), d.yes()})
	}
}
