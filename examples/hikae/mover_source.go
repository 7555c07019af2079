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
	"github.com/hikae/hikae/pipe/diskfile"
	"github.com/hikae/hikae/pipe/mover"
	"github.com/hikae/hikae/pipe/mover/wire"
	"github.com/hikae/hikae/pipe/qcow2"
	"github.com/hikae/hikae/repo"
)

// images are the disk files that a mover of this machine lets others collect, by name. It is a [mover.Source].
type images struct {
	files    map[string]offered
	sessions *job.Sessions
}

var _ mover.Source = (*images)(nil)

// offered is a file that may be collected. Where its format is not stated, its content decides, and then it may lead to no
// other file: it may be a raw disk, and what it says its guest's words.
type offered struct{ path, format string }

// formats are those that a file may have.
func (o offered) formats() diskfile.Formats {
	if o.format != "" {
		return nil
	}
	const reason = "its format is not stated, so that it may be a raw disk whose guest wrote that; say --source NAME=FILE,format=qcow2"
	return diskfile.Formats{qcow2.Format(&qcow2.Options{Alone: reason}, nil), diskfile.Raw()}
}

// parseImages reads the arguments of --source.
func parseImages(args []string) (map[string]offered, error) {
	files := map[string]offered{}
	for _, arg := range args {
		name, path, ok := strings.Cut(arg, "=")
		path, format, _ := strings.Cut(path, ",format=")
		if _, twice := files[name]; !ok || name == "" || path == "" || twice {
			return nil, outcome.Usage("For instance --source web1=/vm/web1.qcow2.", "--source %q is not NAME=FILE with a name of its own", arg)
		}
		if format != "" && format != "raw" && format != "qcow2" {
			return nil, outcome.Usage("Write format=raw or format=qcow2.", "--source %q: the format %q is not known", arg, format)
		}
		files[name] = offered{path, format}
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
	files, formats, err := s.chosen([]wire.CollectDisk{{Key: "disk0", Image: name}})
	if err != nil {
		return nil, err
	}
	provider, err := diskvm.Open(ctx, name, files, &diskvm.Options{Formats: formats})
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
func (s *images) chosen(disks []wire.CollectDisk) (list []diskvm.File, formats diskfile.Formats, err error) {
	formats = diskFormats()
	for _, d := range disks {
		o, ok := s.files[d.Image]
		if !ok {
			return nil, nil, fmt.Errorf("image %q: %w", d.Image, fs.ErrNotExist)
		}
		list = append(list, diskvm.File{Key: d.Key, Path: o.path, Format: o.format})
		if strict := o.formats(); strict != nil { // for all of them: a chain beside it is to be stated too
			formats = strict
		}
	}
	return list, formats, nil
}

// Collect backs up a VM's images into the place that ordered it. The result is the session's, for the other side's
// report; a record of it is kept here too.
func (s *images) Collect(ctx context.Context, order *wire.Collect, to pipe.Backend) ([]byte, error) {
	files, formats, err := s.chosen(order.Disks)
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
	provider, err := diskvm.Open(ctx, order.VM, files, &diskvm.Options{Formats: formats})
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
	had, err := pointsOf(ctx, r, f.name)
	if err != nil {
		return nil, about(f.repo, "list the points of "+f.name, err)
	}
	data, err := mover.Collect(ctx, p.address, order, r, opts)
	if err != nil {
		return nil, about(p.String(), "", err)
	}
	result, err := f.collected(ctx, r, data, had)
	if err != nil {
		return nil, about(p.String(), "the other mover's report", err)
	}
	result.Session = sessions.NewID() // the other side's own is of its own sessions
	if err := sessions.Save(job.Record{Kind: job.KindBackup, Backup: &result}); err != nil {
		result.Warnings = append(result.Warnings, fmt.Sprintf("the record of this session was not kept: %v", err))
	}
	return backedUp(result, r.said), nil
}

// collected is the source's report, held against what is in the repository: that is what says whether there is a point.
func (f *backupFlags) collected(ctx context.Context, r *opened, data []byte, had map[string]bool) (result job.Result, err error) {
	if err := json.Unmarshal(data, &result); err != nil {
		return result, err
	}
	point, err := r.Resolve(ctx, result.Point)
	if err != nil || result.Point == "" || point.ID != result.Point || point.VM != f.name || had[point.ID] {
		return result, fmt.Errorf("it names %q as its new point, and there is no such point of %s: %w", result.Point, f.name, errors.Join(err, errForged))
	}
	sizes := map[string]int64{}
	for _, d := range point.Disks {
		sizes[d.Key] = d.Size
	}
	for _, d := range result.Disks {
		if size, ok := sizes[d.Key]; !ok || size != d.Size || d.Read < 0 || d.Read > size || d.Moved < 0 || d.Stored < 0 || d.Deduplicated < 0 || !(d.Seconds >= 0 && d.Seconds < 1e9) {
			return result, fmt.Errorf("its figures of disk %q are not of the point: %w", d.Key, errForged)
		}
	}
	if len(result.Disks) != len(sizes) || !(result.Seconds >= 0 && result.Seconds < 1e9) {
		return result, fmt.Errorf("its disks are not the point's: %w", errForged)
	}
	result.VM, result.Consistency, result.Target = point.VM, point.Consistency, "collected by a mover, trusted: it holds the repository's keys"
	return result, nil
}

var errForged = errors.New("the report cannot be believed")

// pointsOf are the ids of a VM's points.
func pointsOf(ctx context.Context, r *opened, vm string) (map[string]bool, error) {
	had := map[string]bool{}
	for p, err := range r.Points(ctx, vm) {
		if err == nil {
			had[p.ID] = true
		} else if _, damaged := errors.AsType[*repo.ErrCorrupt](err); !damaged {
			return nil, err
		}
	}
	return had, nil
}

// order is what a mover:// URL and the flags ask of the other side.
func (f *backupFlags) order(source string) (*wire.Collect, farPlace, error) {
	p, err := parseFar(source)
	if err != nil {
		return nil, p, err
	}
	names := p.query["image"]
	if len(names) == 0 {
		return nil, p, outcome.Usage("For instance mover://site-a.example.org/site-b?image=web1.", "%s: no ?image= says which disk", source)
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
