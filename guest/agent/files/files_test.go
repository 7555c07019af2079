package files

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"strings"
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
	s := &session{}
	c := choose[int](s, "", true)
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
		c = choose[int](s, got[len(got)-1], false)
	}
	require.Len(t, got, n)
	for i, name := range got {
		require.Equal(t, fmt.Sprintf("%07d", i), name)
	}
}

// However many folders with however many names are open, what is held is bounded, and each still gives all its names.
func TestChosenBudget(t *testing.T) {
	s := &session{}
	long := strings.Repeat("x", 240)
	for range maxDepth {
		c := choose[int](s, "", true)
		for i := range 2000 {
			c.add(fmt.Sprintf("%06d%s", i, long), i)
			require.LessOrEqual(t, c.bytes, 2*c.room+nameBytes+255)
		}
		c.trim()
		require.NotEmpty(t, c.held)
		s.held += c.bytes
	}
	require.LessOrEqual(t, s.held, maxNamed+maxDepth*minNamed)
	var got int
	for c := choose[int](s, "", true); ; {
		for i := range 2000 {
			c.add(fmt.Sprintf("%06d%s", 1999-i, long), i)
		}
		c.trim()
		for _, h := range c.held {
			require.Equal(t, fmt.Sprintf("%06d%s", got, long), h.name)
			got++
		}
		if !c.full {
			break
		}
		c = choose[int](s, c.held[len(c.held)-1].name, false)
	}
	require.Equal(t, 2000, got)
}

// Volumes that are not whole stand before all folders, however many there are.
func TestIncompleteFirst(t *testing.T) {
	s := &session{}
	for i := range maxSkipped + 50 {
		s.skip(fmt.Sprint(i), "no")
	}
	s.incomplete("/", errFull.Error())
	s.incomplete("/", errFull.Error())
	require.Len(t, s.answer.Skipped, maxSkipped)
	require.Equal(t, "/: "+errFull.Error(), s.answer.Skipped[0])
	require.Equal(t, 51, s.more)

	var out bytes.Buffer
	s.out = list.NewWriter(&out)
	require.NoError(t, s.closed(volume{Volume: list.Volume{Mount: "/x", System: list.POSIX}}, errors.New("gone")))
	require.NoError(t, s.out.Close())
	_, got := read(t, out.Bytes())
	require.Equal(t, "gone", got["/x"].Note)
}
