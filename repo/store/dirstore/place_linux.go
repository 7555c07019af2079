package dirstore

import (
	"fmt"
	"os"
	"syscall"

	"github.com/hikae/hikae/repo/store"
)

var _ store.Placed = (*Store)(nil)

// Place is the folder itself: a copy of it is another one. It may be another one after a restart, too.
func (s *Store) Place() string {
	fi, err := os.Stat(s.dir)
	if s.dir == "" || err != nil {
		return ""
	}
	st, ok := fi.Sys().(*syscall.Stat_t)
	if !ok {
		return ""
	}
	return fmt.Sprintf("folder %d on device %d", st.Ino, st.Dev)
}
