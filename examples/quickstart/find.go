package main

import (
	"context"
	"io/fs"
	"strings"

	"github.com/hikae/hikae/pipe/exclude"
	"github.com/hikae/hikae/pipe/exclude/files"
	"github.com/hikae/hikae/pipe/exclude/layout"
)

// find reads a file out of the first point. Nothing is restored for it.
func (s *story) find(ctx context.Context) error {
	point, err := s.repo.Resolve(ctx, s.backups[0].Point)
	if err != nil {
		return err
	}
	img, err := s.repo.Open(ctx, point.ID, point.Disks[0].Key)
	if err != nil {
		return err
	}
	defer img.Close()
	machine, err := files.Open(ctx, []layout.Disk{{Key: point.Disks[0].Key, Image: img}}, exclude.Open)
	if err != nil {
		return err
	}
	tree, err := machine.Tree("")
	if err != nil {
		return err
	}
	text, err := fs.ReadFile(tree, "README.TXT")
	if err != nil {
		return err
	}
	s.chapter("A file is found in point %s, without restoring anything", short(point.ID))
	s.say("README.TXT: %q", strings.TrimSpace(string(text)))
	return nil
}
