package natsqueue

import (
	"bytes"
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae/job/queue"
)

// A dead letter that is too long, or nested without end, is refused.
func TestDeadLetterOfHostileSize(t *testing.T) {
	for _, text := range []string{strings.Repeat(" ", queue.MaxDocument+1), `{"version":1,"message":` + strings.Repeat("[", queue.MaxBody/2)} {
		_, err := decodeDead([]byte(text))
		require.ErrorIs(t, err, queue.ErrInvalid)
	}
}

// A dead letter that can be read holds a message that can be put back; all else is an error that says of what kind.
func FuzzDecodeDead(f *testing.F) {
	m := queue.Message{ID: "nightly/r1/web1", Label: "host/esx1", Body: json.RawMessage(`{"a":"<&>"}`)}
	good, err := queue.Marshal(deadDoc{1, queue.DeadLetter{Message: m, Why: "it is away", Time: time.Unix(1795399200, 0).UTC()}})
	require.NoError(f, err)
	f.Add(good)
	f.Add(good[:len(good)/2])
	f.Add(append(bytes.Clone(good), good...))
	f.Add([]byte(`{"version":2}`))
	f.Add([]byte(`{"version":1,"message":{"body":` + strings.Repeat("[", 20000)))
	f.Fuzz(func(t *testing.T, b []byte) {
		letter, err := decodeDead(b)
		var newer *queue.VersionError
		if err != nil {
			require.True(t, errors.Is(err, queue.ErrInvalid) || errors.As(err, &newer), "%v", err)
			return
		}
		_, err = letter.Message.Encode()
		require.NoError(t, err)
		written, err := queue.Marshal(deadDoc{1, letter})
		require.NoError(t, err)
		again, err := decodeDead(written)
		require.NoError(t, err)
		twice, err := queue.Marshal(deadDoc{1, again})
		require.NoError(t, err)
		require.Equal(t, string(written), string(twice))
	})
}
