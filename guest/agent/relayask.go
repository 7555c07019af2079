package agent

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"time"
)

// Ask is how a component is spoken to over a channel that can only run programs: each run of "hikae-agent relay" is one. It brings bytes of one call to the component that stays, and bytes of that call back. Both directions have
// offsets, so an ask whose answer was lost is simply asked again, and nothing is carried out twice.
//
// An ask on the socket is a header of 40 bytes and the bytes that are brought; the answer is bytes alone:
//
//	0   4  "hkr1"
//	4   4  call
//	8   8  in: offset of the bytes that are brought
//	16  8  out: offset of the bytes that are wanted
//	24  4  wait: milliseconds to wait for bytes
//	28  4  max: how many are wanted; 0: the ask only brings
//	32  4  length of what is brought
//	36  4  zero
type Ask struct {
	Call    uint32
	In, Out int64
	Wait    time.Duration
	Max     int
}

// Bounds of an ask.
const (
	MaxAskIn   = 1 << 20 // bytes
	MaxAskOut  = 1 << 20
	MaxAskWait = time.Minute
	askHeader  = 40
)

var askMagic = [4]byte{'h', 'k', 'r', '1'}

var errAsk = errors.New("not an ask")

// check holds for every ask, sent or taken.
func (a Ask) check(brought int64) error {
	if a.Call == 0 || a.In < 0 || a.Out < 0 || a.Max < 0 || a.Max > MaxAskOut || a.Wait < 0 || a.Wait > MaxAskWait || brought > MaxAskIn {
		return fmt.Errorf("%w: call %d, %d bytes", errAsk, a.Call, brought)
	}
	return nil
}

func writeAsk(w io.Writer, a Ask, brought []byte) error {
	if err := a.check(int64(len(brought))); err != nil {
		return err
	}
	b := make([]byte, askHeader, askHeader+len(brought))
	copy(b, askMagic[:])
	binary.BigEndian.PutUint32(b[4:], a.Call)
	binary.BigEndian.PutUint64(b[8:], uint64(a.In))
	binary.BigEndian.PutUint64(b[16:], uint64(a.Out))
	binary.BigEndian.PutUint32(b[24:], uint32(a.Wait.Milliseconds()))
	binary.BigEndian.PutUint32(b[28:], uint32(a.Max))
	binary.BigEndian.PutUint32(b[32:], uint32(len(brought)))
	_, err := w.Write(append(b, brought...))
	return err
}

func readAsk(r io.Reader) (a Ask, brought []byte, err error) {
	var b [askHeader]byte
	if _, err := io.ReadFull(r, b[:]); err != nil {
		return a, nil, err
	}
	if [4]byte(b[:4]) != askMagic || [4]byte(b[36:]) != [4]byte{} {
		return a, nil, errAsk
	}
	a = Ask{
		Call: binary.BigEndian.Uint32(b[4:]),
		In:   int64(binary.BigEndian.Uint64(b[8:])),
		Out:  int64(binary.BigEndian.Uint64(b[16:])),
		Wait: time.Duration(binary.BigEndian.Uint32(b[24:])) * time.Millisecond,
		Max:  int(binary.BigEndian.Uint32(b[28:])),
	}
	n := int64(binary.BigEndian.Uint32(b[32:]))
	if err := a.check(n); err != nil {
		return a, nil, err
	}
	brought = make([]byte, n)
	_, err = io.ReadFull(r, brought)
	return a, brought, err
}
