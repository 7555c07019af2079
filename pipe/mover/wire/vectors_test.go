package wire_test

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae/pipe/mover/wire"
)

// vector is one paragraph of testdata/vectors.txt, which was written from PROTOCOL.md without this package.
type vector struct {
	title   string
	frame   []byte
	lines   []string
	refused bool
}

func vectors(t *testing.T) (list []vector) {
	t.Helper()
	text, err := os.ReadFile("testdata/vectors.txt")
	require.NoError(t, err)
	paragraphs := strings.Split(strings.ReplaceAll(string(text), "\r\n", "\n"), "\n\n")
	for _, paragraph := range paragraphs[1:] {
		lines := strings.Split(strings.TrimSpace(paragraph), "\n")
		v := vector{title: lines[0]}
		end := slices.IndexFunc(lines, func(s string) bool { return s == "=" || s == "!" })
		require.Positive(t, end, v.title)
		v.frame, err = hex.DecodeString(strings.Join(lines[1:end], ""))
		require.NoError(t, err, v.title)
		v.lines, v.refused = lines[end+1:], lines[end] == "!"
		list = append(list, v)
	}
	return list
}

// TestVectors reads and writes what another implementation would.
func TestVectors(t *testing.T) {
	t.Parallel()
	seen, refused := map[wire.Kind]bool{}, 0
	for _, v := range vectors(t) {
		r := wire.NewReader(bytes.NewReader(v.frame))
		got, err := r.Read()
		if v.refused {
			refused++
			require.ErrorIs(t, err, wire.ErrMalformed, v.title)
			continue
		}
		require.NoError(t, err, v.title)
		seen[got.Message.Kind()] = true
		lines := []string{"kind: " + got.Message.Kind().String(), fmt.Sprintf("call: %d", got.Call)}
		require.Equal(t, v.lines, describe(lines, "", reflect.ValueOf(got.Message).Elem()), v.title)
		b, err := wire.Append(nil, got)
		require.NoError(t, err, v.title)
		require.Equal(t, hex.EncodeToString(v.frame), hex.EncodeToString(b), v.title)
	}
	for _, k := range wire.Kinds() {
		require.True(t, seen[k], "there is no vector for %v", k)
	}
	require.Greater(t, refused, 40)
}

// describe writes a message's fields as the file has them.
func describe(lines []string, name string, v reflect.Value) []string {
	switch {
	case v.Kind() == reflect.Struct:
		for _, f := range reflect.VisibleFields(v.Type()) {
			if f.IsExported() {
				lines = describe(lines, strings.TrimPrefix(name+"."+f.Name, "."), v.FieldByIndex(f.Index))
			}
		}
		return lines
	case v.Kind() == reflect.Map:
		keys := v.MapKeys()
		slices.SortFunc(keys, func(a, b reflect.Value) int { return strings.Compare(a.String(), b.String()) })
		for _, k := range keys {
			lines = describe(lines, fmt.Sprintf("%s[%s]", name, quoted(k.String())), v.MapIndex(k))
		}
		return lines
	case v.Kind() == reflect.Array, v.Kind() == reflect.Slice && v.Type().Elem().Kind() == reflect.Uint8:
		return append(lines, strings.TrimSuffix(fmt.Sprintf("%s: %x", name, bytesOf(v)), " "))
	case v.Kind() == reflect.Slice:
		for i := range v.Len() {
			lines = describe(lines, fmt.Sprintf("%s[%d]", name, i), v.Index(i))
		}
		return lines
	case v.Kind() == reflect.String:
		return append(lines, name+": "+quoted(v.String()))
	case v.CanInt():
		return append(lines, fmt.Sprintf("%s: %d", name, v.Int()))
	case v.CanUint():
		return append(lines, fmt.Sprintf("%s: %d", name, v.Uint()))
	}
	return append(lines, fmt.Sprintf("%s: %v", name, v.Interface()))
}

func bytesOf(v reflect.Value) (b []byte) {
	for i := range v.Len() {
		b = append(b, byte(v.Index(i).Uint()))
	}
	return b
}

func quoted(s string) string {
	b, err := json.Marshal(s)
	if err != nil {
		panic(err)
	}
	return string(b)
}
