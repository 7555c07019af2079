package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"strings"

	"github.com/spf13/cobra"

	"github.com/hikae/hikae/examples/hikae/internal/outcome"
	"github.com/hikae/hikae/pipe"
	"github.com/hikae/hikae/pipe/exclude"
	"github.com/hikae/hikae/pipe/exclude/files"
	"github.com/hikae/hikae/pipe/exclude/layout"
)

// guestFlags say which tree of a restore point is meant.
type guestFlags struct {
	*access
	volume string
}

func guestFlagsOf(cmd *cobra.Command) *guestFlags {
	f := &guestFlags{access: repoFlags(cmd)}
	cmd.Flags().StringVar(&f.volume, "volume", "", "the volume with this `NAME`, as `hikae ls POINT` lists it (default: the machine as /etc/fstab puts it together)")
	return f
}

// guestWords is what the pages of help on guest files share.
const guestWords = `
The file systems in a restore point are read as they are, through partitions and logical volumes, on all disks; nothing
is mounted. PATH begins at the root of the machine, put together as its /etc/fstab says, or with --volume at the root of
that volume. ext2, ext3, ext4, XFS, NTFS and FAT can be read. A name that is not valid UTF-8 is shown with \xHH for
each byte that is not.`

// contents is a restore point that is opened for its files.
type contents struct {
	*files.Machine
	tree    *files.Tree // nil: none is known, and none was named
	point   pipe.PointInfo
	repo    *opened
	images  []pipe.Image
	missing error // why there is no tree
}

func (g *contents) Close() error {
	var errs []error
	for _, img := range g.images {
		errs = append(errs, img.Close())
	}
	return errors.Join(append(errs, g.repo.Close())...)
}

// guestCache is how much of a disk is kept decoded, in bytes: metadata lies in small pieces of few blocks.
const guestCache = 64 << 20

// openGuest finds what lies on the disks of a point.
func (t *tool) openGuest(ctx context.Context, f *guestFlags, spec string) (*contents, error) {
	g, err := t.openPoint(ctx, f, spec)
	if err != nil {
		return nil, err
	}
	if err := g.openDisks(ctx, f); err != nil {
		return nil, errors.Join(err, g.Close())
	}
	return g, nil
}

// openPoint finds a point and opens none of its disks.
func (t *tool) openPoint(ctx context.Context, f *guestFlags, spec string) (_ *contents, err error) {
	r, err := t.open(ctx, f.access, false) // a lease keeps the point for as long as it is read
	if err != nil {
		return nil, err
	}
	g := &contents{repo: r}
	defer func() {
		if err != nil {
			err = errors.Join(err, g.Close())
		}
	}()
	if err = r.readable(); err != nil {
		return nil, err
	}
	g.point, err = findPoint(ctx, r, f.repo, spec)
	return g, err
}

// openDisks finds what lies on the disks.
func (g *contents) openDisks(ctx context.Context, f *guestFlags) (err error) {
	var disks []layout.Disk
	for _, d := range g.point.Disks {
		img, err := g.repo.Open(ctx, g.point.ID, d.Key)
		if err != nil {
			return about(f.repo, "open disk "+d.Key, err)
		}
		img = pipe.Cache(img, &pipe.CacheOptions{Bytes: guestCache / int64(len(g.point.Disks)), ChunkBytes: 256 << 10})
		g.images = append(g.images, img)
		disks = append(disks, layout.Disk{Key: d.Key, Image: img})
	}
	if g.Machine, err = files.Open(ctx, disks, exclude.Open); err != nil {
		return err
	}
	if g.tree, g.missing = g.Tree(f.volume); g.missing != nil && f.volume != "" {
		return &outcome.Error{Object: f.volume, Err: g.missing, Hint: "The point has " + g.names() + "."}
	}
	return nil
}

// names are the volumes that can be read, for a hint.
func (g *contents) names() string {
	var names []string
	for _, v := range g.Volumes {
		if v.FS != nil {
			names = append(names, v.Name)
		}
	}
	if len(names) == 0 {
		return "no volume with a file system that can be read"
	}
	return strings.Join(names, ", ")
}

// rooted is the tree, where there must be one.
func (g *contents) rooted() (*files.Tree, error) {
	if g.tree != nil {
		return g.tree, nil
	}
	return nil, &outcome.Error{Kind: outcome.KindUsage, Err: g.missing, Hint: "Name one with --volume: " + g.names() + "."}
}

// inTree makes of what a person writes a name as fs.FS has them.
func inTree(name string) (string, error) {
	clean := strings.TrimPrefix(path.Clean("/"+name), "/")
	if clean == "" {
		clean = "."
	}
	if !fs.ValidPath(clean) {
		return "", outcome.Usage("Bytes that are not UTF-8 are written as \\xHH.", "%q is not a path", name)
	}
	return clean, nil
}

// aboutFile tells of which file of the guest an error is.
func aboutFile(name string, err error) error {
	var of *fs.PathError
	if errors.As(err, &of) {
		err = of.Err
	}
	return &outcome.Error{Object: name, Text: fmt.Sprintf("%q in the point", name), Err: err}
}
