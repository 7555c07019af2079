package main

import (
	"fmt"
	"runtime"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// The root key's signature says who wrote a checkpoint, and not that it is sane (RELIABILITY bar 36).
func TestCheckpointsHaveBounds(t *testing.T) {
	t.Parallel()
	const every = 4
	zeroes := strings.Repeat("0", 64)
	lists := map[string]string{
		"hashes": fmt.Sprintf("[%q,%q,%q]", zeroes, zeroes, zeroes), "keys": "[]", "leases": "[]", "points": "[]", "held": "[]", "tombs": "[]",
		"bad": "[]", "slots": "[]", "alien": "[]", "audit": "[]",
	}
	parse := func(name, value string) (uint64, error) {
		var b strings.Builder
		fmt.Fprintf(&b, `{"k":1,"n":%d`, every-1)
		for n, v := range lists {
			if n != name {
				fmt.Fprintf(&b, `,%q:%s`, n, v)
			}
		}
		if name != "" {
			fmt.Fprintf(&b, `,%q:%s`, name, value)
		}
		body := []byte(b.String() + "}")
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		_, err := (&repository{every: every}).parseCheckpoint(body, 1)
		runtime.ReadMemStats(&after)
		return after.TotalAlloc - before.TotalAlloc, err
	}
	list := func(entry string, bytes int) string {
		return "[" + strings.Repeat(entry+",", bytes/(len(entry)+1)) + entry + "]"
	}
	_, err := parse("", "")
	require.NoError(t, err)
	_, err = parse("bad", `[{"id":"`+zeroes+`","n":1}]`)
	require.NoError(t, err)
	_, err = parse("held", `[{"id":"`+zeroes[:32]+`","note":"`+strings.Repeat("x", 1000)+`"}]`)
	require.NoError(t, err)

	const much = 15 << 20
	for name, value := range map[string]string{
		"leases": list("{}", much), "points": list("{}", much), "keys": list("null", much), "slots": list("[]", much), "alien": list(`""`, 4<<20),
		"held":  `[{"id":"` + zeroes[:32] + `","note":"` + strings.Repeat("x", maxEntry) + `"}]`,
		"audit": "null", "tombs": `[{"name":"a","n":1,"mark":null}]`,
	} {
		cost, err := parse(name, value)
		require.ErrorIs(t, err, errDamaged, name)
		require.Less(t, cost, uint64(320<<20), "bytes that were ever allocated for %s", name)
	}
}
