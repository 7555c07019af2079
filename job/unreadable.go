package job

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"

	"github.com/hikae/hikae/pipe"
)

// unreadable are, by disk, the ranges that could not be read and stand as zero in the point.
func (s *backup) unreadable() map[string][]Range {
	out := map[string][]Range{}
	for _, d := range s.res.Disks {
		if len(d.Bad) > 0 {
			out[d.Key] = d.Bad
		}
	}
	return out
}

// writeUnreadable keeps them with the point: a block that is bad in part stands there as data, and would not say so.
func (s *backup) writeUnreadable(ctx context.Context, writer pipe.PointWriter) error {
	bad := s.unreadable()
	if len(bad) == 0 {
		return nil
	}
	text, err := json.Marshal(bad)
	if err != nil {
		return err
	}
	if err := writer.Blob(ctx, pipe.UnreadableBlob, bytes.NewReader(text)); err != nil {
		return fmt.Errorf("list of what could not be read: %w", err)
	}
	return nil
}
