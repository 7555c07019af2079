package qmp

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"
)

// MaxMessage bounds one message of QEMU, in bytes. The longest that is known, the answer to query-qmp-schema, has some
// hundred thousand.
const MaxMessage = 64 << 20

// message is anything that QEMU sends.
type message struct {
	Greeting *greeting       `json:"QMP"`
	ID       *uint64         `json:"id"`
	Return   json.RawMessage `json:"return"`
	Error    *struct {
		Class string `json:"class"`
		Desc  string `json:"desc"`
	} `json:"error"`
	Event     string          `json:"event"`
	Data      json.RawMessage `json:"data"`
	Timestamp struct {
		Seconds      int64 `json:"seconds"`
		Microseconds int64 `json:"microseconds"`
	} `json:"timestamp"`
}

type greeting struct {
	Version      Version  `json:"version"`
	Capabilities []string `json:"capabilities"`
}

// Version is which QEMU it is.
type Version struct {
	QEMU struct {
		Major int `json:"major"`
		Minor int `json:"minor"`
		Micro int `json:"micro"`
	} `json:"qemu"`
	Package string `json:"package"`
}

// AtLeast compares the version.
func (v Version) AtLeast(major, minor int) bool {
	return v.QEMU.Major > major || v.QEMU.Major == major && v.QEMU.Minor >= minor
}

func (v Version) String() string {
	return fmt.Sprintf("%d.%d.%d", v.QEMU.Major, v.QEMU.Minor, v.QEMU.Micro)
}

// Event is something that happened in QEMU.
type Event struct {
	Name string
	Data json.RawMessage
	Time time.Time // by the host's clock
}

// reader takes messages from a stream, in whatever way they are spread over lines.
type reader struct {
	budget *budget
	dec    *json.Decoder
}

func newReader(r io.Reader, max int64) *reader {
	b := &budget{r: r, max: max}
	return &reader{budget: b, dec: json.NewDecoder(b)}
}

// next reads one message. A message that is no object, or an object that is none of QMP's, is ErrProtocol.
func (r *reader) next() (message, error) {
	r.budget.left = r.budget.max
	var raw json.RawMessage
	if err := r.dec.Decode(&raw); err != nil {
		var syntax *json.SyntaxError
		if errors.As(err, &syntax) {
			err = fmt.Errorf("%w: %v", ErrProtocol, err)
		}
		return message{}, err
	}
	var m message
	if err := json.Unmarshal(raw, &m); err != nil {
		return message{}, fmt.Errorf("%w: %v", ErrProtocol, err)
	}
	if m.Greeting == nil && m.Return == nil && m.Error == nil && m.Event == "" {
		return message{}, fmt.Errorf("%w: a message without a known member", ErrProtocol)
	}
	return m, nil
}

// budget is a stream that gives no more than max bytes for one message. What the decoder has read ahead belongs to the
// next message and counts for this one, so a message may be cut short that is longer than max less one read.
type budget struct {
	r         io.Reader
	max, left int64
}

func (b *budget) Read(p []byte) (int, error) {
	if b.left <= 0 {
		return 0, ErrTooLong
	}
	n, err := b.r.Read(p[:min(int64(len(p)), b.left)])
	b.left -= int64(n)
	return n, err
}
