package qga

import (
	"context"
	"errors"
	"fmt"
)

// Carrier takes one request to the agent, a line of JSON, and brings the answer: a way in that is not a socket of our
// own, such as a management daemon that holds the port and synchronizes with the agent itself. What the agent refused is
// an *Error, of which Desc is enough.
type Carrier func(ctx context.Context, request []byte) (answer []byte, err error)

// Via makes a client whose requests go by a carrier.
func Via(carry Carrier) *Client {
	c := New("", nil)
	c.carry = carry
	return c
}

// byCarrier is one exchange.
func (c *Client) byCarrier(ctx context.Context, command string, line []byte, out any) error {
	text, err := c.carry(ctx, line)
	var refusal *Error
	if errors.As(err, &refusal) {
		refusal.Command = command
		return refusal
	}
	if err != nil {
		return fmt.Errorf("%s: no answer: %w", command, err)
	}
	if len(text) > c.max {
		return fmt.Errorf("%s: %w", command, ErrTooLong)
	}
	return decode(command, text, out)
}
