package hypervtest

// quiesce brings the guest's data to a consistent state, and notes what its disks hold then. It is called under g.mu, which holds the
// guest's writes until it is let go of: the guest stands still that long.
func (g *Guest) quiesce() error {
	if !g.on {
		g.pin()
		return nil // what is off is consistent
	}
	how, row := "the guest's VSS asks its writers", "R091"
	if g.os == "linux" {
		how = "fsfreeze (R142)"
	}
	if !g.integration {
		g.h.event(Event{Actor: "guest", Name: "freeze failed", VM: g.id, Detail: "no integration services", Row: row})
		return &FaultError{Code: 32768, Reason: "the guest has no integration services for volume shadow copies"}
	}
	if err := g.h.eventFault(g.id, "freeze").err(); err != nil {
		g.h.event(Event{Actor: "guest", Name: "freeze failed", VM: g.id, Detail: err.Error(), Row: row})
		return err
	}
	g.pin()
	g.h.event(Event{Actor: "guest", Name: "freeze", VM: g.id, Detail: how, Row: row})
	return nil
}

// thaw lets the guest's applications go on. It is called under g.mu.
func (g *Guest) thaw() error {
	if !g.on {
		return nil
	}
	err := g.h.eventFault(g.id, "thaw").err()
	detail := ""
	if err != nil {
		detail = err.Error()
	}
	g.h.event(Event{Actor: "guest", Name: "thaw", VM: g.id, Detail: detail, Row: "R091"})
	return err
}

// pin notes what the disks hold now, for AtFreeze.
func (g *Guest) pin() {
	for _, d := range g.drives {
		d.frozen = d.now()
	}
}
