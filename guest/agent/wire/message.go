package wire

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
)

// Request is the payload of a Request frame.
type Request struct {
	Verb Verb            `json:"verb"`
	Args json.RawMessage `json:"args"`
}

// Failure is the payload of a Failure frame. It is an error.
type Failure struct {
	Code    Code   `json:"code"`
	Message string `json:"message"`
	Hint    string `json:"hint"` // what to change; may be empty
}

// Code says what kind of failure it is.
type Code string

// The codes.
const (
	CodeUnknown   Code = "unknown"   // a verb that this component does not have
	CodeInvalid   Code = "invalid"   // arguments out of their bounds
	CodeState     Code = "state"     // not now: frozen already, nothing prepared …
	CodeVeto      Code = "veto"      // a script or an application refused
	CodeRights    Code = "rights"    // the account may not
	CodeMissing   Code = "missing"   // no such application, log …
	CodeCancelled Code = "cancelled" // the client, a time limit or the lease ended it
	CodeSignature Code = "signature" // a package is not signed by whom it should be
	CodeFailed    Code = "failed"    // anything else
)

func (f *Failure) Error() string {
	s := string(f.Code) + ": " + f.Message
	if f.Hint != "" {
		s += " (" + f.Hint + ")"
	}
	return s
}

// Decode decodes the JSON of a payload, or of a request's arguments, into one of the structs of this package. Unknown
// fields, a second value and anything behind are malformed.
func Decode(payload []byte, into any) error {
	d := json.NewDecoder(bytes.NewReader(payload))
	d.DisallowUnknownFields()
	if err := d.Decode(into); err != nil {
		return fmt.Errorf("%w: %v", ErrMalformed, err)
	}
	if _, err := d.Token(); err != io.EOF {
		return fmt.Errorf("%w: more than one value", ErrMalformed)
	}
	return nil
}

// PeekVersion is the version in an answer to Hello, whatever else is in it; 0 where there is none. Only it is read
// before the version is known.
func PeekVersion(payload []byte) int {
	var v struct {
		Version int `json:"version"`
	}
	if json.Unmarshal(payload, &v) != nil {
		return 0
	}
	return v.Version
}

// Encode is the JSON of one of the structs of this package.
func Encode(v any) ([]byte, error) {
	b, err := json.Marshal(v)
	if err == nil && len(b) > MaxMessage {
		err = fmt.Errorf("a message of %d bytes, at most %d", len(b), MaxMessage)
	}
	return b, err
}
