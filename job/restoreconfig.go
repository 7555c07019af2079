package job

import (
	"context"
	"fmt"
	"strings"

	"github.com/hikae/hikae/pipe"
)

// guestBlobs begin the names of what a guest gave: records of its applications, a list of its files. It is no part of the
// VM's configuration.
const guestBlobs = "guest/"

func isGuests(blob string) bool { return strings.HasPrefix(blob, guestBlobs) }

// PointConfig reads the native configuration that a point keeps, by name, byte for byte; at most 256 MiB.
func PointConfig(ctx context.Context, backend pipe.Backend, point pipe.PointInfo) (map[string][]byte, error) {
	config, sum := map[string][]byte{}, int64(0)
	for _, b := range point.Blobs {
		if isGuests(b.Name) {
			continue
		}
		data, err := readBlob(ctx, backend, point.ID, b)
		if err != nil {
			return nil, fmt.Errorf("configuration %q: %w", b.Name, err)
		}
		if sum += int64(len(data)); sum > maxConfig {
			return nil, fmt.Errorf("configuration: more than %d bytes", maxConfig)
		}
		config[b.Name] = data
	}
	return config, nil
}
