package hypervtest

import "context"

// pause holds all writes of all guests, with everything that they wrote in the files, until resume is called. Who wants the host's lock too
// takes it first.
func (h *Host) pause() (resume func(), err error) {
	h.places.Lock()
	list := h.ordered
	h.places.Unlock()
	for _, g := range list {
		g.mu.Lock()
	}
	resume = func() {
		for _, g := range list {
			g.mu.Unlock()
		}
	}
	for _, g := range list {
		for _, d := range g.drives {
			if d.file == nil {
				continue
			}
			if err := d.file.Flush(context.Background()); err != nil {
				resume()
				return nil, err
			}
		}
	}
	return resume, nil
}
