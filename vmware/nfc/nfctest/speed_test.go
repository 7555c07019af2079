package nfctest

import (
	"fmt"
	"io"
	"testing"

	"github.com/stretchr/testify/require"
)

// BenchmarkRead asks for 2 MiB at a time, four under way, and throws the answers away: what the service can give.
func BenchmarkRead(b *testing.B) {
	for _, ssl := range []bool{false, true} {
		b.Run(fmt.Sprintf("ssl=%v", ssl), func(b *testing.B) {
			s := listen(b, nil)
			require.NoError(b, s.AddTicket(Ticket{Session: vectorSession}))
			c := dial(b, s)
			c.login(ssl)
			c.handshake()
			c.say("aio", "open session large")
			c.expect("aio", "open session answer")
			c.ask("open file ro")
			const size = 2 << 20
			request := make([]byte, headBytes+ioBytes)
			putHead(request, typeIO, ioBytes, 0)
			transfer{handle: handles, direction: fromDisk, total: size, n: size, wireLen: size}.put(request[headBytes:])
			b.SetBytes(size)
			b.ResetTimer()
			go func() {
				for range b.N {
					if _, err := c.Write(request); err != nil {
						return
					}
				}
			}()
			_, err := io.CopyN(io.Discard, c, int64(b.N)*(headBytes+ioBytes+size))
			require.NoError(b, err)
		})
	}
}
