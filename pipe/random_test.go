package pipe_test

import (
	"bytes"
	"context"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae/pipe"
	"github.com/hikae/hikae/pipe/pipetest"
)

// What is new and looks like chance is counted, at every compression; text, zeros and what the target had are not.
func TestRandomIsCounted(t *testing.T) {
	const bs = 256 << 10
	text := []byte(strings.Repeat("all work and no play ", 2*bs/21+1))[:2*bs]
	chance := randomBytes(3 * bs)
	content := bytes.Join([][]byte{text, chance, make([]byte, bs), chance[:bs], randomBytes(1000)}, nil)
	for _, level := range levels {
		d := newDisk(t, bs, int64(len(content)))
		stats, err := pipe.Copy(context.Background(), d, pipetest.Bytes(content), &pipe.CopyOptions{Compression: level})
		require.NoError(t, err)
		require.Equal(t, int64(3*bs), stats.Random, "%s: a block that is there twice is moved once, and a piece of 1000 bytes is too short to tell", level)
		require.GreaterOrEqual(t, stats.Moved, stats.Random)
		require.NoError(t, d.writer.Close())
	}
}
