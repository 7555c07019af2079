package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"slices"
	"strings"

	"github.com/hikae/hikae"
	"github.com/hikae/hikae/examples/hikae/internal/outcome"
	"github.com/hikae/hikae/job"
	"github.com/hikae/hikae/job/diskvm"
	"github.com/hikae/hikae/pipe"
	"github.com/hikae/hikae/pipe/mover"
	"github.com/hikae/hikae/pipe/mover/wire"
)

// images are the disk files that a mover of this machine lets others collect, by name. It is a [mover.Source].
type images struct {
	files    map[string]string
	sessions *job.Sessions
}

var _ mover.Source = (*images)(nil)

// parseImages reads the arguments of --source.
func parseImages(args []string) (map[string]string, error) {
	files := map[string]string{}
	for _, arg := range args {
		name, path, ok := strings.Cut(arg, "=")
		if _, twice := files[name]; !ok || name == "" || path == "" || twice {
			return nil, outcome.Usage("For instance --source web1=/vm/web1.qcow2.", "--source %q is not NAME=FILE with a name of its own", arg)
		}
		files[name] = path
	}
	return files, nil
}

// Images lists what there is.
func (s *images) Images(ctx context.Context) ([]wire.NamedImage, error) {
	var out []wire.NamedImage
	for _, name := range slices.Sorted(maps.Keys(s.files)) {
		img, err := s.Open(ctx, name)
		if err != nil {
			return nil, fmt.Errorf("image %s: %w", name, err)
		}
		out = append(out, wire.NamedImage{Name: name, Size: img.Size()})
		if err := img.Close(); err != nil {
			return nil, fmt.Errorf("image %s: %w", name, err)
		}
	}
	return out, nil
}

// Open opens one image for reading. It is refused while QEMU writes to it, as by any backup.
func (s *images) Open(ctx context.Context, name string) (pipe.Image, error) {
	files, err := s.chosen([]wire.CollectDisk{{Key: "disk0", Image: name}})
	if err != nil {
		return nil, err
	}
	provider, err := diskvm.Open(ctx, name, files, nil)
	if err != nil {
		return nil, err
	}
	snap, err := provider.Snapshot(ctx, name, &hikae.SnapshotOptions{})
	if err != nil {
		return nil, err
	}
	img, err := snap.OpenDisk(ctx, "disk0")
	if err != nil {
		return nil, errors.Join(err, snap.Release(ctx))
	}
	return &snapped{Image: img, snap: snap, ctx: context.WithoutCancel(ctx)}, nil
}

// snapped is an image that gives its snapshot back when it is closed.
type snapped struct {
	pipe.Image
	snap hikae.Snapshot
	ctx  context.Context
}

func (s *snapped) Unwrap() pipe.Image { return s.Image }

func (s *snapped) Close() error { return errors.Join(s.Image.Close(), s.snap.Release(s.ctx)) }

// chosen are the files of an order. What is not offered is not there, whatever it is called.
func (s *images) chosen(disks []wire.CollectDisk) ([]diskvm.File, error) {
	var out []diskvm.File
	for _, d := range disks {
		path, ok := s.files[d.Image]
		if !ok {
			return nil, fmt.Errorf("image %q: %w", d.Image, fs.ErrNotExist)
		}
		out = append(out, diskvm.File{Key: d.Key, Path: path})
	}
	return out, nil
}

// Collect backs up a VM's images into the place that ordered it. The result is the session's, for the other side's
// report; a record of it is kept here too.
func (s *images) Collect(ctx context.Context, order *wire.Collect, to pipe.Backend) ([]byte, error) {
	files, err := s.chosen(order.Disks)
	if err != nil {
		return nil, err
	}
	f := &backupFlags{excludeSwap: order.ExcludeSwap, excludeFree: order.ExcludeFree, excludeFiles: order.ExcludeFiles, compression: order.Compression, name: order.VM}
	opts, err := f.options()
	if err != nil {
		return nil, err
	}
	opts.Full, opts.Sessions = order.Full, s.sessions
	opts.Exclude = f.excluder(0) // the target's block size is not known here
	provider, err := diskvm.Open(ctx, order.VM, files, nil)
	if err != nil {
		return nil, err
	}
	result, err := job.Backup(ctx, provider, "", to, opts)
	if err != nil {
		return nil, err
	}
	return json.Marshal(result)
}

// isFarSource reports whether disks are to be collected from a mover.
func isFarSource(source string) bool { return strings.HasPrefix(source, moverScheme) }

// collect backs up images of another machine: its mover reads them, and brings what is new.
func (t *tool) collect(ctx context.Context, f *backupFlags, source string) (*reply, error) {
	order, p, err := f.order(source)
	if err != nil {
		return nil, err
	}
	e, dir, err := t.enrolled(p)
	if err != nil {
		return nil, err
	}
	sessions, err := t.sessions()
	if err != nil {
		return nil, err
	}
	r, err := t.open(ctx, f.access, false)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	if order.Compression == "" {
		order.Compression = string(r.params().Compression)
	}
	opts, err := t.dialOptions(e, dir, &f.line)
	if err != nil {
		return nil, err
	}
	data, err := mover.Collect(ctx, p.address, order, r, opts)
	if err != nil {
		return nil, about(p.String(), "", err)
	}
	var result job.Result
	if err := json.Unmarshal(data, &result); err != nil {
		return nil, about(p.String(), "the other mover's report", err)
	}
	if err := sessions.Save(job.Record{Kind: job.KindBackup, Backup: &result}); err != nil {
		result.Warnings = append(result.Warnings, fmt.Sprintf("the record of this session was not kept: %v", err))
	}
	return backedUp(result, r.said), nil
}

// order is what a mover:// URL and the flags ask of the other side.
func (f *backupFlags) order(source string) (*wire.Collect, farPlace, error) {
	p, err := parseFar(source)
	if err != nil {
		return nil, p, err
	}
	names := p.query["image"]
	if len(names) == 0 {
		return nil, p, outcome.Usage("For instance mover://site-a.example.org/site-b?image=web1.", "%s: no &image= says which disk", source)
	}
	if f.name == "" {
		return nil, p, outcome.Usage("Name the VM: --name web1.", "--name is missing: disk images have no name of their own")
	}
	if len(f.changed) > 0 || f.base != "" || f.time != "" || f.limit != "" || f.forceLive {
		return nil, p, outcome.Usage("", "--changed, --base, --time, --limit and --force-live are for disks of this machine")
	}
	order := &wire.Collect{VM: f.name, Compression: f.compression, ExcludeSwap: f.excludeSwap, ExcludeFree: f.excludeFree, ExcludeFiles: f.excludeFiles}
	for i, name := range names {
		key, image, ok := strings.Cut(name, "=")
		if !ok {
			key, image = fmt.Sprintf("disk%d", i), name
		}
		order.Disks = append(order.Disks, wire.CollectDisk{Key: key, Image: image})
	}
	return order, p, f.checkGlobs()
}
