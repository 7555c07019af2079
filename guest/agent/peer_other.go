//go:build !linux

package agent

import "net"

// ownPeer: the socket's own rights, and those of its folder, say who may connect.
func ownPeer(net.Conn) error { return nil }
