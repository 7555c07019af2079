package queue

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Bounds of what goes through a queue.
const (
	MaxBody   = 256 << 10 // bytes of a message's body, and of a table's value
	MaxID     = 256       // bytes of an id
	MaxLabel  = 128       // bytes of a label
	MaxReason = 4 << 10   // bytes of why something failed; what is longer is cut
	// MaxDocument is bytes of anything that is kept or sent, with what is around a body.
	MaxDocument = MaxBody + 16<<10
	maxMessage  = MaxBody + 8<<10
	version     = 1
)

// Message is a unit of work as the queue sees it.
type Message struct {
	// ID names it: putting an id that waits or is being worked on changes nothing. Up to MaxID bytes.
	ID string `json:"id"`
	// Label is what a worker must reach to do it: "site/berlin", "host/esx1". Up to MaxLabel bytes.
	Label string `json:"label"`
	// Body is what is to be done, as JSON. Up to MaxBody bytes.
	Body json.RawMessage `json:"body"`
}

// VersionError says that a document is of a version that this program does not know: a newer one wrote it.
type VersionError struct {
	What    string
	Version int
}

func (e *VersionError) Error() string {
	return fmt.Sprintf("%s of version %d: this program knows version %d", e.What, e.Version, version)
}

// ErrInvalid says that a message, key or value is out of bounds or no JSON.
var ErrInvalid = errors.New("invalid")

// Check holds a message to its bounds.
func (m *Message) Check() error {
	switch {
	case m.ID == "" || len(m.ID) > MaxID || !utf8.ValidString(m.ID):
		return fmt.Errorf("message with an id of %d bytes: %w", len(m.ID), ErrInvalid)
	case m.Label == "" || len(m.Label) > MaxLabel || !utf8.ValidString(m.Label):
		return fmt.Errorf("message %q: a label of %d bytes: %w", m.ID, len(m.Label), ErrInvalid)
	case len(m.Body) > MaxBody:
		return fmt.Errorf("message %q: a body of %d bytes, at most %d: %w", m.ID, len(m.Body), MaxBody, ErrInvalid)
	case !json.Valid(m.Body):
		return fmt.Errorf("message %q: the body is no JSON: %w", m.ID, ErrInvalid)
	}
	return nil
}

type envelope struct {
	Version int `json:"version"`
	Message
}

// Encode is a message as it goes over a wire.
func (m *Message) Encode() ([]byte, error) {
	if err := m.Check(); err != nil {
		return nil, err
	}
	return Marshal(envelope{version, *m})
}

// Marshal writes a document that [Strict] reads. What is in it already as JSON grows no longer, as it would where < > & were escaped, so that
// who holds to the bounds of a body holds to those of the document.
func Marshal(v any) ([]byte, error) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	err := e.Encode(v)
	return bytes.TrimSuffix(b.Bytes(), []byte("\n")), err
}

// Decode reads what Encode wrote. Errors: *VersionError, ErrInvalid.
func Decode(b []byte) (Message, error) {
	if len(b) > maxMessage {
		return Message{}, fmt.Errorf("message of %d bytes, at most %d: %w", len(b), maxMessage, ErrInvalid)
	}
	if err := CheckVersion("message", b); err != nil {
		return Message{}, err
	}
	var e envelope
	if err := Strict(b, &e); err != nil {
		return Message{}, fmt.Errorf("message: %w", err)
	}
	return e.Message, e.Check()
}

// CheckVersion looks at the version of a document before anything else of it is read. Errors: *VersionError, ErrInvalid.
func CheckVersion(what string, b []byte) error {
	if len(b) > MaxDocument {
		return fmt.Errorf("%s of %d bytes, at most %d: %w", what, len(b), MaxDocument, ErrInvalid)
	}
	var v struct {
		Version int `json:"version"`
	}
	if err := json.Unmarshal(b, &v); err != nil {
		return fmt.Errorf("%s: %w: %w", what, ErrInvalid, err)
	}
	if v.Version != version {
		return &VersionError{what, v.Version}
	}
	return nil
}

// Strict decodes one document that must have no other fields than v has. Its error is ErrInvalid.
func Strict(b []byte, v any) error {
	if len(b) > MaxDocument {
		return fmt.Errorf("%d bytes, at most %d: %w", len(b), MaxDocument, ErrInvalid)
	}
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	if err := d.Decode(v); err != nil {
		return fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	if _, err := d.Token(); err != io.EOF {
		return fmt.Errorf("%w: more than one document", ErrInvalid)
	}
	return nil
}

// Reason is a text cut to what a queue keeps of it. But for ends of lines and tabs it has no control characters, each of which would be six bytes
// of a document.
func Reason(why string) string {
	why = strings.Map(func(r rune) rune {
		if unicode.IsControl(r) && r != '\n' && r != '\t' {
			return ' '
		}
		return r
	}, why[:min(len(why), MaxReason)])
	return strings.ToValidUTF8(why[:min(len(why), MaxReason)], "")
}
