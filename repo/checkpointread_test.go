package repo

import (
	"bytes"
	"fmt"
	"runtime"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// Bar 36: a checkpoint that the root key signed, and that is as long as one can be, takes at most 128 MiB to read, whatever it says, with
// the state that is made of it. The fast tier looks at shorter ones, which may take as many times their length.
func TestHostileCheckpoints(t *testing.T) {
	root := keyFromSeed(make([]byte, 32))
	l := &ledger{}
	l.every, l.repo, l.root = 1, id16{1}, publicOf(root)
	open := func(raw []byte) (*checkpointDocument, error) { return l.openCheckpoint(raw, 2) }
	plain := func(raw []byte) (*checkpointDocument, error) { return decodeCheckpoint(raw[signedMin:]) }
	cost := func(raw []byte, read func([]byte) (*checkpointDocument, error)) (uint64, error) {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		d, err := read(raw)
		if err == nil {
			_, err = d.state()
		}
		runtime.ReadMemStats(&after)
		return after.TotalAlloc - before.TotalAlloc, err
	}
	const bound = 128 << 20
	most := maxCheckpoint - 4096
	if t := tierOf(); t != "long" && t != "release" {
		most /= 16
	}
	limit := uint64(bound / (maxCheckpoint / most))
	for _, name := range []string{"hashes", "keys", "leases", "points", "unfinished", "leaving", "held", "tombs", "bad", "slots", "alien", "audit"} {
		for what, entry := range hostileEntries(name) {
			t.Run(name+"/"+what, func(t *testing.T) {
				raw := sign(root, signCheckpoint, l.repo, checkpointOf(name, func(i int) string { return entry }, most))
				taken, err := cost(raw, open)
				require.Error(t, err)
				require.Less(t, taken, limit)
			})
		}
		t.Run(name+"/as small as they can be", func(t *testing.T) {
			read := open
			if name == "hashes" { // more than a checkpoint may have: that is seen when they are read
				read = plain
			}
			raw := sign(root, signCheckpoint, l.repo, checkpointOf(name, smallestEntry(name), most))
			taken, err := cost(raw, read)
			require.NoError(t, err)
			require.Less(t, taken, limit)
		})
	}
}

// The list of texts has a bound of its own: one may be empty. Entries, too, have one.
func TestCheckpointBounds(t *testing.T) {
	read := func(name, entry string, n int) error {
		_, err := decodeCheckpoint([]byte(`{"` + name + `":[` + strings.Repeat(entry+",", n-1) + entry + "]}"))
		return err
	}
	require.NoError(t, read("alien", `""`, maxAlien))
	require.ErrorContains(t, read("alien", `""`, maxAlien+1), "entries in")
	text := func(n int) string { return `"` + strings.Repeat("x", n-2) + `"` }
	require.NoError(t, read("alien", text(maxCheckpointEntry), 2))
	require.ErrorContains(t, read("alien", text(maxCheckpointEntry+1), 2), "an entry of more than")
	require.ErrorContains(t, read("points", "{}", 2), "entries in")
	for _, bad := range []string{
		`{"alien":[],"alien":[]}`, `{"Alien":[]}`, `{"alien":null}`, `{"alien":[null]}`, `{"alien":[""]]}`, `{"alien":[""}`, `{"alien":[`, `{"alien":["]}`,
		`{"alien":["",]}`, `{"alien":[,""]}`, `{"alien":{}}`, `{"other":1}`, `{}{}`, `{} `, `[]`, ``, `{"k":1,}`, `{"k"}`, `{"k":[]}`,
	} {
		_, err := decodeCheckpoint([]byte(bad))
		require.Error(t, err, bad)
	}
}

// hostileEntries are short, or make much of little.
func hostileEntries(name string) map[string]string {
	switch name {
	case "hashes":
		return map[string]string{"nothing": `""`, "null": "null", "numbers": "1"}
	case "alien": // an empty text is one, and how many there may be is another test's
		return map[string]string{"null": "null", "numbers": "1"}
	}
	list := map[string]string{"nothing": "{}", "null": "null", "numbers": "1", "deep": strings.Repeat("[", 20_000)}
	switch name {
	case "keys":
		list["nulls"] = `{"vms":[` + strings.Repeat("null,", 50_000) + `null]}`
	case "leases", "audit":
		list["nulls"] = `{"points":[` + strings.Repeat("null,", 50_000) + `null]}`
		list["long"] = `{"points":["` + strings.Repeat("00", 1<<20) + `"]}`
	}
	return list
}

// smallestEntry makes entries that are right, all different, and as short as they can be.
func smallestEntry(name string) func(i int) string {
	id := func(i int) string { return fmt.Sprintf("%032x", i) }
	long := func(i int) string { return fmt.Sprintf("%064x", i) }
	return func(i int) string {
		point := fmt.Sprintf(`{"n":%d,"lease":1,"point":"%s","vm":"%s","object":"%s"}`, i, id(i), id(1), long(i))
		switch name {
		case "hashes":
			return `"` + long(i) + `"`
		case "keys":
			return fmt.Sprintf(`{"key":"%s","role":"full"}`, long(i))
		case "leases":
			return fmt.Sprintf(`{"n":%d,"hash":"%s","key":"%s","scope":"%s","access":"read"}`, i, long(i), long(1), long(0))
		case "held", "slots":
			return fmt.Sprintf(`{"id":"%s"}`, id(i))
		case "tombs":
			return fmt.Sprintf(`{"name":"data/%016x/%s","n":1,"mark":1}`, i, id(i))
		case "bad":
			return fmt.Sprintf(`{"id":"%s","n":1}`, long(i))
		case "alien":
			return `"a kind of a newer client"`
		case "audit":
			return fmt.Sprintf(`{"n":%d,"time":"2026-01-01T00:00:00Z","kind":"key","by":"%s","counts":true}`, i, long(1))
		}
		return point
	}
}

// checkpointOf is a document of about so many bytes with one long list.
func checkpointOf(name string, entry func(i int) string, bytesLong int) []byte {
	var b bytes.Buffer
	b.WriteString(`{"k":2,"n":1,`)
	if name != "hashes" {
		b.WriteString(`"hashes":["` + strings.Repeat("00", 32) + `"],`)
	}
	b.WriteString(`"` + name + `":[` + entry(0))
	for i := 1; b.Len() < bytesLong-1024; i++ {
		e := entry(i)
		if b.Len()+len(e) > bytesLong {
			break
		}
		b.WriteString("," + e)
	}
	b.WriteString("]}")
	return b.Bytes()
}
