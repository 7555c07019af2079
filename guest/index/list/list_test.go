package list_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/hikae/hikae/guest/index/list"
)

func write(t require.TestingT, v list.Volume, entries []list.Entry) []byte {
	var out bytes.Buffer
	w := list.NewWriter(&out)
	require.NoError(t, w.Volume(v))
	for _, e := range entries {
		require.NoError(t, w.Add(e))
	}
	require.NoError(t, w.Close())
	require.EqualValues(t, out.Len(), w.Bytes())
	return out.Bytes()
}

// read reads a whole list, volume after volume.
func read(p []byte) (volumes []list.Volume, entries []list.Entry, err error) {
	r := list.NewReader(bytes.NewReader(p))
	for {
		v, e, err := r.Next()
		switch {
		case errors.Is(err, io.EOF):
			return volumes, entries, nil
		case err != nil:
			return volumes, entries, err
		case v != nil:
			volumes = append(volumes, *v)
		default:
			entries = append(entries, e)
		}
	}
}

var linux = list.Volume{Mount: "/", Device: "/dev/sda1", Kind: "ext4", ID: "an id", Label: "root", System: list.POSIX}

// What is written is read again, whatever its bytes, and the order is that of a walk.
func TestRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		name := rapid.StringOfN(rapid.SampledFrom([]rune("ab\n\\é.")), 1, 4, -1).Filter(func(s string) bool { return s != "." && s != ".." })
		paths := map[string]bool{"": true}
		for _, names := range rapid.SliceOf(rapid.SliceOfN(name, 1, 4)).Draw(t, "paths") {
			paths[strings.Join(names, "/")] = true
		}
		var entries []list.Entry
		for p := range paths {
			entries = append(entries, list.Entry{
				Path: p, Type: list.Type(rapid.IntRange(0, 3).Draw(t, "type")), Size: rapid.Int64Min(0).Draw(t, "size"),
				ModUnix: rapid.Int64().Draw(t, "mod"), CreatedUnix: rapid.Int64().Draw(t, "created"), Mode: rapid.Uint32().Draw(t, "mode"),
				Owner: rapid.SampledFrom([]string{"", "0", "S-1-5-18"}).Draw(t, "owner"), Target: rapid.SampledFrom([]string{"", "\xff"}).Draw(t, "target"),
				Note: rapid.SampledFrom([]string{"", "too deep"}).Draw(t, "note"),
			})
		}
		slices.SortFunc(entries, func(a, b list.Entry) int { return list.Compare(a.Path, b.Path) })
		volumes, got, err := read(write(t, linux, entries))
		require.NoError(t, err)
		require.Equal(t, []list.Volume{linux}, volumes)
		require.Equal(t, entries, got)
	})
}

// More classes than are remembered are written out again.
func TestManyClasses(t *testing.T) {
	var entries []list.Entry
	for i := range 10_000 {
		entries = append(entries, list.Entry{Path: fmt.Sprintf("%05d", i), Owner: fmt.Sprint(i % 5000)})
	}
	_, got, err := read(write(t, linux, entries))
	require.NoError(t, err)
	require.Equal(t, entries, got)
}

func TestCompare(t *testing.T) {
	order := []string{"", "a", "a/b", "a/b/c", "a/c", "a\x01", "a.b", "ab", "b"}
	for i, a := range order {
		for j, b := range order {
			require.Equal(t, i < j, list.Compare(a, b) < 0, "%q %q", a, b)
			require.Equal(t, i == j, list.Compare(a, b) == 0)
		}
	}
	require.True(t, list.Within("a/b", "a"))
	require.True(t, list.Within("a", "a"))
	require.True(t, list.Within("a", ""))
	require.False(t, list.Within("ab", "a"))
}

// What cannot be in a list is not written, and leaves it as it was.
func TestWriterRefuses(t *testing.T) {
	var out bytes.Buffer
	w := list.NewWriter(&out)
	require.ErrorIs(t, w.Add(list.Entry{Path: "a"}), list.ErrMalformed, "before any volume")
	require.ErrorIs(t, w.Volume(list.Volume{}), list.ErrMalformed)
	require.NoError(t, w.Volume(linux))
	require.NoError(t, w.Add(list.Entry{Path: "b"}))
	for _, e := range []list.Entry{
		{Path: "b"}, {Path: "a"}, {Path: "/c"}, {Path: "c/"}, {Path: "c//d"}, {Path: "c/../d"}, {Path: "."}, {Path: "c\x00"},
		{Path: strings.Repeat("c", list.MaxPath+1)}, {Path: "c", Size: -1}, {Path: "c", Type: 9}, {Path: "c", Note: strings.Repeat("n", list.MaxText+1)},
	} {
		require.ErrorIs(t, w.Add(e), list.ErrMalformed, "%.20q", e.Path)
	}
	require.NoError(t, w.Add(list.Entry{Path: "c"}))
	require.NoError(t, w.Close())
	_, got, err := read(out.Bytes())
	require.NoError(t, err)
	require.Len(t, got, 2)
}

// A list that ends early, anywhere, is no list; one with a byte changed never does harm.
func TestDamaged(t *testing.T) {
	p := write(t, linux, []list.Entry{{Path: "", Type: list.Dir}, {Path: "a", Size: 7, Owner: "0"}, {Path: "b", Type: list.Link, Target: "a"}})
	for n := range p {
		_, _, err := read(p[:n])
		require.ErrorIs(t, err, list.ErrMalformed, "%d bytes", n)
	}
	_, _, err := read(append(slices.Clone(p), 0))
	require.ErrorIs(t, err, list.ErrMalformed)
	for i := range p {
		for _, b := range []byte{0, 1, 0x7f, 0xff} {
			q := slices.Clone(p)
			q[i] = b
			if _, _, err := read(q); err != nil {
				require.ErrorIs(t, err, list.ErrMalformed)
			}
		}
	}
}

// Anything that is read as a list is the same list when it is written again.
func FuzzReader(f *testing.F) {
	f.Add(write(f, linux, []list.Entry{{Path: "", Type: list.Dir}, {Path: "a", Size: 7, Owner: "0"}, {Path: "b", Type: list.Link, Target: "a"}}))
	f.Add([]byte("HKFL\x01\x03\x01\x00"))
	f.Fuzz(func(t *testing.T, p []byte) {
		r := list.NewReader(bytes.NewReader(p))
		var out bytes.Buffer
		w := list.NewWriter(&out)
		for {
			v, e, err := r.Next()
			if errors.Is(err, io.EOF) {
				require.NoError(t, w.Close())
				_, _, err = read(out.Bytes())
				require.NoError(t, err)
				return
			}
			if err != nil {
				require.ErrorIs(t, err, list.ErrMalformed)
				return
			}
			if v != nil {
				require.NoError(t, w.Volume(*v))
			} else {
				require.NoError(t, w.Add(e))
			}
		}
	})
}
