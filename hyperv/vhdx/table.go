package vhdx

import (
	"context"

	"github.com/hikae/hikae/pipe"
	"github.com/hikae/hikae/pipe/diskfile"
)

// Format is VHDX for a table of formats. opts and create are for every file that it opens or makes; nil is welcome.
func Format(opts *Options, create *CreateOptions) diskfile.Format {
	return newFormat("vhdx", opts, create)
}

// VHDFormat is VHD for a table of formats.
func VHDFormat(opts *Options, create *CreateOptions) diskfile.Format {
	return newFormat("vhd", opts, create)
}

type diskFormat struct {
	name   string
	open   Options
	create CreateOptions
}

func newFormat(name string, opts *Options, create *CreateOptions) diskfile.Format {
	f := diskFormat{name: name}
	if opts != nil {
		f.open = *opts
	}
	if create != nil {
		f.create = *create
	}
	return f
}

func (f diskFormat) Name() string { return f.name }

func (f diskFormat) Detect(p diskfile.Probe) bool { return diskfile.Recognise(p) == f.name }

func (f diskFormat) Open(ctx context.Context, path string, opts *diskfile.OpenOptions) (pipe.Image, error) {
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

func (f diskFormat) Create(ctx context.Context, path string, size int64, opts *diskfile.CreateOptions) (pipe.Target, error) {
	o := f.create
	if opts != nil {
		o.CreateOptions = *opts
	}
	if f.name == "vhd" {
		t, err := CreateVHD(ctx, path, size, &o)
		if err != nil {
			return nil, err
		}
		return t, nil
	}
	t, err := Create(ctx, path, size, &o)
	if err != nil {
		return nil, err
	}
	return t, nil
}
