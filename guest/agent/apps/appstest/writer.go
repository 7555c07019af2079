//go:build linux

package appstest

import (
	"bufio"
	"fmt"
	"io"
	"os/exec"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"
)

// Writer inserts 1, 2, 3 … into the table acked, each in its own transaction, and knows which the server has
// acknowledged.
type Writer struct {
	acked, sent atomic.Int64

	end  chan struct{}
	once sync.Once
	done chan struct{}
	err  error
}

// NewWriter starts one on a client that reads statements, one a line, and answers with a line. insert has %d for the
// number and for what is answered.
func NewWriter(t testing.TB, client *exec.Cmd, insert string) *Writer {
	t.Helper()
	in, err := client.StdinPipe()
	require.NoError(t, err)
	out, err := client.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, client.Start())
	w := &Writer{end: make(chan struct{}), done: make(chan struct{})}
	go w.run(client, in, bufio.NewReader(out), insert)
	t.Cleanup(w.Stop)
	return w
}

func (w *Writer) run(client *exec.Cmd, in io.WriteCloser, out *bufio.Reader, insert string) {
	defer close(w.done)
	defer client.Wait()
	defer in.Close()
	for n := int64(1); ; n++ {
		select {
		case <-w.end:
			return
		default:
		}
		w.sent.Store(n)
		if _, w.err = fmt.Fprintf(in, insert+"\n", n, n); w.err != nil {
			return
		}
		var line string
		if line, w.err = out.ReadString('\n'); w.err != nil {
			return
		}
		if line != fmt.Sprintf("%d\n", n) {
			w.err = fmt.Errorf("an answer %q to %d", line, n)
			return
		}
		w.acked.Store(n)
	}
}

// Acked is the last number that the server has acknowledged; Sent the last one that it may have.
func (w *Writer) Acked() int64 { return w.acked.Load() }

// Sent is the last number that was sent.
func (w *Writer) Sent() int64 { return w.sent.Load() }

// Stop ends it. It is an error of the test where the server ended it.
func (w *Writer) Stop() {
	w.once.Do(func() { close(w.end) })
	<-w.done
}

// Err is why it ended, where it was not stopped.
func (w *Writer) Err() error {
	w.Stop()
	return w.err
}

// MakeTable is the statement that makes its table.
const MakeTable = "CREATE TABLE acked (n bigint PRIMARY KEY)"

// Inserts for the two kinds of server.
const (
	InsertPostgres = `INSERT INTO acked VALUES (%d) RETURNING %d;`
	InsertMariaDB  = `INSERT INTO acked VALUES (%d); SELECT %d;`
)
