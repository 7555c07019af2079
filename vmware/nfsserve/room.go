package nfsserve

import (
	"fmt"
	"sync"
	"syscall"
	"time"

	"github.com/hikae/hikae/internal/freespace"
)

// room sees that what the host writes leaves some of this machine's disk free.
type room struct {
	folder string
	least  int64 // bytes that stay free
	async  bool

	mu   sync.Mutex
	next time.Time // when the system is asked again
	err  error
}

const (
	leastFree = 1 << 30
	roomEvery = 100 * time.Millisecond
)

// ask is an error that wraps ENOSPC where there is too little.
func (r *room) ask() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if now := time.Now(); now.After(r.next) {
		r.next = now.Add(roomEvery)
		r.err = nil
		if _, free, err := freespace.Of(r.folder); err == nil && free < uint64(r.least) {
			r.err = fmt.Errorf("%s has %d bytes free, and %d stay free: %w", r.folder, free, r.least, syscall.ENOSPC)
		}
	}
	return r.err
}
