package hypervtest

import "slices"

// Event is one thing that happened, in order, whoever did it.
type Event struct {
	N      int    // from 1
	Actor  string // requester, host, writer, guest, provider: who did it
	Name   string // what: request, freeze, thaw, checkpoint, merge …
	VM     string // GUID, in small letters; empty where it is of no VM
	Detail string
	Row    string // the requirement that it stands for: R092; empty for none
}

// Events are those so far.
func (h *Host) Events() []Event {
	h.diary.Lock()
	defer h.diary.Unlock()
	return slices.Clone(h.events)
}

// ClearEvents forgets them; numbers go on.
func (h *Host) ClearEvents() {
	h.diary.Lock()
	defer h.diary.Unlock()
	h.eventsGone += len(h.events)
	h.events = nil
}

// event records one. It takes no lock of the host's or a guest's, so that it can be called anywhere.
func (h *Host) event(e Event) {
	h.diary.Lock()
	defer h.diary.Unlock()
	e.N = h.eventsGone + len(h.events) + 1
	h.events = append(h.events, e)
}
