package job

import (
	"context"
	"fmt"

	"github.com/hikae/hikae"
	"github.com/hikae/hikae/pipe"
)

// Excluder finds what of a VM's disks need not be stored. It is asked once in a session, with all disks that the snapshot
// covers, before the first of them is copied. The images are closed when it returns.
//
// It decides nothing about success: where it fails, nothing is left out, and a note says so.
type Excluder func(ctx context.Context, disks []OpenDisk) (Exclusion, error)

// OpenDisk is a disk of a snapshot that can be read.
type OpenDisk struct {
	hikae.Disk
	Image pipe.Image
}

// Exclusion is what an Excluder found.
type Exclusion struct {
	// Image puts an image around a disk's image of which the extents say what need not be stored: Free, Swap or Excluded
	// where the disk itself says Data. It answers img where there is nothing to say. Nil: nothing is left out.
	Image func(key string, img pipe.Image) pipe.Image
	// Volumes are what was found on the disks.
	Volumes []VolumeResult
	Notes   []string
}

// exclude asks what may be left out. Only a context that ended is an error.
func (s *backup) exclude(ctx context.Context) error {
	if s.opts.Exclude == nil {
		return nil
	}
	if s.snap.Consistency() == hikae.Unknown {
		s.note("nothing was left out: the disks may be written to while they are read, and then what is free may be in use")
		return nil
	}
	s.phase(PhaseExclude)
	found, err := s.findExclusion(ctx)
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if err != nil {
		s.note("nothing was left out, because the disks could not be looked into: %v", err)
		return nil
	}
	s.exclusion, s.res.Volumes = found, found.Volumes
	s.res.Notes = append(s.res.Notes, found.Notes...)
	for _, v := range found.Volumes {
		if v.Caution {
			s.note("volume %s is stored whole, out of caution: %s", v.title(), v.Whole)
		}
	}
	return nil
}

func (s *backup) findExclusion(ctx context.Context) (Exclusion, error) {
	var disks []OpenDisk
	defer func() {
		for _, d := range disks {
			d.Image.Close()
		}
	}()
	for _, d := range s.snap.VM().Disks {
		if d.Skip != "" {
			continue
		}
		img, err := s.openDisk(ctx, d)
		if err != nil {
			return Exclusion{}, fmt.Errorf("disk %s: %w", d.Key, err)
		}
		disks = append(disks, OpenDisk{d, img})
	}
	return s.opts.Exclude(ctx, disks)
}

// without is a disk's image without what need not be stored.
func (s *backup) without(d hikae.Disk, img pipe.Image) pipe.Image {
	if s.exclusion.Image == nil {
		return img
	}
	return s.exclusion.Image(d.Key, img)
}

// title is a volume's name with what is on it.
func (v *VolumeResult) title() string {
	if v.Kind == "" {
		return v.Name
	}
	return fmt.Sprintf("%s (%s)", v.Name, v.Kind)
}
