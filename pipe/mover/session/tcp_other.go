//go:build !linux

package session

import (
	"net"
	"time"
)

// tune has nothing to set here: Go turns TCP_NODELAY on, and the deadlines of reads and writes find a dead line.
func tune(net.Conn, time.Duration) {}

// acknowledged is not asked for here.
func acknowledged(net.Conn) (uint64, bool) { return 0, false }
