package qmp

import (
	"encoding/json"
	"fmt"
)

// DecodeAnswer reads an answer of QEMU that somebody else brought, such as a management daemon that holds the monitor. A
// refusal is an *Error; out may be nil.
func DecodeAnswer(command string, text []byte, out any) error {
	var answer struct { // the id in it is whatever the one who asked for us chose
		Return *json.RawMessage `json:"return"`
		Error  *struct {
			Class string `json:"class"`
			Desc  string `json:"desc"`
		} `json:"error"`
	}
	if err := json.Unmarshal(text, &answer); err != nil {
		return fmt.Errorf("%s: %w: %v", command, ErrProtocol, err)
	}
	if answer.Error == nil && answer.Return == nil {
		return fmt.Errorf("%s: %w: it has neither result nor error", command, ErrProtocol)
	}
	m := message{Error: answer.Error}
	if answer.Return != nil {
		m.Return = *answer.Return
	}
	cmd := Command{Name: command, Out: out}
	return cmd.take(m)
}
