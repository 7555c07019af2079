package hypervtest

// Beside a disk whose changes are tracked lie two files, which hold what is remembered of them. What is in them is not documented; these
// only have to be there: where somebody moves a disk without them its changes are not known.

// trackingFiles are those of a disk.
func (d *drive) trackingFiles() []string {
	n := d.tip
	for n.parent != nil {
		n = n.parent
	}
	return []string{n.name + ".rct", n.name + ".mrt"}
}

// touchTracking makes them where they are not there.
func (h *Host) touchTracking(d *drive) {
	for _, name := range d.trackingFiles() {
		if h.exists(name) {
			continue
		}
		if err := h.write(name, []byte("hypervtest change tracking\n")); err != nil {
			h.event(Event{Actor: "host", Name: "change tracking failed", VM: d.g.id, Detail: err.Error()})
		}
	}
}

// tracked says that they are there.
func (h *Host) tracked(d *drive) bool {
	for _, name := range d.trackingFiles() {
		if !h.exists(name) {
			return false
		}
	}
	return true
}
