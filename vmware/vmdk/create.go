package vmdk

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"fmt"
	"io/fs"
	"maps"
	"path/filepath"
	"strings"
	"sync/atomic"

	"github.com/hikae/hikae/pipe"
	"github.com/hikae/hikae/pipe/diskfile"
)

// Type is what a new disk is made as, by the format's own word.
type Type string

// The types that are written.
const (
	MonolithicSparse Type = "monolithicSparse" // one file that grows
	MonolithicFlat   Type = "monolithicFlat"   // a descriptor, and the disk's bytes beside it in NAME-flat.vmdk
	VMFS             Type = "vmfs"             // the same for ESXi
	StreamOptimized  Type = "streamOptimized"  // one compressed file, in the order of the disk
)

// CreateOptions change how a disk is written. Nil and zero fields are good defaults.
type CreateOptions struct {
	diskfile.CreateOptions

	// Type is MonolithicSparse where it is empty.
	Type Type
	// Adapter is what the disk hangs on: lsilogic (the default), buslogic, ide, legacyESX.
	Adapter string
	// DDB are more entries of the disk data base, by their names without "ddb.".
	DDB map[string]string
}

const (
	grainBytes   = 64 << 10
	grainSectors = grainBytes / sector
	perTable     = 512
	tableSectors = perTable * 4 / sector
	tableCovers  = perTable * grainBytes
	descSectors  = 20
	overhead     = 128     // sectors before the first grain of a stream
	maxCreate    = 8 << 40 // bytes of a sparse disk; places are numbers of 32 bits
)

// Create starts a disk of size bytes at path, with the errors of [diskfile.Begin]. Its files appear at Commit: with two
// of them the descriptor last. The new disk is longer than the target where size is no multiple of 512, as the format
// knows whole sectors only; what is added is zero. The target has the extents ability.
//
// A sparse disk is at most 8 TiB, with at most 2 TiB of data; its tables take 64 MiB of memory for each TiB of data.
func Create(ctx context.Context, path string, size int64, opts *CreateOptions) (pipe.ExtentTarget, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	var o CreateOptions
	if opts != nil {
		o = *opts
	}
	if size < 0 || size > 1<<60 {
		return nil, fmt.Errorf("disk size %d: %w", size, fs.ErrInvalid)
	}
	d, err := o.describe(path, size)
	if err != nil {
		return nil, err
	}
	switch o.Type {
	case MonolithicFlat, VMFS:
		return createFlat(path, size, d, &o)
	case MonolithicSparse, "":
		return createSparse(path, size, d, &o)
	case StreamOptimized:
		return createStream(path, size, d, &o)
	}
	return nil, fmt.Errorf("disks of type %q are not written: %w", o.Type, fs.ErrInvalid)
}

// describe is the descriptor of a new disk.
func (o *CreateOptions) describe(path string, size int64) (*Descriptor, error) {
	name := filepath.Base(path)
	e := ExtentLine{Access: ReadWrite, Sectors: sectors(size), Type: "SPARSE", File: name}
	d := &Descriptor{CID: newCID(), ParentCID: NoParent, CreateType: string(o.Type), DDB: geometry(size, o.Adapter)}
	maps.Copy(d.DDB, o.DDB)
	switch o.Type {
	case "":
		d.CreateType = string(MonolithicSparse)
	case MonolithicFlat:
		e.Type, e.File = "FLAT", flatName(name)
	case VMFS:
		e.Type, e.File = "VMFS", flatName(name)
	}
	d.Extents = []ExtentLine{e}
	return d, d.expressible()
}

// expressible refuses what the text cannot hold, rather than to write a descriptor that says something else.
func (d *Descriptor) expressible() error {
	words := []string{d.CreateType, d.ParentHint}
	for _, e := range d.Extents {
		words = append(words, e.File)
	}
	for k, v := range d.DDB {
		if k == "" || strings.ContainsAny(k, "= \t#") {
			return fmt.Errorf("disk data base: the name %q: %w", k, fs.ErrInvalid)
		}
		words = append(words, k, v)
	}
	for _, w := range words {
		if strings.ContainsAny(w, "\"\r\n\x00") {
			return fmt.Errorf("descriptor: %q: %w", w, fs.ErrInvalid)
		}
	}
	return nil
}

// embed is the descriptor as it stands in an extent.
func (d *Descriptor) embed() ([]byte, error) {
	b := d.Append(nil)
	if len(b) > descSectors*sector {
		return nil, fmt.Errorf("a descriptor of %d bytes: %w", len(b), fs.ErrInvalid)
	}
	return append(b, make([]byte, descSectors*sector-len(b))...), nil
}

func sectors(size int64) int64 { return (size + sector - 1) / sector }

func flatName(name string) string { return strings.TrimSuffix(name, ".vmdk") + "-flat.vmdk" }

// newCID is any but those that mean something: ffffffff no parent, fffffffe a disk never written to.
func newCID() CID {
	for {
		var b [4]byte
		rand.Read(b[:])
		if c := CID(binary.LittleEndian.Uint32(b[:])); c != 0 && c < NoParent-1 {
			return c
		}
	}
}

// geometry is what a BIOS is told. It bounds nothing.
func geometry(size int64, adapter string) map[string]string {
	if adapter == "" {
		adapter = "lsilogic"
	}
	heads, track := int64(255), int64(63)
	switch {
	case adapter == "ide":
		heads = 16
	case size <= 1<<30:
		heads, track = 64, 32
	case size <= 2<<30:
		heads, track = 128, 32
	}
	cylinders := max(sectors(size)/(heads*track), 1)
	if adapter == "ide" {
		cylinders = min(cylinders, 16383)
	}
	return map[string]string{
		"adapterType": adapter, "virtualHWVersion": "4",
		"geometry.cylinders": fmt.Sprint(cylinders), "geometry.heads": fmt.Sprint(heads), "geometry.sectors": fmt.Sprint(track),
	}
}

// base is what all targets have in common.
type base struct {
	path   string
	size   int64
	closed atomic.Bool
}

// Size is [pipe.Target.Size].
func (t *base) Size() int64 { return t.size }

func (t *base) fail(op string, off int64, err error) error {
	return &diskfile.Error{Op: op, Path: t.path, Off: off, Err: err}
}

// check refuses ranges outside of the disk.
func (t *base) check(ctx context.Context, off, n int64) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if t.closed.Load() {
		return t.fail("write", off, fs.ErrClosed)
	}
	if off < 0 || n < 0 || off > t.size || n > t.size-off {
		return t.fail("write", off, fmt.Errorf("%w: %d bytes leave the disk of %d", fs.ErrInvalid, n, t.size))
	}
	return nil
}

// checkMark refuses what cannot be marked.
func (t *base) checkMark(ctx context.Context, e pipe.Extent) error {
	if err := t.check(ctx, e.Off, e.Len); err != nil {
		return err
	}
	switch {
	case e.Kind == pipe.Unchanged:
		return t.fail("mark", e.Off, diskfile.ErrNoBase)
	case e.Kind != pipe.Zero && !e.Kind.Dropped():
		return t.fail("mark", e.Off, fmt.Errorf("%w: %v cannot be marked", fs.ErrInvalid, e.Kind))
	}
	return nil
}
