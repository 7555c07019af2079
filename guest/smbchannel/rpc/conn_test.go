package rpc

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"testing"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var testInterface = Interface{Major: 1, Minor: 2, UUID: [16]byte{1, 2, 3}}

// talk serves one association and calls it.
func talk(t *testing.T, handle Handler, call func(*Conn)) error {
	t.Helper()
	ours, its := net.Pipe()
	served := make(chan error, 1)
	go func() { served <- Serve(its, "test", testInterface, handle); its.Close() }()
	c, err := Bind(t.Context(), ours, testInterface)
	require.NoError(t, err)
	call(c)
	require.NoError(t, c.Close())
	return <-served
}

// Answers of every size around a fragment's come back whole.
func TestCall(t *testing.T) {
	const room = FragmentSize - headerSize - bodyHeader
	sizes := []int{0, 1, room - 1, room, room + 1, 2 * room, 2*room + 1, MaxAnswer - 16*bodyHeader}
	double := func(procedure uint16, args []byte) ([]byte, error) {
		return bytes.Repeat([]byte{byte(procedure)}, int(binary.LittleEndian.Uint32(args))), nil
	}
	require.NoError(t, talk(t, double, func(c *Conn) {
		for i, size := range sizes {
			got, err := c.Call(t.Context(), uint16(i), binary.LittleEndian.AppendUint32(nil, uint32(size)))
			require.NoError(t, err, size)
			require.Equal(t, bytes.Repeat([]byte{byte(i)}, size), append([]byte{}, got...), size)
		}
		_, err := c.Call(t.Context(), 0, make([]byte, room+1))
		require.ErrorContains(t, err, "at most")
	}))
}

// A longer answer than we take is an error, however it is cut up.
func TestTooLong(t *testing.T) {
	long := func(uint16, []byte) ([]byte, error) { return make([]byte, MaxAnswer+1), nil }
	_ = talk(t, long, func(c *Conn) {
		_, err := c.Call(t.Context(), 0, nil)
		require.ErrorIs(t, err, ErrMalformed)
		_, err = c.Call(t.Context(), 0, nil)
		require.ErrorIs(t, err, ErrClosed)
	})
}

// A fault is an answer: the association goes on.
func TestFault(t *testing.T) {
	n := 0
	faulty := func(uint16, []byte) ([]byte, error) {
		if n++; n == 1 {
			return nil, fmt.Errorf("wrapped: %w", &Fault{Status: FaultBadStub})
		}
		return []byte{7}, nil
	}
	require.NoError(t, talk(t, faulty, func(c *Conn) {
		_, err := c.Call(t.Context(), 0, nil)
		var fault *Fault
		require.ErrorAs(t, err, &fault)
		require.Equal(t, uint32(FaultBadStub), fault.Status)
		require.ErrorContains(t, err, "arguments that it cannot read")
		got, err := c.Call(t.Context(), 0, nil)
		require.NoError(t, err)
		require.Equal(t, []byte{7}, got)
	}))
}

func TestOtherInterface(t *testing.T) {
	ours, its := net.Pipe()
	go func() { _ = Serve(its, "test", Interface{}, nil) }()
	_, err := Bind(t.Context(), ours, testInterface)
	var refused *BindError
	require.ErrorAs(t, err, &refused)
	require.Equal(t, BindError{Result: 2, Reason: 1}, *refused)
}

func TestStrings(t *testing.T) {
	for _, s := range []string{"", "a", "ab", "Ü🙂"} {
		var w Writer
		w.Uint16(7)
		w.String(s)
		w.OptionalString(s)
		w.Uint32(9)
		r := Reader{Data: w.Data}
		require.Equal(t, uint16(7), r.Uint16())
		require.Equal(t, s, r.String(10))
		require.Equal(t, s, r.OptionalString(10))
		require.Equal(t, uint32(9), r.Uint32())
		require.NoError(t, r.End())
	}
	for what, bad := range map[string][]uint32{
		"longer than there is": {2, 0, 2, 'a'},
		"longer than allowed":  {11, 0, 11, 'a'},
		"more than its room":   {1, 0, 2, 'a'},
		"from the middle":      {2, 1, 1, 0},
		"without a zero":       {2, 0, 2, 'a' | 'b'<<16},
		"with two zeros":       {3, 0, 3, 'a', 0},
		"of nothing":           {0, 0, 0},
		"of four billion":      {0xffffffff, 0, 0xffffffff, 'a'},
	} {
		var w Writer
		for _, v := range bad {
			w.Uint32(v)
		}
		if what == "longer than there is" {
			w.Data = w.Data[:14]
		}
		r := Reader{Data: w.Data}
		require.Empty(t, r.String(10), what)
		require.ErrorIs(t, r.Err(), ErrMalformed, what)
	}
}

// dialogue is a machine that says what the fuzzer has it say.
type dialogue struct{ io.Reader }

func (dialogue) Write(p []byte) (int, error) { return len(p), nil }
func (dialogue) Close() error                { return nil }

// FuzzAnswers: whatever a machine answers to a bind and a call, there is an end, an error or an answer within its bounds.
func FuzzAnswers(f *testing.F) {
	var good bytes.Buffer
	require.NoError(f, fragment{kind: typeBindAck, flags: flagWhole, call: 1, body: bindAckBody("x", true, 1)}.write(&good))
	require.NoError(f, fragment{kind: typeResponse, flags: flagFirst, call: 2, body: make([]byte, 12)}.write(&good))
	require.NoError(f, fragment{kind: typeResponse, flags: flagLast, call: 2, body: make([]byte, 9)}.write(&good))
	f.Add(good.Bytes())
	var fault bytes.Buffer
	require.NoError(f, fragment{kind: typeBindAck, flags: flagWhole, call: 1, body: bindAckBody("", true, 1)}.write(&fault))
	require.NoError(f, fragment{kind: typeFault, flags: flagWhole, call: 2, body: make([]byte, 16)}.write(&fault))
	f.Add(fault.Bytes())
	f.Fuzz(func(t *testing.T, said []byte) {
		c, err := Bind(t.Context(), dialogue{bytes.NewReader(said)}, testInterface)
		if err != nil {
			return
		}
		results, err := c.Call(t.Context(), 1, []byte("args"))
		require.True(t, err == nil || results == nil)
		require.LessOrEqual(t, len(results), MaxAnswer)
	})
}

// FuzzFragment: what is read can be written again, to the same bytes.
func FuzzFragment(f *testing.F) {
	f.Add([]byte("\x05\x00\x00\x03\x10\x00\x00\x00\x14\x00\x00\x00\x01\x00\x00\x00abcd"))
	f.Fuzz(func(t *testing.T, b []byte) {
		r := bytes.NewReader(b)
		got, err := readFragment(r)
		if err != nil {
			require.True(t, errors.Is(err, ErrMalformed) || errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF), "%v", err)
			return
		}
		var w bytes.Buffer
		require.NoError(t, got.write(&w))
		used := bytes.Clone(b[:len(b)-r.Len()])
		used[1], used[6], used[7] = 0, 0, 0 // minor version, and bytes that mean nothing
		require.Equal(t, used, w.Bytes())
	})
}
