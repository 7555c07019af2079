package mover

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestLineWatch(t *testing.T) {
	var said []string
	w := lineWatch{address: "far:7420", giveUp: 30 * time.Minute, warn: func(text string) { said = append(said, text) }}
	at := time.Date(2026, 3, 1, 10, 31, 51, 0, time.Local)
	look := func(up bool, after time.Duration) { at = at.Add(after); w.look(up, at) }
	look(true, 0)
	look(false, time.Second)
	look(true, time.Second)
	require.Empty(t, said, "a short cut is nobody's concern")
	look(false, time.Second)
	for range 10 {
		look(false, time.Second)
	}
	require.Equal(t, []string{"the line to far:7420 is cut since 10:31:54; waiting for it until 11:01:54"}, said)
	look(true, 12*time.Second)
	look(true, time.Second)
	require.Equal(t, "the line to far:7420 is back after 22s", said[1])
	require.Len(t, said, 2)
}
