package diskfile

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/hikae/hikae/pipe"
)

// Format is one kind of disk file. The program makes a table of those that it wants: see [Formats].
type Format interface {
	// Name is the word for it that users type: raw, qcow2, vhdx …
	Name() string

	// Detect reports whether a file with this content is of the format. It looks at nothing else.
	Detect(p Probe) bool

	// Open opens the file at path, and whatever other files it stands on, for reading.
	Open(ctx context.Context, path string, opts *OpenOptions) (pipe.Image, error)

	// Create starts a new file that holds a disk of size bytes, with the errors of [Begin].
	Create(ctx context.Context, path string, size int64, opts *CreateOptions) (pipe.Target, error)
}

// Probe is what formats are recognised by.
type Probe struct {
	Header []byte // the first bytes of the file, at most ProbeLen
	Tail   []byte // the last bytes of the file, at most ProbeLen; it may overlap Header
	Size   int64  // of the file
}

// ProbeLen is how much of a file's two ends is looked at, in bytes.
const ProbeLen = 1024

// ReadProbe reads what formats are recognised by.
func ReadProbe(ctx context.Context, img pipe.Image) (Probe, error) {
	n := min(img.Size(), ProbeLen)
	p := Probe{Header: make([]byte, n), Tail: make([]byte, n), Size: img.Size()}
	for _, part := range []struct {
		b   []byte
		off int64
	}{{p.Header, 0}, {p.Tail, p.Size - n}} {
		if got, err := img.ReadAt(ctx, part.b, part.off); err != nil && (err != io.EOF || got < len(part.b)) {
			return Probe{}, err
		}
	}
	return p, nil
}

// Formats is a table of formats, as the program wants them.
type Formats []Format

// ByName finds a format by its name.
func (table Formats) ByName(name string) (Format, error) {
	var names []string
	for _, f := range table {
		if f.Name() == name {
			return f, nil
		}
		names = append(names, f.Name())
	}
	return nil, fmt.Errorf("format %q is none of %s", name, strings.Join(names, ", "))
}

// Detect finds out which format the file at path is of. A format that is recognised and not in the table is a
// *FormatError.
func (table Formats) Detect(ctx context.Context, path string) (Format, error) {
	img, err := Open(path, &OpenOptions{Live: true})
	if err != nil {
		return nil, err
	}
	p, err := ReadProbe(ctx, img)
	if err := errors.Join(err, img.Close()); err != nil {
		return nil, err
	}
	for _, f := range table {
		if f.Detect(p) {
			return f, nil
		}
	}
	name := Recognise(p)
	if name == "" {
		name = "raw"
	}
	return nil, &FormatError{Path: path, Format: name}
}

// Open opens the disk file at path. Where format is empty, the file's content decides.
func (table Formats) Open(ctx context.Context, path, format string, opts *OpenOptions) (pipe.Image, error) {
	f, err := table.find(ctx, path, format)
	if err != nil {
		return nil, err
	}
	return f.Open(ctx, path, opts)
}

func (table Formats) find(ctx context.Context, path, format string) (Format, error) {
	if format != "" {
		return table.ByName(format)
	}
	return table.Detect(ctx, path)
}

// magic is a sign by which a format is known.
type magic struct {
	format string
	at     int // from the start of the file, or from its end where negative
	bytes  string
}

// magics are the signs of the formats that a virtual disk comes in. A raw disk does not begin with any of them unless
// somebody put it there.
var magics = []magic{
	{"qcow2", 0, "QFI\xfb\x00\x00\x00\x02"}, {"qcow2", 0, "QFI\xfb\x00\x00\x00\x03"},
	{"qcow", 0, "QFI\xfb"},
	{"qed", 0, "QED\x00"},
	{"vhdx", 0, "vhdxfile"},
	{"vhd", 0, "conectix"}, {"vhd", -512, "conectix"}, {"vhd", -511, "conectix"},
	{"vmdk", 0, "KDMV"}, {"vmdk", 0, "COWD"}, {"vmdk", 0, "# Disk DescriptorFile"},
	{"vmdk", 0, "\xbe\xba\xfe\xca\x00\x00\x00\x00"}, // SESparse
	{"vdi", 64, "\x7f\x10\xda\xbe"},
	{"parallels", 0, "WithoutFreeSpace"}, {"parallels", 0, "WithouFreSpacExt"},
	{"dmg", -512, "koly"},
}

// Recognise is the name of the format that a file is known to be of by its signs, empty for none: then it is raw.
func Recognise(p Probe) string {
	for _, m := range magics {
		b, at := p.Header, m.at
		if at < 0 {
			b, at = p.Tail, len(p.Tail)+at
		}
		if at >= 0 && at <= len(b) && bytes.HasPrefix(b[at:], []byte(m.bytes)) {
			return m.format
		}
	}
	return ""
}

// Raw is the format of raw files. It recognises whatever is of no other known format.
func Raw() Format { return rawFormat{} }

type rawFormat struct{}

func (rawFormat) Name() string { return "raw" }

func (rawFormat) Detect(p Probe) bool { return Recognise(p) == "" }

func (rawFormat) Open(ctx context.Context, path string, opts *OpenOptions) (pipe.Image, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	img, err := Open(path, opts)
	if err != nil {
		return nil, err
	}
	return img, nil
}

func (rawFormat) Create(ctx context.Context, path string, size int64, opts *CreateOptions) (pipe.Target, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	t, err := Create(path, size, opts)
	if err != nil {
		return nil, err
	}
	return t, nil
}
