package hostfs

import (
	"context"
	"errors"
	"io/fs"
	"math"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func anyone(context.Context, string) (Login, error) {
	return Login{User: "u", Password: "p"}, nil
}

// The host's names become names of shares. R094.
func TestFind(t *testing.T) {
	s, err := New(Options{Machine: "HV1", Login: anyone})
	require.NoError(t, err)
	defer s.Close()
	for name, want := range map[string][3]string{
		`C:\VMs\a.vhdx`:                       {"HV1", "C$", `VMs\a.vhdx`},
		`d:/a/../b`:                           {"HV1", "D$", "b"},
		`C:\`:                                 {"HV1", "C$", ""},
		`\\?\E:\x`:                            {"HV1", "E$", "x"},
		`C:\ClusterStorage\Volume1\web.avhdx`: {"HV1", "C$", `ClusterStorage\Volume1\web.avhdx`},
		`\\fs1.corp\vms$\a\b`:                 {"fs1.corp", "vms$", `a\b`},
		`\\fs1\vms`:                           {"fs1", "vms", ""},
	} {
		p, err := s.find("open", name)
		require.NoError(t, err, name)
		require.Equal(t, want, [3]string{p.server, p.share.name, p.path}, name)
	}
	a, err := s.find("open", `C:\x`)
	require.NoError(t, err)
	b, err := s.find("open", `\\hv1\c$\X`)
	require.NoError(t, err)
	require.Same(t, a.share, b.share)
	require.Equal(t, a.key(), b.key())
}

// Shares are bounded, whatever a disk file names.
func TestSharesBounded(t *testing.T) {
	s, err := New(Options{Machine: "HV1", Login: anyone})
	require.NoError(t, err)
	defer s.Close()
	for i := range maxShares {
		_, err := s.find("open", `\\fs1\`+strings.Repeat("x", i+1)+`\a`)
		require.NoError(t, err)
	}
	_, err = s.find("open", `\\fs2\x\a`)
	require.ErrorIs(t, err, fs.ErrInvalid)
}

// What a server says of names and space is not believed further than it goes.
func TestPlain(t *testing.T) {
	for _, name := range []string{"a", "web 1.vhdx", "Größe", "C$", "a.b.c"} {
		require.True(t, plain(name), name)
	}
	for _, name := range []string{"", ".", "..", `a\b`, "a/b", "a:b", "*", "a ", "a.", "nul", "a\x00", `..\..\x`, strings.Repeat("a", 1000)} {
		require.False(t, plain(name), "%q", name)
	}
	require.Equal(t, int64(1<<62), product(math.MaxUint64, math.MaxUint64))
	require.Equal(t, int64(1<<62), product(1<<40, 1<<40))
	require.Equal(t, int64(0), product(5, 0))
	require.Equal(t, int64(20480), product(5, 4096))
}

func TestDiffers(t *testing.T) {
	now := time.Now()
	is := identity{id: 1, size: 2, written: now}
	require.Empty(t, is.differs(identity{id: 1, size: 2, written: now.UTC()}))
	for _, o := range []identity{{2, 2, now}, {1, 3, now}, {1, 2, now.Add(1)}} {
		require.NotEmpty(t, is.differs(o))
	}
}

// Servers that say nothing, nonsense, or too much end in an error, in time.
func TestBadServers(t *testing.T) {
	for name, answer := range map[string][]byte{
		"silence":  nil,
		"nonsense": []byte("HTTP/1.1 400 Bad Request\r\n\r\n"),
		"endless":  append([]byte{0, 0xff, 0xff, 0xff, 0xfe, 'S', 'M', 'B'}, make([]byte, 1<<20)...),
		"SMB 1":    append([]byte{0, 0, 0, 36, 0xff, 'S', 'M', 'B', 0x72}, make([]byte, 31)...),
		"zeros":    append([]byte{0, 0, 0, 200}, make([]byte, 200)...),
		"short":    append([]byte{0, 0, 0, 64, 0xfe, 'S', 'M', 'B', 64}, make([]byte, 59)...),
	} {
		t.Run(name, func(t *testing.T) {
			l, err := net.Listen("tcp", "127.0.0.1:0")
			require.NoError(t, err)
			done := make(chan struct{})
			go func() {
				defer close(done)
				for {
					c, err := l.Accept()
					if err != nil {
						return
					}
					_, _ = c.Write(answer)
					_, _ = c.Read(make([]byte, 4096))
					if answer != nil {
						_, _ = c.Write(answer)
					}
					_ = c.SetReadDeadline(time.Now().Add(2 * time.Second))
					for err = nil; err == nil; {
						_, err = c.Read(make([]byte, 4096))
					}
					_ = c.Close()
				}
			}()
			s, err := New(Options{Machine: "HV1", Login: anyone, Timeout: 300 * time.Millisecond, GiveUp: time.Second,
				Address: func(string) string { return l.Addr().String() }})
			require.NoError(t, err)
			begun := time.Now()
			_, err = s.Open(t.Context(), `C:\a`)
			require.Error(t, err)
			require.Less(t, time.Since(begun), 5*time.Second)
			require.NoError(t, errors.Join(s.Close(), l.Close()))
			<-done
		})
	}
}
