package files

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/hikae/hikae/guest/agent/wire"
	"github.com/hikae/hikae/guest/index/list"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// read reads a list.
func read(t *testing.T, p []byte) (volumes []list.Volume, entries map[string]list.Entry) {
	t.Helper()
	entries = map[string]list.Entry{}
	r := list.NewReader(bytes.NewReader(p))
	for {
		v, e, err := r.Next()
		if errors.Is(err, io.EOF) {
			return volumes, entries
		}
		require.NoError(t, err)
		if v != nil {
			volumes = append(volumes, *v)
		} else {
			mount := volumes[len(volumes)-1].Mount
			entries[join(mount, e.Path)] = e
		}
	}
}

func TestRules(t *testing.T) {
	r, err := newRules(wire.IndexArgs{Include: []string{"/var/log/", "/home"}, Exclude: []string{"*.tmp", "/home/*/cache"}})
	require.NoError(t, err)
	if r.fold {
		t.Skip("paths of another system")
	}
	for path, want := range map[string]bool{
		"/": true, "/var": true, "/var/log": true, "/var/log/a/b": true, "/var/lib": false, "/home/eve": true, "/homes": false,
		"/home/eve/cache": false, "/home/eve/a.tmp": false, "/home/cache": true,
	} {
		require.Equal(t, want, r.list(path), path)
	}
	for _, bad := range []wire.IndexArgs{
		{Include: []string{"var"}}, {Include: []string{""}}, {Exclude: []string{"["}}, {Exclude: []string{""}}, {Exclude: []string{"a/b"}},
		{Include: make([]string, 1000)}, {Exclude: make([]string, 1000)},
	} {
		_, err := New().Index(context.Background(), bad, io.Discard)
		failure, ok := errors.AsType[*wire.Failure](err)
		require.True(t, ok, "%v", err)
		require.Equal(t, wire.CodeInvalid, failure.Code)
	}
}

// Of very many names a bounded number is held, and all come in order, each once.
func TestChosen(t *testing.T) {
	const n = 3*maxHeld + 17
	var got []string
	c := chosen[int]{first: true}
	for {
		r := rand.New(rand.NewPCG(1, uint64(len(got))))
		for _, i := range r.Perm(n) {
			c.add(fmt.Sprintf("%07d", i), i)
			require.Less(t, len(c.held), 2*maxHeld)
		}
		c.trim()
		for _, h := range c.held {
			got = append(got, h.name)
		}
		if !c.full {
			break
		}
		c = chosen[int]{after: got[len(got)-1]}
	}
	require.Len(t, got, n)
	for i, name := range got {
		require.Equal(t, fmt.Sprintf("%07d", i), name)
	}
}
