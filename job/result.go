package job

import (
	"strings"
	"time"

	"github.com/hikae/hikae"
	"github.com/hikae/hikae/pipe"
)

// Result is what a backup session did. The names of its JSON fields are a contract with scripts. Sizes are bytes.
type Result struct {
	Session     string             `json:"session"`
	Point       string             `json:"point"` // full id; empty where no point was made
	VM          string             `json:"vm"`    // its name in the repository
	Base        string             `json:"base,omitempty"`
	Resumed     string             `json:"resumed,omitempty"` // the unfinished point of an earlier session that this one went on from
	Target      string             `json:"target,omitempty"`  // where the point went, in words, if it went over a line
	Started     time.Time          `json:"started"`
	Disks       []DiskResult       `json:"disks"`
	Volumes     []VolumeResult     `json:"volumes,omitempty"` // where it was looked for what need not be stored
	Consistency string             `json:"consistency"`
	Facts       map[string]string  `json:"facts,omitempty"` // of the VM and of how it was pinned, as the hypervisor tells them
	Guest       *GuestResult       `json:"guest,omitempty"` // where there was work in the guest
	Fallbacks   []Fallback         `json:"fallbacks"`
	Warnings    []string           `json:"warnings"` // what a person should do something about
	Notes       []string           `json:"notes"`    // what is good to know
	Stages      map[string]float64 `json:"stages"`   // busy share 0…1 of the copying time, by stage
	Bottleneck  string             `json:"bottleneck"`
	Seconds     float64            `json:"seconds"`

	// Phases is where the session's time went, in seconds: plan, guest, snapshot, exclude, copy, commit, release.
	Phases map[string]float64 `json:"phases,omitempty"`
	// Stored and Parity are what the whole session added to the store, trees and configuration included.
	Stored int64 `json:"stored"`
	Parity int64 `json:"parity"`
}

// DiskResult is what happened to one disk.
type DiskResult struct {
	Key          string           `json:"key"`
	Size         int64            `json:"size"`
	Method       Method           `json:"method"`
	Read         int64            `json:"read"`
	Skipped      map[string]int64 `json:"skipped"`      // never moved, by reason
	Deduplicated int64            `json:"deduplicated"` // plain bytes that the target had already
	Moved        int64            `json:"moved"`        // plain bytes handed to the target
	Stored       int64            `json:"stored"`       // bytes in packs, without parity
	Parity       int64            `json:"parity"`
	Random       int64            `json:"random"`                // of Moved: looks like chance, compressed or encrypted
	Overwritten  int64            `json:"overwritten,omitempty"` // of blocks that held other data in the base, where the target tells
	Randomized   int64            `json:"randomized,omitempty"`  // of Overwritten: looks like chance now
	Consistency  string           `json:"consistency"`           // of what was read: one for all disks of a snapshot
	Transport    string           `json:"transport,omitempty"`   // how the content came, where there are several ways
	Tried        []hikae.Detour   `json:"tried,omitempty"`       // other ways, and why not
	Sampled      int64            `json:"sampled,omitempty"`     // said to be unchanged, and read and compared all the same
	Bad          []Range          `json:"bad,omitempty"`         // could not be read and stand as zero in the point
	Seconds      float64          `json:"seconds"`
}

// VolumeResult is a partition or another volume on the disks, and what of it need not be stored. That may be more than was
// left out in the end, which DiskResult.Skipped tells: a block is left out only when all of it may be.
type VolumeResult struct {
	Name     string       `json:"name"`
	Kind     string       `json:"kind,omitempty"` // ext4, swap, LUKS …; empty where it is not known
	Label    string       `json:"label,omitempty"`
	UUID     string       `json:"uuid,omitempty"`
	Size     int64        `json:"size"`
	Parts    []VolumePart `json:"parts"`
	Free     int64        `json:"free"`
	Swap     int64        `json:"swap"`
	Excluded int64        `json:"excluded"`
	Files    int64        `json:"files"`             // excluded files
	Whole    string       `json:"whole,omitempty"`   // why all of it is stored
	Caution  bool         `json:"caution,omitempty"` // although it is of a kind that could be looked into
}

// VolumePart is where a part of a volume lies, in bytes.
type VolumePart struct {
	Disk   string `json:"disk"`
	Offset int64  `json:"offset"`
	Length int64  `json:"length"`
}

// Range is a part of a disk, in bytes.
type Range struct {
	Offset int64 `json:"offset"`
	Length int64 `json:"length"`
}

// Method is a rung of the ladder: how much of a disk has to be read.
type Method string

const (
	Changed   Method = "changed"   // what the provider says has changed since the base
	Allocated Method = "allocated" // every range that holds data, compared by fingerprint
	Whole     Method = "whole"     // every byte, compared by fingerprint
)

// Fallback is one step down the ladder, or from one transport to another.
type Fallback struct {
	Disk   string `json:"disk"`
	From   Method `json:"from"`
	To     Method `json:"to"`
	Reason string `json:"reason"`
}

// RestoreResult is what a restore session did. Sizes are bytes.
type RestoreResult struct {
	Session  string         `json:"session"`
	Point    string         `json:"point"`
	VM       string         `json:"vm"`
	ID       string         `json:"id"` // of the new VM, as its provider names it; a folder or file for disk files
	Where    Where          `json:"where,omitzero"`
	InPlace  bool           `json:"inPlace,omitempty"` // an existing VM was written over
	Started  time.Time      `json:"started"`
	Disks    []RestoredDisk `json:"disks"`
	Holes    []Hole         `json:"holes"` // what a salvage could not read; these read as zero
	Warnings []string       `json:"warnings"`
	Notes    []string       `json:"notes"`

	Stages     map[string]float64 `json:"stages"`
	Bottleneck string             `json:"bottleneck"`
	Seconds    float64            `json:"seconds"`
}

// Where is where a restored VM is, in its hypervisor's words. What is not known is empty.
type Where struct {
	Name   string `json:"name,omitempty"`
	Host   string `json:"host,omitempty"`
	Folder string `json:"folder,omitempty"` // of its disks, or of its first one
}

// String is "web1 on HV1, in C:\\VMs\\web1".
func (w Where) String() string {
	s := w.Name
	if w.Host != "" {
		s += " on " + w.Host
	}
	if w.Folder != "" {
		s += ", in " + w.Folder
	}
	return strings.TrimLeft(s, ", ")
}

// RestoredDisk is one disk that was written.
type RestoredDisk struct {
	Key     string           `json:"key"`
	Size    int64            `json:"size"`
	Read    int64            `json:"read"`    // from the restore point, each block checked against its id on the way
	Written int64            `json:"written"` // handed to the target; in place, where that is known, what differed
	Skipped map[string]int64 `json:"skipped"` // left as zero, by reason; in place left as it was
	// Compared is true where the disk was read again from where it was written, and every byte was the point's.
	Compared bool    `json:"compared"`
	Seconds  float64 `json:"seconds"`
}

// Hole is a range of a restored disk that reads as zero because the point is damaged there.
type Hole struct {
	Disk   string `json:"disk"`
	Offset int64  `json:"offset"`
	Length int64  `json:"length"`
	File   string `json:"file,omitempty"` // the guest's file that it lies in, where known
}

func reasons(skipped map[pipe.Kind]int64) map[string]int64 {
	out := make(map[string]int64, len(skipped))
	for kind, n := range skipped {
		if n > 0 {
			out[kind.String()] = n
		}
	}
	return out
}

func ranges(extents []pipe.Extent) []Range {
	var out []Range
	for _, e := range extents {
		out = append(out, Range{Offset: e.Off, Length: e.Len})
	}
	return out
}
