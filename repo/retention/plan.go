package retention

import (
	"encoding/json"
	"iter"
	"time"
)

// Decision is what becomes of one point.
type Decision struct {
	Point Point
	Keep  bool
	// Reasons are all that keep the point, or, for one that goes, what each rule of the policy says against it.
	Reasons []Reason
	// Doubt is set where the point's time is not relied on, whether it stays or goes.
	Doubt *Doubt
}

// MarshalJSON writes id, vm, log, time, keep, reasons (in words) and, where there is any, doubt.
func (d Decision) MarshalJSON() ([]byte, error) {
	doc := struct {
		ID      string     `json:"id"`
		VM      string     `json:"vm"`
		Log     uint64     `json:"log"`
		Time    *time.Time `json:"time,omitempty"`
		Keep    bool       `json:"keep"`
		Reasons []Reason   `json:"reasons"`
		Doubt   string     `json:"doubt,omitempty"`
	}{ID: d.Point.ID, VM: d.Point.VM, Log: d.Point.Log, Keep: d.Keep, Reasons: d.Reasons}
	if d.Doubt != nil {
		doc.Doubt = d.Doubt.String()
	}
	if d.Doubt == nil || d.Doubt.Kind != NoTime { // whose time JSON may be unable to write
		at := d.Point.Time.UTC()
		doc.Time = &at
	}
	return json.Marshal(doc)
}

// Plan is a decision for every point, by VM in the order of their names, each VM's points in the order of the log.
type Plan struct {
	Decisions []Decision
}

// Kept are the decisions for points that stay.
func (p *Plan) Kept() iter.Seq[Decision] {
	return p.where(func(d *Decision) bool { return d.Keep })
}

// Gone are the decisions for points that may be removed.
func (p *Plan) Gone() iter.Seq[Decision] {
	return p.where(func(d *Decision) bool { return !d.Keep })
}

// Doubtful are the decisions for points whose time is not relied on: what a person should look at.
func (p *Plan) Doubtful() iter.Seq[Decision] {
	return p.where(func(d *Decision) bool { return d.Doubt != nil })
}

func (p *Plan) where(want func(*Decision) bool) iter.Seq[Decision] {
	return func(yield func(Decision) bool) {
		for i := range p.Decisions {
			if want(&p.Decisions[i]) && !yield(p.Decisions[i]) {
				return
			}
		}
	}
}
