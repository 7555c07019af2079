package winsvc

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"io"
	"os"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/windows"
)

// client opens a pipe as a session on SMB would, without overlapped I/O.
func client(t *testing.T, name string) *os.File {
	t.Helper()
	p, err := windows.UTF16PtrFromString(PipePath(name))
	require.NoError(t, err)
	h, err := windows.CreateFile(p, windows.GENERIC_READ|windows.GENERIC_WRITE, 0, nil, windows.OPEN_EXISTING, 0, 0)
	require.NoError(t, err)
	f := os.NewFile(uintptr(h), PipePath(name))
	t.Cleanup(func() { f.Close() })
	return f
}

func listen(t *testing.T, name string, opts *PipeOptions) *Pipe {
	t.Helper()
	p, err := ListenPipe(name, opts)
	require.NoError(t, err)
	t.Cleanup(func() { p.Close() })
	return p
}

// Bytes come over whole and in order, both ways at once, however they are cut.
func TestPipeBothWays(t *testing.T) {
	p := listen(t, "hikae-both", nil)
	data := make([]byte, 3<<20+17)
	rand.Read(data)
	type result struct {
		got []byte
		err error
	}
	there := make(chan result, 1)
	go func() {
		f := client(t, "hikae-both")
		var got bytes.Buffer
		_, err := io.CopyN(&got, f, int64(len(data)))
		if err == nil {
			_, err = f.Write(got.Bytes())
		}
		there <- result{got.Bytes(), err}
	}()
	require.NoError(t, p.Accept(t.Context()))
	_, err := p.Write(data)
	require.NoError(t, err)
	back := make([]byte, len(data))
	_, err = io.ReadFull(p, back)
	require.NoError(t, err)
	r := <-there
	require.NoError(t, r.err)
	require.True(t, bytes.Equal(data, r.got) && bytes.Equal(data, back))
}

// A read that waits and a write at the same time do not hinder each other.
func TestPipeFullDuplex(t *testing.T) {
	p := listen(t, "hikae-duplex", nil)
	f := make(chan *os.File, 1)
	go func() { f <- client(t, "hikae-duplex") }()
	require.NoError(t, p.Accept(t.Context()))
	c := <-f
	read := make(chan byte, 1)
	go func() {
		var b [1]byte
		p.Read(b[:])
		read <- b[0]
	}()
	time.Sleep(50 * time.Millisecond) // the read waits now
	_, err := p.Write([]byte("hello"))
	require.NoError(t, err)
	var got [5]byte
	_, err = io.ReadFull(c, got[:])
	require.NoError(t, err)
	_, err = c.Write([]byte{42})
	require.NoError(t, err)
	require.Equal(t, byte(42), <-read)
}

// The client's end is the end of the stream.
func TestPipeClientLeaves(t *testing.T) {
	p := listen(t, "hikae-leaves", nil)
	go func() {
		f := client(t, "hikae-leaves")
		f.Write([]byte("bye"))
		f.Close()
	}()
	require.NoError(t, p.Accept(t.Context()))
	got, err := io.ReadAll(p)
	require.NoError(t, err)
	require.Equal(t, "bye", string(got))
	_, err = p.Write(make([]byte, 1<<20))
	require.Error(t, err)
}

// Nothing waits for ever: not for a client, not for one that does not read, not for one that does not write.
func TestPipeDeadlines(t *testing.T) {
	p := listen(t, "hikae-late", &PipeOptions{WriteLimit: 200 * time.Millisecond})
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	require.ErrorIs(t, p.Accept(ctx), context.DeadlineExceeded)

	f := make(chan *os.File, 1)
	go func() { f <- client(t, "hikae-late") }()
	require.NoError(t, p.Accept(t.Context()), "a wait that ended does no harm to the next")
	<-f
	began := time.Now()
	_, err := p.Write(make([]byte, 8<<20))
	require.ErrorIs(t, err, os.ErrDeadlineExceeded)
	require.Less(t, time.Since(began), 5*time.Second)

	read := make(chan error, 1)
	go func() {
		var b [1]byte
		_, err := p.Read(b[:])
		read <- err
	}()
	time.Sleep(50 * time.Millisecond)
	began = time.Now()
	p.Close()
	require.Less(t, time.Since(began), flushLimit+2*time.Second)
	select {
	case err := <-read:
		require.Error(t, err)
	case <-time.After(10 * time.Second):
		t.Fatal("a read outlives Close")
	}
	_, err = p.Write([]byte("x"))
	require.ErrorIs(t, err, os.ErrClosed)
}

// What was written before Close arrives.
func TestPipeCloseDelivers(t *testing.T) {
	p := listen(t, "hikae-last", nil)
	got := make(chan string, 1)
	go func() {
		f := client(t, "hikae-last")
		time.Sleep(200 * time.Millisecond)
		b, _ := io.ReadAll(f)
		got <- string(b)
	}()
	require.NoError(t, p.Accept(t.Context()))
	_, err := p.Write([]byte("last words"))
	require.NoError(t, err)
	require.NoError(t, p.Close())
	require.Equal(t, "last words", <-got)
}

// A name that somebody has taken is not taken again: whoever made it could stand between.
func TestPipeFirst(t *testing.T) {
	listen(t, "hikae-first", nil)
	_, err := ListenPipe("hikae-first", nil)
	require.Error(t, err)
	_, err = ListenPipe(`evil\name`, nil)
	require.Error(t, err)
}

func TestPrivateDir(t *testing.T) {
	parent, err := os.MkdirTemp("", "")
	require.NoError(t, err)
	dir := parent + `\hikae-private`
	defer func() { require.NoError(t, errors.Join(os.Remove(dir), os.Remove(parent))) }()
	require.NoError(t, MakePrivateDir(dir))
	require.ErrorIs(t, MakePrivateDir(dir), os.ErrExist)
	sd, err := windows.GetNamedSecurityInfo(dir, windows.SE_FILE_OBJECT, windows.DACL_SECURITY_INFORMATION)
	require.NoError(t, err)
	t.Log(sd.String())
	require.NotContains(t, sd.String(), "WD", "nothing for everybody")
}
