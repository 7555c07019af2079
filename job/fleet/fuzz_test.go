package fleet

import (
	"bytes"
	"encoding/json"
	"errors"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae"
	"github.com/hikae/hikae/job/queue"
)

// documents are all that workers and dispatchers read of each other: each is decoded, and written again.
var documents = map[string]func(b []byte) (again []byte, err error){
	"task": func(b []byte) ([]byte, error) {
		w, err := decodeWork(b)
		if err != nil {
			return nil, err
		}
		return queue.Marshal(w)
	},
	"outcome": func(b []byte) ([]byte, error) {
		o, err := decodeOutcome(b)
		if err != nil {
			return nil, err
		}
		return queue.Marshal(outcomeDoc{version, o})
	},
	"effect": func(b []byte) ([]byte, error) {
		d, err := decodeEffect(b)
		if err != nil {
			return nil, err
		}
		return queue.Marshal(d)
	},
	"run": func(b []byte) ([]byte, error) {
		d, err := decodeRun(b)
		if err != nil {
			return nil, err
		}
		return queue.Marshal(d)
	},
	"tries": func(b []byte) ([]byte, error) {
		d, err := decodeTries(b)
		if err != nil {
			return nil, err
		}
		return queue.Marshal(d)
	},
}

// What can be read is the same when it is written again; all else is an error that says of what kind.
func FuzzDocuments(f *testing.F) {
	at := time.Unix(1795399200, 0).UTC()
	for _, good := range []any{
		work{version, "nightly", "r1", Task{ID: "web1", VM: "web1", Kind: "backup", Claim: "vm/esx/web1", Label: "site/a", Spec: json.RawMessage(`{"a":[1]}`)}},
		outcomeDoc{version, Outcome{Job: "nightly", Run: "r1", Task: "web1", State: Warned, Point: "p", Error: "<e>", Warnings: []string{"w"}, Begun: at, Detail: json.RawMessage(`{}`)}},
		effectDoc{version, at, hikae.Effect{ID: "a", Kind: "vmware.snapshot", VM: "web1", Facts: map[string]string{"mark": "m"}}},
		runDoc{version, 3, at, true, map[State]int{Done: 2, Failed: 1}},
		triesDoc{version, 2},
	} {
		b, err := queue.Marshal(good)
		require.NoError(f, err)
		known := 0
		for _, again := range documents {
			if text, err := again(b); err == nil && bytes.Equal(text, b) {
				known++
			}
		}
		require.Equal(f, 1, known, "%s", b)
		f.Add(b)
		f.Add(b[:len(b)/2])
		f.Add(append(bytes.Clone(b), b...))
	}
	f.Add([]byte(`{"version":2}`))
	f.Add([]byte(`{"version":1,"task":{"spec":` + strings.Repeat("[", 20000)))
	f.Add([]byte(`{"version":1,"tries":9223372036854775807}`))
	f.Add([]byte(`{"version":1,"tasks":-1}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		for _, name := range slices.Sorted(maps.Keys(documents)) {
			text, err := documents[name](b)
			var newer *queue.VersionError
			if err != nil {
				require.True(t, errors.Is(err, ErrInvalid) || errors.As(err, &newer), "%s: %v", name, err)
				continue
			}
			again, err := documents[name](text)
			require.NoError(t, err, name)
			require.Equal(t, string(text), string(again), name)
		}
	})
}

// A document that is too long is refused before it is decoded.
func TestDocumentsOfHostileSize(t *testing.T) {
	for name, again := range documents {
		_, err := again(bytes.Repeat([]byte(" "), queue.MaxDocument+1))
		require.ErrorIs(t, err, ErrInvalid, name)
		_, err = again([]byte(`{"version":1,"a":` + strings.Repeat("[", queue.MaxDocument/2)))
		require.ErrorIs(t, err, ErrInvalid, name)
	}
	_, err := decodeEffect(bytes.Repeat([]byte(" "), maxEffect+1))
	require.ErrorIs(t, err, ErrInvalid)
}

// An outcome is settled whatever its handler said: what is too long for a table is cut.
func TestLargestOutcome(t *testing.T) {
	for _, c := range []string{"<", "\x01", `"`, "\xff", "é"} {
		o := Outcome{Job: strings.Repeat("j", maxName), Run: "r", Task: "t", State: Failed, Error: strings.Repeat(c, 1<<20), Detail: json.RawMessage(`"` + strings.Repeat("<", maxExtra-2) + `"`)}
		for range 2 * maxTexts {
			o.Warnings = append(o.Warnings, strings.Repeat(c, 1<<20))
		}
		value, err := o.encode()
		require.NoError(t, err)
		require.NoError(t, queue.CheckEntry("a", value), "%q", c)
		read, err := decodeOutcome(value)
		require.NoError(t, err)
		require.Len(t, read.Warnings, maxTexts+1)
		require.Equal(t, Failed, read.State)
	}
}
