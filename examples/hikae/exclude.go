package main

import (
	"context"

	"github.com/hikae/hikae/examples/hikae/internal/outcome"
	"github.com/hikae/hikae/job"
	"github.com/hikae/hikae/pipe/exclude"
)

// checkGlobs refuses what --exclude-file cannot mean, before anything is opened.
func (f *backupFlags) checkGlobs() error {
	for _, text := range f.excludeFiles {
		if _, err := exclude.ParseGlobs([]string{text}); err != nil {
			return outcome.Usage("For instance --exclude-file '**/tmp/**', or --exclude-file '*.iso'.", "--exclude-file: %v", err)
		}
	}
	if _, err := exclude.ParseGlobs(f.excludeFiles); err != nil {
		return outcome.Usage("", "--exclude-file: %v", err)
	}
	return nil
}

// excluder looks into a VM's disks as the flags ask; nil where nothing is to be left out. blockSize is the repository's.
func (f *backupFlags) excluder(blockSize int64) job.Excluder {
	if !f.excludeSwap && !f.excludeFree && len(f.excludeFiles) == 0 {
		return nil
	}
	opts := &exclude.Options{Swap: f.excludeSwap, Free: f.excludeFree, Files: f.excludeFiles, BlockSize: blockSize}
	return func(ctx context.Context, disks []job.OpenDisk) (job.Exclusion, error) {
		list := make([]exclude.Disk, len(disks))
		for i, d := range disks {
			list[i] = exclude.Disk{Key: d.Key, Image: d.Image}
		}
		plan, err := exclude.Analyse(ctx, list, opts)
		if err != nil {
			return job.Exclusion{}, err
		}
		return job.Exclusion{Image: plan.Image, Volumes: volumeResults(plan.Report.Volumes), Notes: plan.Report.Notes}, nil
	}
}

// volumeResults puts a report into the words of a session's result.
func volumeResults(volumes []exclude.Volume) []job.VolumeResult {
	out := make([]job.VolumeResult, len(volumes))
	for i, v := range volumes {
		out[i] = job.VolumeResult{
			Name: v.Name, Kind: v.Kind, Label: v.Label, UUID: v.UUID, Size: v.Size, Parts: []job.VolumePart{},
			Free: v.Free, Swap: v.Swap, Excluded: v.Excluded, Files: v.Files, Whole: v.Whole, Caution: v.Caution,
		}
		for _, p := range v.Parts {
			out[i].Parts = append(out[i].Parts, job.VolumePart{Disk: p.Disk, Offset: p.Offset, Length: p.Length})
		}
	}
	return out
}
