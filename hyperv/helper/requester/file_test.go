package requester_test

import (
	"context"
	"io"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae/hyperv/helper/requester"
	"github.com/hikae/hikae/hyperv/helper/wire"
)

// stuckVSS has files whose reads do not come back before let is closed, as of a disk that does not answer.
type stuckVSS struct {
	requester.VSS
	inside, let chan struct{}
}

func (v stuckVSS) Open(ctx context.Context, device, path string) (requester.File, error) {
	f, err := v.VSS.Open(ctx, device, path)
	return stuckFile{f, v}, err
}

type stuckFile struct {
	requester.File
	v stuckVSS
}

func (f stuckFile) ReadAt([]byte, int64) (int, error) {
	f.v.inside <- struct{}{}
	<-f.v.let
	return 0, io.ErrUnexpectedEOF
}

// R052: a read that hangs in the host's disk keeps no set: not from its deletion, and not when the client dies. The file is closed
// when the read comes back.
func TestHungReadKeepsNoSet(t *testing.T) {
	for name, end := range map[string]func(p *peer, a *wire.TakeAnswer){
		"delete": func(p *peer, a *wire.TakeAnswer) { p.must(&wire.Delete{Set: a.Set}, &wire.Done{Of: wire.KindDelete}) },
		"death": func(p *peer, _ *wire.TakeAnswer) {
			p.conn.Close()
			require.ErrorIs(p.t, p.over(), io.EOF)
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := machine(t)
			v := stuckVSS{s, make(chan struct{}, 1), make(chan struct{})}
			p := serve(t, v, nil).hello(0)
			a, f := p.take(web1), wire.OpenAnswer{}
			p.must(&wire.Open{Set: a.Set, Name: `C:\VMs\web1\web1.vhdx`}, &f)
			p.send(&wire.ReadAt{File: f.File, Length: 1})
			<-v.inside
			began := time.Now()
			end(p, a)
			require.Less(t, time.Since(began), 10*time.Second)
			require.Equal(t, []string{"1 open files"}, s.Left())
			require.Empty(t, p.noted())
			close(v.let)
			require.Eventually(t, func() bool { return len(s.Left()) == 0 }, 5*time.Second, time.Millisecond)
		})
	}
}
