package requester_test

import (
	"bytes"
	"context"
	"io"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae/hyperv/helper/requester"
	"github.com/hikae/hikae/hyperv/helper/wire"
)

// said is a stream on which a client has said everything already.
type said struct {
	io.Reader
	io.Writer
}

func (said) Close() error { return nil }

func frames(t testing.TB, messages ...wire.Message) []byte {
	t.Helper()
	var b bytes.Buffer
	for i, m := range messages {
		f, err := wire.Encode(uint32(i+1), m)
		require.NoError(t, err)
		require.NoError(t, wire.Write(&b, f))
	}
	return b.Bytes()
}

// Whatever a client says, the session ends, and nothing is left of it.
func FuzzSession(f *testing.F) {
	hello := &wire.Hello{Version: wire.Version}
	f.Add(frames(f, hello, &wire.Components{}, &wire.Take{Mark: mark, VMs: []string{web1}}, &wire.Open{Set: 1, Name: `C:\VMs\web1\web1.vhdx`},
		&wire.ReadAt{File: 2, Length: 4}, &wire.Finish{Set: 1, Good: []string{web1}}, &wire.Delete{Set: 1}, &wire.Bye{}))
	f.Add(frames(f, hello, &wire.Take{Mark: mark, VMs: []string{web1, db1}, Full: true}, &wire.Sweep{Mark: mark}, &wire.List{Set: 1, Folder: `C:\`}))
	f.Add(frames(f, &wire.Ping{}))
	s := machine(f)
	book := &requester.DirBook{Dir: filepath.Join(f.TempDir(), "book")}
	f.Fuzz(func(t *testing.T, raw []byte) {
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		_ = requester.Serve(ctx, said{bytes.NewReader(raw), io.Discard}, s, &requester.Options{Book: book})
		require.NoError(t, ctx.Err(), "it ends by itself")
		require.Empty(t, s.Left())
		require.NoDirExists(t, book.Dir)
	})
}
