package vmdk

import (
	"context"

	"github.com/hikae/hikae/pipe"
	"github.com/hikae/hikae/pipe/diskfile"
)

// Format is VMDK as a disk file format, for a table of formats. The options are those of every disk that it opens; nil
// is welcome. New disks get the defaults of [Create], or create.
func Format(opts *Options, create *CreateOptions) diskfile.Format {
	f := format{}
	if opts != nil {
		f.open = *opts
	}
	if create != nil {
		f.create = *create
	}
	return f
}

type format struct {
	open   Options
	create CreateOptions
}

func (format) Name() string { return "vmdk" }

func (format) Detect(p diskfile.Probe) bool { return diskfile.Recognise(p) == "vmdk" }

func (f format) Open(ctx context.Context, path string, opts *diskfile.OpenOptions) (pipe.Image, error) {
	o := f.open
	if opts != nil && opts.Live {
		o.Live = true
	}
	img, err := Open(ctx, path, &o)
	if err != nil {
		return nil, err
	}
	return img, nil
}

func (f format) Create(ctx context.Context, path string, size int64, opts *diskfile.CreateOptions) (pipe.Target, error) {
	o := f.create
	if opts != nil {
		o.CreateOptions = *opts
	}
	t, err := Create(ctx, path, size, &o)
	if err != nil {
		return nil, err
	}
	return t, nil
}
