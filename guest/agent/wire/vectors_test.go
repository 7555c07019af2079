package wire

import (
	"bufio"
	"bytes"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"reflect"
	"runtime"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// bodies are the structs of each verb: arguments and answer.
var bodies = map[Verb][2]any{
	Hello: {&HelloArgs{}, &HelloAnswer{}}, Lease: {&LeaseArgs{}, &LeaseAnswer{}}, Inspect: {&InspectArgs{}, &InspectAnswer{}},
	Prepare: {&PrepareArgs{}, &PrepareAnswer{}}, Freeze: {&FreezeArgs{}, &FreezeAnswer{}}, Thaw: {&ThawArgs{}, &ThawAnswer{}},
	Finish: {&FinishArgs{}, &FinishAnswer{}}, Settle: {&SettleArgs{}, &SettleAnswer{}}, Index: {&IndexArgs{}, &IndexAnswer{}},
	Logs: {&LogsArgs{}, &LogsAnswer{}}, Fetch: {&FetchArgs{}, &FetchAnswer{}}, Shipped: {&ShippedArgs{}, &ShippedAnswer{}},
	Install: {&InstallArgs{}, &InstallAnswer{}}, Enrol: {&EnrolArgs{}, &EnrolAnswer{}}, Remove: {&RemoveArgs{}, &RemoveAnswer{}},
}

func fresh(v any) any { return reflect.New(reflect.TypeOf(v).Elem()).Interface() }

// TestVerbs: the set is closed, and each has its structs.
func TestVerbs(t *testing.T) {
	t.Parallel()
	require.Len(t, Verbs, len(bodies))
	for _, v := range Verbs {
		require.Contains(t, bodies, v)
	}
	require.True(t, Index.GivesData() && Fetch.GivesData() && Install.TakesData() && !Freeze.GivesData() && !Freeze.TakesData())
}

// vector is a line of testdata/vectors.txt.
type vector struct{ kind, name, hex, want string }

func vectors(t testing.TB) (out []vector) {
	f, err := os.Open("testdata/vectors.txt")
	require.NoError(t, err)
	defer f.Close()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		line := strings.TrimSpace(lines.Text())
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		p := strings.SplitN(line, " ", 4)
		require.Len(t, p, 4, line)
		out = append(out, vector{p[0], p[1], p[2], p[3]})
	}
	require.NotEmpty(t, out)
	return out
}

// TestVectors reads the frames that any implementation must take and refuse alike.
func TestVectors(t *testing.T) {
	t.Parallel()
	for _, v := range vectors(t) {
		t.Run(v.name, func(t *testing.T) {
			t.Parallel()
			raw, err := hex.DecodeString(v.hex)
			require.NoError(t, err)
			f, err := Read(bytes.NewReader(raw))
			switch v.kind {
			case "frame":
				require.NoError(t, err)
				require.Equal(t, v.want, describe(f))
				var b bytes.Buffer
				require.NoError(t, Write(&b, f))
				require.Equal(t, raw, b.Bytes())
			case "short":
				require.ErrorIs(t, err, map[string]error{"end": io.EOF, "cut": io.ErrUnexpectedEOF}[v.want])
			case "bad":
				require.ErrorIs(t, err, ErrMalformed)
				require.ErrorContains(t, err, v.want)
			case "badmessage":
				require.NoError(t, err)
				var r Request
				err = Decode(f.Payload, &r)
				if pair, known := bodies[r.Verb]; err == nil && known {
					err = Decode(r.Args, fresh(pair[0]))
				}
				require.ErrorIs(t, err, ErrMalformed)
				require.ErrorContains(t, err, v.want)
			default:
				t.Fatal("no such kind of vector: " + v.kind)
			}
		})
	}
}

func describe(f Frame) string {
	kind := map[byte]string{KindRequest: "request", KindAnswer: "answer", KindFailure: "failure", KindData: "data", KindCancel: "cancel", KindMore: "more"}[f.Kind]
	text, _ := json.Marshal(string(f.Payload))
	return fmt.Sprintf("%s %d %s", kind, f.Call, text)
}

// TestMessagesStay: a message that was decoded is coded to the same again.
func TestMessagesStay(t *testing.T) {
	t.Parallel()
	for _, v := range Verbs {
		for _, body := range bodies[v] {
			first, err := Encode(body)
			require.NoError(t, err)
			got := fresh(body)
			require.NoError(t, Decode(first, got))
			second, err := Encode(got)
			require.NoError(t, err)
			require.Equal(t, string(first), string(second))
		}
	}
}

func TestEncodeBound(t *testing.T) {
	t.Parallel()
	_, err := Encode(&FinishAnswer{Records: []Record{{Content: make([]byte, MaxMessage)}}})
	require.Error(t, err)
	require.ErrorIs(t, Write(io.Discard, Frame{Kind: KindData, Call: 1, Payload: make([]byte, MaxData+1)}), ErrMalformed)
	require.NoError(t, Write(io.Discard, Frame{Kind: KindData, Call: 1, Payload: make([]byte, MaxData)}))
	require.ErrorIs(t, Write(io.Discard, Frame{Kind: KindData}), ErrMalformed)
}

// TestClaims: a header that claims much takes no memory.
func TestClaims(t *testing.T) {
	claim := []byte{0, 0x10, 0, 0, KindAnswer, 0, 0, 0, 0, 0, 0, 1}
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	_, err := Read(bytes.NewReader(claim))
	runtime.ReadMemStats(&after)
	require.ErrorIs(t, err, io.ErrUnexpectedEOF)
	require.Less(t, after.TotalAlloc-before.TotalAlloc, uint64(256<<10))
	require.Equal(t, 0, PeekVersion([]byte(strings.Repeat("[", 1<<20))))
	require.ErrorIs(t, Decode([]byte(strings.Repeat("[", 1<<20)), &HelloArgs{}), ErrMalformed)
}

func FuzzRead(f *testing.F) {
	for _, v := range vectors(f) {
		raw, err := hex.DecodeString(v.hex)
		require.NoError(f, err)
		f.Add(raw)
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		r := bytes.NewReader(raw)
		for {
			at := len(raw) - r.Len()
			frame, err := Read(r)
			if err != nil {
				return
			}
			var b bytes.Buffer
			require.NoError(t, Write(&b, frame))
			require.Equal(t, raw[at:len(raw)-r.Len()], b.Bytes())
		}
	})
}

func FuzzDecode(f *testing.F) {
	for i, v := range Verbs {
		for side, body := range bodies[v] {
			raw, err := Encode(body)
			require.NoError(f, err)
			f.Add(uint8(2*i+side), raw)
		}
	}
	f.Add(uint8(0), []byte(`{"verb":"exec","args":{}}`))
	f.Fuzz(func(t *testing.T, which uint8, raw []byte) {
		body := any(&Request{})
		if int(which) < 2*len(Verbs) {
			body = bodies[Verbs[which/2]][which%2]
		} else if which%2 == 0 {
			body = &Failure{}
		}
		first := fresh(body)
		if Decode(raw, first) != nil {
			return
		}
		if r, ok := first.(*Request); ok && r.Args == nil {
			return // no arguments: refused when they are looked at
		}
		once, err := Encode(first)
		require.NoError(t, err)
		second := fresh(body)
		require.NoError(t, Decode(once, second))
		twice, err := Encode(second)
		require.NoError(t, err)
		require.Equal(t, string(once), string(twice))
	})
}
