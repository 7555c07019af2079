package winrmchannel

import (
	"context"
	"math"
	"testing"
	"time"

	"github.com/hikae/hikae/guest/winrmchannel/winrmtest"
	"github.com/stretchr/testify/require"
)

// A listener that holds no answer back is not asked without a pause.
func TestEmptyAnswers(t *testing.T) {
	w := winrmtest.NewWindows()
	s := winrmtest.Start(t, base(winrmtest.Options{Hold: time.Millisecond}), func(ctx context.Context, p *winrmtest.Process) int {
		if p.Path == `C:\slow.exe` {
			time.Sleep(600 * time.Millisecond)
			return 3
		}
		return w.Run(ctx, p)
	})
	ch := open(t, way(s, Options{}))
	before := s.Count()
	r, err := ch.Run(soon(t), `C:\slow.exe`, nil, nil)
	require.NoError(t, err)
	require.Equal(t, 3, r.ExitCode)
	require.Less(t, s.Count()-before, 20)
}

// Whatever a caller takes, no size panics.
func TestDownloadBounds(t *testing.T) {
	w := winrmtest.NewWindows()
	s := winrmtest.Start(t, base(winrmtest.Options{TLS: true}), w.Run)
	ch := open(t, way(s, Options{}))
	dir := `C:\Windows\Temp\bounds`
	require.NoError(t, ch.MakeDir(soon(t), dir))
	require.NoError(t, ch.Upload(soon(t), dir+`\a`, []byte("abc"), 0))
	got, err := ch.Download(soon(t), dir+`\a`, math.MaxInt64)
	require.NoError(t, err)
	require.Equal(t, "abc", string(got))
	for _, most := range []int64{-1, math.MinInt64, 0} {
		_, err = ch.Download(soon(t), dir+`\a`, most)
		require.ErrorIs(t, err, errLong)
	}
}

// The bound of an input is for others' input: a file within its own may take more, packed.
func TestUploadBound(t *testing.T) {
	s := winrmtest.Start(t, base(winrmtest.Options{}), winrmtest.NewWindows().Run)
	ch := open(t, way(s, Options{}))
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	input := make([]byte, maxInput+1)
	_, err := ch.Run(ended, `C:\x.exe`, nil, input)
	require.ErrorIs(t, err, errInput)
	_, err = ch.(*channel).link.run(ended, `C:\x.exe`, nil, input, maxStream) // as Upload does
	require.ErrorIs(t, err, context.Canceled)
	require.NotErrorIs(t, err, errInput)
}
