package nfc

import (
	"encoding/binary"
	"net"
)

// records hands out a connection one TLS record at a time. A tls.Conn over it never holds a byte that comes after the
// record that it was asked for, so that the stream below can be taken over when TLS is left.
type records struct {
	net.Conn
	head [5]byte // type, version, length
	have int     // bytes of head that were handed out
	left int     // bytes of the record after it
}

func (r *records) Read(p []byte) (int, error) {
	if r.have < len(r.head) {
		n, err := r.Conn.Read(p[:min(len(p), len(r.head)-r.have)])
		copy(r.head[r.have:], p[:n])
		if r.have += n; r.have == len(r.head) {
			r.begin(int(binary.BigEndian.Uint16(r.head[3:])))
		}
		return n, err
	}
	n, err := r.Conn.Read(p[:min(len(p), r.left)])
	r.begin(r.left - n)
	return n, err
}

// begin says how much of a record is left; after it comes the next one's head.
func (r *records) begin(left int) {
	if r.left = left; left == 0 {
		r.have = 0
	}
}
