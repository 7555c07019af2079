package fatdisk

import (
	"encoding/binary"
	"fmt"
	"io/fs"
	"strings"
	"time"
)

const (
	entrySize  = 32
	attrLabel  = 0x08
	attrFolder = 0x10
	attrFile   = 0x20

	neverUsed = 0x00
	removed   = 0xE5
)

// entry is one line of a folder.
type entry struct {
	name  [11]byte
	attr  byte
	first uint16 // cluster; 0 for an empty file and for the root
	size  uint32
	off   int64 // where it stands on the disk
}

func (e entry) folder() bool { return e.attr&attrFolder != 0 }

// String is the name as people write it.
func (e entry) String() string {
	base, ext := strings.TrimRight(string(e.name[:8]), " "), strings.TrimRight(string(e.name[8:]), " ")
	if ext == "" {
		return base
	}
	return base + "." + ext
}

func (e entry) encode(t time.Time) []byte {
	p := make([]byte, entrySize)
	le := binary.LittleEndian
	copy(p, e.name[:])
	p[11] = e.attr
	day, clock := stamp(t)
	le.PutUint16(p[14:], clock)
	le.PutUint16(p[16:], day)
	le.PutUint16(p[18:], day)
	le.PutUint16(p[22:], clock)
	le.PutUint16(p[24:], day)
	le.PutUint16(p[26:], e.first)
	le.PutUint32(p[28:], e.size)
	return p
}

// stamp is the specification's date and time: years from 1980, seconds in twos.
func stamp(t time.Time) (day, clock uint16) {
	if t.IsZero() {
		t = time.Date(2024, 1, 1, 0, 0, 0, 0, time.UTC)
	}
	year := min(max(t.Year()-1980, 0), 127)
	day = uint16(year<<9 | int(t.Month())<<5 | t.Day())
	clock = uint16(t.Hour()<<11 | t.Minute()<<5 | t.Second()/2)
	return day, clock
}

const symbols = "!#$%&'()-@^_`{}~"

// shortName turns a name into the eleven bytes that stand in an entry.
func shortName(s string) (name [11]byte, err error) {
	base, ext, dotted := strings.Cut(strings.ToUpper(s), ".")
	if base == "" || len(base) > 8 || len(ext) > 3 || dotted && ext == "" {
		return name, fmt.Errorf("name %q is not of the form EIGHT.THR: %w", s, fs.ErrInvalid)
	}
	for _, c := range base + ext {
		if (c < 'A' || c > 'Z') && (c < '0' || c > '9') && !strings.ContainsRune(symbols, c) {
			return name, fmt.Errorf("name %q: %q has no place in a short name: %w", s, c, fs.ErrInvalid)
		}
	}
	copy(name[:], fmt.Sprintf("%-8s%-3s", base, ext))
	return name, nil
}

func label(s string) (name [11]byte, err error) {
	if s == "" {
		s = "HIKAE"
	}
	if len(s) > len(name) || strings.ContainsFunc(s, func(r rune) bool { return r < ' ' || r > '~' }) {
		return name, fmt.Errorf("label %q: %w", s, fs.ErrInvalid)
	}
	copy(name[:], fmt.Sprintf("%-11s", strings.ToUpper(s)))
	return name, nil
}

// spans are the places of a folder on the disk; first 0 is the root.
func (d *Disk) spans(first uint16) ([]Range, error) {
	if first == 0 {
		return []Range{{d.vol.rootOff(), rootEntries * entrySize}}, nil
	}
	chain, err := d.chain(first)
	if err != nil {
		return nil, err
	}
	spans := make([]Range, len(chain))
	for i, c := range chain {
		spans[i] = Range{d.vol.clusterOff(c), d.vol.clusterSize()}
	}
	return spans, nil
}

// list returns the files and folders in a folder, and where a new entry can stand: -1 where there is no room.
func (d *Disk) list(first uint16) (entries []entry, vacant int64, err error) {
	spans, err := d.spans(first)
	if err != nil {
		return nil, -1, err
	}
	vacant = -1
	for _, span := range spans {
		p := make([]byte, span.Len)
		if _, err := d.f.ReadAt(p, span.Off); err != nil {
			return nil, -1, err
		}
		for i := 0; i < len(p); i += entrySize {
			off := span.Off + int64(i)
			if p[i] == neverUsed || p[i] == removed {
				if vacant < 0 {
					vacant = off
				}
				if p[i] == neverUsed {
					return entries, vacant, nil
				}
				continue
			}
			e := entry{attr: p[i+11], off: off, first: binary.LittleEndian.Uint16(p[i+26:]),
				size: binary.LittleEndian.Uint32(p[i+28:])}
			copy(e.name[:], p[i:])
			if e.attr&attrLabel == 0 && e.name[0] != '.' {
				entries = append(entries, e)
			}
		}
	}
	return entries, vacant, nil
}

// add puts an entry into a folder, which grows by a cluster where it is full.
func (d *Disk) add(folder uint16, vacant int64, e entry) error {
	if vacant >= 0 {
		return d.write(e.encode(d.stamp), vacant)
	}
	if folder == 0 {
		return fmt.Errorf("the root folder holds %d names: %w", rootEntries, ErrFull)
	}
	chain, err := d.chain(folder)
	if err != nil {
		return err
	}
	more, err := d.allocate(1)
	if err != nil {
		return err
	}
	p := make([]byte, d.vol.clusterSize())
	copy(p, e.encode(d.stamp))
	if err := d.write(p, d.vol.clusterOff(more[0])); err != nil {
		return err
	}
	d.set(chain[len(chain)-1], more[0])
	return d.flush()
}

// makeFolder makes a folder in a folder and returns its first cluster.
func (d *Disk) makeFolder(parent uint16, vacant int64, name [11]byte) (uint16, error) {
	chain, err := d.allocate(1)
	if err != nil {
		return 0, err
	}
	p := make([]byte, d.vol.clusterSize())
	copy(p, entry{name: [11]byte([]byte(".          ")), attr: attrFolder, first: chain[0]}.encode(d.stamp))
	copy(p[entrySize:], entry{name: [11]byte([]byte("..         ")), attr: attrFolder, first: parent}.encode(d.stamp))
	if err := d.write(p, d.vol.clusterOff(chain[0])); err != nil {
		return 0, err
	}
	if err := d.flush(); err != nil {
		return 0, err
	}
	return chain[0], d.add(parent, vacant, entry{name: name, attr: attrFolder, first: chain[0]})
}
