package requester

import (
	"sync"
	"time"
)

// file is an open file of a set. Whoever reads holds it: it is closed when it was given up and the last one has left.
type file struct {
	of   *set
	f    File
	idle chan struct{} // closed when f is

	mu    sync.Mutex
	reads int
	ended bool
}

// hold keeps the file open until leave. It reports false when it was given up.
func (f *file) hold() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.ended {
		return false
	}
	f.reads++
	return true
}

func (f *file) leave() {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.reads--; f.ended && f.reads == 0 {
		f.close()
	}
}

// giveUp lets nobody else in.
func (f *file) giveUp() {
	f.mu.Lock()
	defer f.mu.Unlock()
	if !f.ended && f.reads == 0 {
		f.close()
	}
	f.ended = true
}

func (f *file) close() {
	_ = f.f.Close() // it was only read
	close(f.idle)
}

// closeAll gives files up, and waits a moment for those who read. A disk that does not answer must not keep a set from its end.
func closeAll(list []*file) {
	for _, f := range list {
		f.giveUp()
	}
	late := time.NewTimer(strayLimit)
	defer late.Stop()
	for _, f := range list {
		select {
		case <-f.idle:
		case <-late.C:
			return
		}
	}
}
