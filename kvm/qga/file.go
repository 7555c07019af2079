package qga

import (
	"context"
	"fmt"
)

// chunk is how much of a file goes in one message: the agent's own buffers are small, and a port is slow.
const chunk = 256 << 10

// ReadFile reads a file of the guest. One that is longer than max bytes is ErrTooLong.
func (c *Client) ReadFile(ctx context.Context, path string, max int64) (data []byte, err error) {
	ctx, cancel := bounded(ctx, Timeout)
	defer cancel()
	handle, err := c.open(ctx, path, "r")
	if err != nil {
		return nil, err
	}
	defer func() { c.closeFile(ctx, handle) }() // read to its end: what closing says is of no interest
	for {
		var part struct {
			Count int64  `json:"count"`
			Data  []byte `json:"buf-b64"`
			EOF   bool   `json:"eof"`
		}
		if err := c.Do(ctx, "guest-file-read", map[string]any{"handle": handle, "count": chunk}, &part); err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
		if int64(len(data))+int64(len(part.Data)) > max {
			return nil, fmt.Errorf("%s: longer than %d bytes: %w", path, max, ErrTooLong)
		}
		data = append(data, part.Data...)
		if part.EOF || len(part.Data) == 0 {
			return data, nil
		}
	}
}

// WriteFile writes a file of the guest, replacing what is there. After an error it may be there in part.
func (c *Client) WriteFile(ctx context.Context, path string, data []byte) error {
	ctx, cancel := bounded(ctx, Timeout)
	defer cancel()
	handle, err := c.open(ctx, path, "w")
	if err != nil {
		return err
	}
	if err := c.write(ctx, handle, data); err != nil {
		c.closeFile(ctx, handle)
		return fmt.Errorf("%s: %w", path, err)
	}
	return c.closeFile(ctx, handle)
}

func (c *Client) write(ctx context.Context, handle int64, data []byte) error {
	for len(data) > 0 {
		part := data[:min(len(data), chunk)]
		var wrote struct {
			Count int `json:"count"`
		}
		if err := c.Do(ctx, "guest-file-write", map[string]any{"handle": handle, "buf-b64": part}, &wrote); err != nil {
			return err
		}
		if wrote.Count <= 0 || wrote.Count > len(part) {
			return fmt.Errorf("guest-file-write: %w: it wrote %d of %d bytes", ErrProtocol, wrote.Count, len(part))
		}
		data = data[wrote.Count:]
	}
	return nil
}

func (c *Client) open(ctx context.Context, path, mode string) (handle int64, err error) {
	if err = c.Do(ctx, "guest-file-open", map[string]any{"path": path, "mode": mode}, &handle); err != nil {
		return 0, fmt.Errorf("%s: %w", path, err)
	}
	return handle, nil
}

func (c *Client) closeFile(ctx context.Context, handle int64) error {
	return c.Do(ctx, "guest-file-close", map[string]any{"handle": handle}, nil)
}
