package requester

import (
	"context"
	"errors"
	"fmt"
	"strings"
)

// errTwin says that of two volumes with one GUID nobody can tell which a shadow copy is of.
var errTwin = errors.New("two volumes have the same GUID, as those of a disk and its clone: take the clone offline, or give it a GUID of its own")

// leads looks whether a volume's name leads to the volume itself: a shadow copy is asked for by that name, and files are read from it.
func leads(ctx context.Context, vss VSS, v Volume) error {
	if v.Device == "" || strings.EqualFold(v.Name, v.Mount) {
		return nil
	}
	named, err := vss.Volume(ctx, v.Name)
	if err != nil {
		return fmt.Errorf("what %s means: %w", v.Name, err)
	}
	if named.Device != "" && !strings.EqualFold(named.Device, v.Device) {
		return fmt.Errorf("%s is %s on %s, and that name means %s: %w", v.Mount, v.Name, v.Device, named.Device, errTwin)
	}
	return nil
}

// checked holds what the service tells of a shadow copy to what was asked for: it is one of this set, and of that volume.
func (s *set) checked(asked, found Snapshot) error {
	bare := func(name string) string { return strings.ToLower(strings.TrimSuffix(name, `\`)) }
	switch {
	case found.Set != s.id:
		return fmt.Errorf("shadow copy %s is one of set %s, and was asked for in %s", asked.ID, found.Set, s.id)
	case strings.HasPrefix(found.Volume, `\\?\`) && bare(found.Volume) != bare(asked.Volume):
		return fmt.Errorf("shadow copy %s is of %s, and was asked for of %s: %w", asked.ID, found.Volume, asked.Volume, errTwin)
	}
	for _, other := range s.shadow {
		if other.ID != asked.ID && other.Device != "" && strings.EqualFold(other.Device, found.Device) {
			return fmt.Errorf("the shadow copies of %s and of %s are both %s: %w", other.Volume, asked.Volume, found.Device, errTwin)
		}
	}
	return nil
}
