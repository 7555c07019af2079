package queue

import (
	"bytes"
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// typed holds that an error of a decoder is one that callers can tell.
func typed(t *testing.T, err error) {
	t.Helper()
	var newer *VersionError
	require.True(t, errors.Is(err, ErrInvalid) || errors.As(err, &newer), "%v", err)
}

// seeds are what every decoder of documents is offered: deep, torn, of another version, and two for one.
func seeds(f *testing.F, good ...[]byte) {
	f.Helper()
	require.NotEmpty(f, good)
	for _, b := range good {
		f.Add(b)
		f.Add(b[:len(b)/2])
		f.Add(append(bytes.Clone(b), b...))
	}
	f.Add([]byte(`{"version":2}`))
	f.Add([]byte(`{"version":1,"body":` + strings.Repeat("[", 20000) + strings.Repeat("]", 20000) + `}`))
	f.Add([]byte(`{"version":1e99}`))
	f.Add([]byte{})
}

// What is a message is the same when it is sent again, whatever else was in its bytes; all else is an error that says of what kind.
func FuzzDecode(f *testing.F) {
	m := Message{ID: "nightly/r1/web1", Label: "host/esx1", Body: json.RawMessage(`{"version":1,"a":"<&>"}`)}
	good, err := m.Encode()
	require.NoError(f, err)
	seeds(f, good)
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := Decode(b)
		if err != nil {
			typed(t, err)
			return
		}
		sent, err := m.Encode()
		require.NoError(t, err)
		again, err := Decode(sent)
		require.NoError(t, err)
		twice, err := again.Encode()
		require.NoError(t, err)
		require.Equal(t, string(sent), string(twice))
		require.Equal(t, m.ID, again.ID)
		require.Equal(t, m.Label, again.Label)
	})
}

// A claim that can be read is the same when it is written again.
func FuzzDecodeClaim(f *testing.F) {
	h := Held{doc: claimDoc{Version: version, Owner: "w1", Token: "T", Since: time.Unix(1795399200, 0).UTC(), Fences: []Fence{{"repository/1", 17}}}}
	seeds(f, h.encode())
	f.Add([]byte(`{"version":1,"fences":[` + strings.Repeat("{},", maxFences) + `{}]}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		d, err := decodeClaim(b)
		if err != nil {
			typed(t, err)
			return
		}
		if year := d.Since.Year(); year < 0 || year > 9999 {
			t.Fatal("a time that cannot be written")
		}
		h := Held{doc: d}
		written := h.encode()
		again, err := decodeClaim(written)
		require.NoError(t, err)
		h.doc = again
		require.Equal(t, string(written), string(h.encode()))
	})
}

// What a message may hold is read again, however large it is and of whatever it is made, and why it failed stays within its bounds.
func TestFullMessages(t *testing.T) {
	for _, c := range []string{"x", "<", "&", "\u2028", "é"} {
		body := []byte(`"` + strings.Repeat(c, (MaxBody-2)/len(c)) + `"`)
		m := Message{ID: strings.Repeat("\x01", MaxID), Label: strings.Repeat(`"`, MaxLabel), Body: body}
		sent, err := m.Encode()
		require.NoError(t, err)
		read, err := Decode(sent)
		require.NoError(t, err)
		require.Equal(t, m.ID, read.ID)
		require.Equal(t, m.Label, read.Label)
		require.JSONEq(t, string(m.Body), string(read.Body))
		for _, why := range []string{strings.Repeat("\x01", 2*MaxReason), strings.Repeat("\xff", 2*MaxReason), strings.Repeat("<\n", MaxReason), strings.Repeat("é", MaxReason) + "x"} {
			letter, err := Marshal(DeadLetter{Message: m, Why: Reason(why), Time: time.Now().UTC()})
			require.NoError(t, err)
			require.LessOrEqual(t, len(letter)+len(`"version":1,`), MaxDocument)
			require.LessOrEqual(t, len(Reason(why)), MaxReason)
		}
	}
	require.Equal(t, "a b\nc", Reason("a\x00b\nc"))
	_, err := (&Message{ID: "\xff", Label: "l", Body: []byte("1")}).Encode()
	require.ErrorIs(t, err, ErrInvalid, "it would be another id when it is read")
	for _, b := range [][]byte{bytes.Repeat([]byte(" "), MaxDocument+1), []byte(strings.Repeat("[", 20000))} {
		require.ErrorIs(t, CheckVersion("document", b), ErrInvalid)
		require.ErrorIs(t, Strict(b, &struct{}{}), ErrInvalid)
	}
}
