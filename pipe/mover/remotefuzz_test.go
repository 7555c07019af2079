package mover

import (
	"encoding/binary"
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/hikae/hikae/pipe/mover/session"
	"github.com/hikae/hikae/pipe/mover/wire"
)

// play answers call after call with what stands in data: kind, length of two bytes, payload. At the end of it the line
// is given up.
func play(data []byte) script {
	var mu sync.Mutex
	return func(uint64, wire.Message) (wire.Message, error) {
		mu.Lock()
		defer mu.Unlock()
		if len(data) < 3 {
			return nil, session.ErrGaveUp
		}
		kind, n := wire.Kind(data[0]), min(int(binary.BigEndian.Uint16(data[1:])), len(data)-3)
		payload := data[3 : 3+n]
		data = data[3+n:]
		if kind == wire.KindFail && n == 0 {
			return nil, session.ErrLost
		}
		m, err := wire.Decode(kind, payload)
		if err != nil {
			return &wire.OK{}, nil
		}
		if f, ok := m.(*wire.Fail); ok {
			return nil, f
		}
		return m, nil
	}
}

// record is an honest conversation as play reads it. Long answers are left to others.
func record(t testing.TB) (out []byte) {
	var mu sync.Mutex
	c := scriptClient(t, func(call uint64, req wire.Message) (wire.Message, error) {
		m, err := honest(call, req)
		frame, _ := wire.Append(nil, wire.Frame{Message: m})
		if payload := frame[wire.HeaderSize:]; len(payload) < 1<<16 {
			mu.Lock()
			defer mu.Unlock()
			out = append(out, byte(m.Kind()))
			out = binary.BigEndian.AppendUint16(out, uint16(len(payload)))
			out = append(out, payload...)
		}
		return m, err
	})
	if err := everything(t.Context(), c); err != nil {
		t.Fatal(err)
	}
	return out
}

// RELIABILITY 1.7: whatever a peer answers, in whatever order, the client comes to an end, with an error or without, and
// does not fall over.
func FuzzAnswers(f *testing.F) {
	whole := record(f)
	for n := 0; n <= len(whole); n += 7 {
		f.Add(whole[:n])
	}
	lost := append([]byte{byte(wire.KindFail), 0, 0}, whole...)
	f.Add(append(lost, lost...))
	f.Fuzz(func(t *testing.T, data []byte) {
		c := scriptClient(t, play(data))
		done := make(chan error, 2)
		go func() { done <- everything(t.Context(), c) }()
		go func() { done <- writeSomething(t.Context(), c) }()
		for range 2 {
			select {
			case err := <-done:
				if errors.Is(err, errUncovered) {
					t.Fatal(err)
				}
			case <-time.After(20 * time.Second):
				t.Fatal("it does not come to an end")
			}
		}
	})
}
