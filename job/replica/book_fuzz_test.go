package replica

import (
	"bytes"
	"encoding/json"
	"errors"
	"io/fs"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// An entry that is too long, or nested without end, is refused.
func TestBookOfHostileSize(t *testing.T) {
	for _, text := range []string{strings.Repeat(" ", maxEntry+1), `{"vm":` + strings.Repeat("[", maxEntry/2)} {
		_, err := decodeEntry([]byte(text))
		require.ErrorIs(t, err, fs.ErrInvalid)
	}
}

// What the book says of a VM is the same when it is written again, and is a step that there is; all else is an error that says of what kind.
func FuzzBook(f *testing.F) {
	at := time.Unix(1795399200, 0).UTC()
	for _, u := range []UnderWay{{VM: "web1", What: planned, Step: stepLastSync, Begun: at, Stopped: at, Point: "p"}, {VM: "web1", What: failback, Step: stepSealing, Begun: at, Before: "b", Forced: true}} {
		good, err := json.Marshal(entryText{bookVersion, u})
		require.NoError(f, err)
		read, err := decodeEntry(good)
		require.NoError(f, err)
		require.Equal(f, &u, read)
		f.Add(good)
		f.Add(good[:len(good)/2])
		f.Add(append(bytes.Clone(good), good...))
		f.Add(append(bytes.Clone(good), ']'))
	}
	f.Add([]byte(`{"version":2}`))
	f.Add([]byte(`{"vm":` + strings.Repeat("[", 20000)))
	f.Fuzz(func(t *testing.T, b []byte) {
		u, err := decodeEntry(b)
		if err != nil {
			require.True(t, errors.Is(err, fs.ErrInvalid) || errors.Is(err, errors.ErrUnsupported), "%v", err)
			return
		}
		require.True(t, stepOf(u.What, u.Step))
		written, err := json.Marshal(entryText{bookVersion, *u})
		require.NoError(t, err)
		again, err := decodeEntry(written)
		require.NoError(t, err)
		twice, err := json.Marshal(entryText{bookVersion, *again})
		require.NoError(t, err)
		require.Equal(t, string(written), string(twice))
	})
}
