package kvm

import (
	"bufio"
	"bytes"
	"encoding/json"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// tap stands between a session and the sockets of QEMU and the guest agent. It counts the commands that pass, and at
// one of them it strikes.
type tap struct {
	t *testing.T

	mu     sync.Mutex
	names  []string // commands that passed
	at     int      // which one to strike at, from 1; zero: none
	after  bool     // the command is passed on before
	strike func()
	hold   bool   // what comes behind the struck command is passed on
	mute   string // a command whose answer never comes
	muted  int    // so many times still
}

// open puts the tap between path and the socket at upstream, until the test ends or the tap is shut.
func (p *tap) open(path, upstream string) (shut func()) {
	l, err := net.Listen("unix", path)
	require.NoError(p.t, err)
	var group sync.WaitGroup
	group.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			group.Go(func() { p.pass(c, upstream) })
		}
	})
	shut = sync.OnceFunc(func() {
		l.Close()
		group.Wait()
	})
	p.t.Cleanup(shut)
	return shut
}

func (p *tap) pass(client net.Conn, upstream string) {
	defer client.Close()
	server, err := net.Dial("unix", upstream)
	if err != nil {
		return
	}
	defer server.Close()
	var mute atomic.Bool
	var back sync.WaitGroup
	back.Go(func() {
		buf := make([]byte, 64<<10)
		for {
			n, err := server.Read(buf)
			if n > 0 && !mute.Load() {
				client.Write(buf[:n])
			}
			if err != nil {
				client.Close()
				return
			}
		}
	})
	defer back.Wait()
	defer server.Close()
	r := bufio.NewReaderSize(client, 1<<20)
	for {
		line, err := r.ReadBytes('\n')
		if err != nil {
			return
		}
		if p.mutes(line) { // from here on nothing comes back by this connection
			mute.Store(true)
		}
		if p.deal(line, server) {
			return
		}
	}
}

// mutes reports whether the answer to a command is to be lost.
func (p *tap) mutes(line []byte) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.muted == 0 || !bytes.Contains(line, []byte(p.mute)) {
		return false
	}
	p.muted--
	return true
}

// deal passes a command on and strikes when its time has come. What was sent behind it is lost, as it is when QEMU
// sees its client go.
func (p *tap) deal(line []byte, server net.Conn) (struck bool) {
	var cmd struct{ Execute string }
	text := line
	for len(text) > 0 && text[0] == 0xff {
		text = text[1:]
	}
	json.Unmarshal(text, &cmd)
	p.mu.Lock()
	p.names = append(p.names, cmd.Execute)
	now, after, strike := len(p.names) == p.at, p.after, p.strike
	p.mu.Unlock()
	if !now || after {
		server.Write(line)
	}
	if !now {
		return false
	}
	if after {
		time.Sleep(150 * time.Millisecond) // QEMU does what it was told
	}
	strike()
	return !p.hold
}

// arm begins to count anew.
func (p *tap) arm(at int, after bool, strike func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.names, p.at, p.after, p.strike = nil, at, after, strike
}

func (p *tap) passed() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.names
}
