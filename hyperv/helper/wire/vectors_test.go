package wire

import (
	"bytes"
	"encoding/hex"
	"io"
	"os"
	"reflect"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// vector is one frame of testdata/frames.txt.
type vector struct {
	name string
	raw  []byte
}

func vectors(t testing.TB) (all []vector) {
	t.Helper()
	text, err := os.ReadFile("testdata/frames.txt")
	require.NoError(t, err)
	for _, paragraph := range strings.Split(string(text), "\n\n")[1:] {
		lines := strings.Split(strings.TrimSpace(paragraph), "\n")
		v := vector{name: strings.Fields(lines[0])[0]}
		var digits strings.Builder
		for _, l := range lines[1:] {
			l, _, _ = strings.Cut(l, "#")
			digits.WriteString(strings.Join(strings.Fields(l), ""))
		}
		v.raw, err = hex.DecodeString(digits.String())
		require.NoError(t, err, lines)
		all = append(all, v)
	}
	return all
}

// decode reads one frame to its end, and its message.
func decode(raw []byte) (Message, error) {
	r := bytes.NewReader(raw)
	f, err := Read(r)
	if err != nil {
		return nil, err
	}
	if r.Len() > 0 {
		return nil, ErrMalformed
	}
	m := New(f.Kind)
	return m, Decode(f, m)
}

func TestVectors(t *testing.T) {
	seen := map[string]int{}
	for _, v := range vectors(t) {
		m, err := decode(v.raw)
		if v.name == "bad" {
			require.Error(t, err, "%x", v.raw)
			if err != io.ErrUnexpectedEOF {
				require.ErrorIs(t, err, ErrMalformed, "%x", v.raw)
			}
			seen[v.name]++
			continue
		}
		require.NoError(t, err, v.name)
		require.Equal(t, v.name, reflect.TypeOf(m).Elem().Name())
		again, err := Encode(uint32(v.raw[11]), m)
		require.NoError(t, err)
		var b bytes.Buffer
		require.NoError(t, Write(&b, again))
		require.Equal(t, v.raw, b.Bytes(), v.name)
		seen[v.name]++
	}
	require.GreaterOrEqual(t, seen["bad"], 15)
	for kind := range messages {
		name := reflect.TypeOf(New(kind)).Elem().Name()
		require.Positive(t, seen[name], "no vector of %s", name)
	}
}

// What the vectors say in numbers, said once in words.
func TestFields(t *testing.T) {
	byName := map[string]Message{}
	for _, v := range vectors(t) {
		if v.name != "bad" {
			m, err := decode(v.raw)
			require.NoError(t, err)
			byName[v.name] = m
		}
	}
	require.Equal(t, &Hello{Version: 1, LeaseMillis: 60_000, Session: "s42"}, byName["Hello"])
	require.Equal(t, &Take{Mark: "mark", Full: true, LimitMillis: 300_000, VMs: []string{"v1", "v2"}}, byName["Take"])
	require.Equal(t, &ReadAt{File: 1, Offset: 1 << 32, Length: MaxRead}, byName["ReadAt"])
	require.Equal(t, &TakeAnswer{Set: 7, ID: "{1}", Outcomes: []Outcome{{VM: "v1", Caption: "O", Recovered: true, Files: []string{`C:\`}, Hint: "hint"}}},
		byName["TakeAnswer"])
	require.Equal(t, &Failure{Code: Busy, Again: true, Operation: "op", Message: "msg", Hint: "hint.."}, byName["Failure"])
	require.Equal(t, &ListAnswer{[]Entry{{Name: "V.x", Size: 5}}}, byName["ListAnswer"])
}

// What does not fit is an error where it is made, and not at the other end.
func TestBounds(t *testing.T) {
	for _, m := range []Message{
		&Sweep{Mark: strings.Repeat("x", 65_536)},
		&Sweep{Mark: "\xff"},
		&Finish{Good: make([]string, maxList+1)},
		&ReadAnswer{Data: make([]byte, MaxRead+1)},
		&TakeAnswer{Document: strings.Repeat("x", MaxMessage+1)},
		&Open{Name: "a"},
	} {
		_, err := Encode(1, m)
		if _, fine := m.(*Open); fine {
			require.NoError(t, err)
			continue
		}
		require.Error(t, err, "%T", m)
	}
	_, err := Encode(0, &Ping{})
	require.ErrorIs(t, err, ErrMalformed)
}

// A header that claims much takes little memory until it comes.
func TestClaims(t *testing.T) {
	raw := Append(nil, KindTake+KindAnswer, 1, MaxMessage)
	got := testing.Benchmark(func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			_, err := Read(bytes.NewReader(raw))
			require.ErrorIs(b, err, io.ErrUnexpectedEOF)
		}
	})
	require.Less(t, got.AllocedBytesPerOp(), int64(2*step))
}

// Whatever decodes encodes to the same bytes again.
func FuzzFrame(f *testing.F) {
	seeds := vectors(f)
	require.NotEmpty(f, seeds)
	for _, v := range seeds {
		f.Add(v.raw)
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		m, err := decode(raw)
		if err != nil {
			return
		}
		frame, err := Encode(uint32(raw[8])<<24|uint32(raw[9])<<16|uint32(raw[10])<<8|uint32(raw[11]), m)
		require.NoError(t, err)
		var b bytes.Buffer
		require.NoError(t, Write(&b, frame))
		require.Equal(t, raw, b.Bytes())
	})
}
