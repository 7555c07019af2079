package wire

// Take makes one set of shadow copies.
type Take struct {
	Mark          string // [a-z2-7]{26}
	Full          bool
	Transportable bool
	LimitMillis   uint32 // for all of it. Zero: 20 min
	VMs           []string
}

// Kind implements [Message].
func (*Take) Kind() byte { return KindTake }

func (m *Take) put(e *encoder) {
	e.text(m.Mark)
	var flags uint8
	if m.Full {
		flags |= 1
	}
	if m.Transportable {
		flags |= 2
	}
	e.u8(flags)
	e.u32(m.LimitMillis)
	e.texts(m.VMs)
}

func (m *Take) take(d *decoder) {
	m.Mark = d.text()
	flags := d.u8()
	if flags > 3 {
		d.fail("flags %#x", flags)
	}
	m.Full, m.Transportable = flags&1 != 0, flags&2 != 0
	m.LimitMillis, m.VMs = d.u32(), d.texts()
}

// Progress tells how far a Take has come.
type Progress struct {
	Stage         string // one word, as in Stages
	Detail        string // in words; may be empty
	ElapsedMillis uint32 // since the Take came
}

// The stages of a Take, in their order.
const (
	StageGather   = "gather"   // writers say what they have
	StageStart    = "start"    // the set is begun; another requester's is waited for
	StagePrepare  = "prepare"  // writers get ready
	StageSnapshot = "snapshot" // guests and writers freeze, volumes are pinned, data are recovered in the shadow copies
	StageStatus   = "status"   // writers say how it went
	StageUndo     = "undo"     // something failed: it is taken back
)

// Kind implements [Message].
func (*Progress) Kind() byte { return KindProgress }

func (m *Progress) put(e *encoder) {
	e.text(m.Stage)
	e.text(m.Detail)
	e.u32(m.ElapsedMillis)
}

func (m *Progress) take(d *decoder) { m.Stage, m.Detail, m.ElapsedMillis = d.text(), d.text(), d.u32() }

// Outcome is what became of one VM.
type Outcome struct {
	VM        string
	Caption   string // says by which means
	Recovered bool
	Files     []string
	Problem   string // empty: it is good
	Hint      string
}

// TakeAnswer is a set.
type TakeAnswer struct {
	Set      uint32
	ID       string
	Document string // the backup components document, of a transportable set
	Outcomes []Outcome
}

// Kind implements [Message].
func (*TakeAnswer) Kind() byte { return KindTake + KindAnswer }

func (m *TakeAnswer) put(e *encoder) {
	e.u32(m.Set)
	e.text(m.ID)
	e.long(m.Document)
	e.count(len(m.Outcomes))
	for _, o := range m.Outcomes {
		e.text(o.VM)
		e.text(o.Caption)
		e.yes(o.Recovered)
		e.texts(o.Files)
		e.text(o.Problem)
		e.text(o.Hint)
	}
}

func (m *TakeAnswer) take(d *decoder) {
	m.Set, m.ID, m.Document = d.u32(), d.text(), d.long()
	for range d.count(13) {
		m.Outcomes = append(m.Outcomes, Outcome{d.text(), d.text(), d.yes(), d.texts(), d.text(), d.text()})
	}
}

// Finish ends the backup of a set.
type Finish struct {
	Set  uint32
	Good []string // VMs whose points are durable
}

// Kind implements [Message].
func (*Finish) Kind() byte { return KindFinish }

func (m *Finish) put(e *encoder) {
	e.u32(m.Set)
	e.texts(m.Good)
}

func (m *Finish) take(d *decoder) { m.Set, m.Good = d.u32(), d.texts() }

// Delete deletes a set. One that was deleted before is no failure.
type Delete struct{ Set uint32 }

// Kind implements [Message].
func (*Delete) Kind() byte        { return KindDelete }
func (m *Delete) put(e *encoder)  { e.u32(m.Set) }
func (m *Delete) take(d *decoder) { m.Set = d.u32() }

// Sweep deletes what a dead session left under a mark.
type Sweep struct{ Mark string }

// Kind implements [Message].
func (*Sweep) Kind() byte        { return KindSweep }
func (m *Sweep) put(e *encoder)  { e.text(m.Mark) }
func (m *Sweep) take(d *decoder) { m.Mark = d.text() }

// SweepAnswer names what was deleted.
type SweepAnswer struct{ Deleted []string }

// Kind implements [Message].
func (*SweepAnswer) Kind() byte        { return KindSweep + KindAnswer }
func (m *SweepAnswer) put(e *encoder)  { e.texts(m.Deleted) }
func (m *SweepAnswer) take(d *decoder) { m.Deleted = d.texts() }
