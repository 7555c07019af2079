// Package swap reads the header of Linux swap space: of a partition, a logical volume or a swap file. It tells what of
// the space need not be stored, and whether a sleeping system lies in it.
//
//	first page │ boot code 1024 │ version, last page, bad pages, UUID, label … │ SWAPSPACE2 at its last 10 bytes │
//	then pages │ what was swapped out: of no use to a machine that starts again                                   │
//
// The first page is always stored: a restored guest finds its swap space by the UUID in it, and lists the same areas.
package swap

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"strings"
	"unicode/utf8"

	"github.com/hikae/hikae/pipe"
	"github.com/hikae/hikae/pipe/exclude/fsys"
)

// MaxPage is the largest page that any system keeps swap space in, in bytes; MinPage the smallest.
const (
	MinPage = 4 << 10
	MaxPage = 64 << 10
)

// Area is swap space.
type Area struct {
	Page  int64 // bytes
	UUID  string
	Label string
	// Used is what the header covers, in bytes from the beginning, the first page included.
	Used int64
	// Hibernated: a sleeping system keeps its memory here, and wakes up with what is on all its disks.
	Hibernated bool
	// Doubt says in words why nothing of the area may be left out. Empty: nothing is wrong.
	Doubt string
}

// Droppable is what need not be stored: everything behind the first page.
func (a *Area) Droppable() fsys.Range {
	if a.Doubt != "" || a.Hibernated || a.Used <= a.Page {
		return fsys.Range{}
	}
	return fsys.Range{Off: a.Page, Len: a.Used - a.Page}
}

// sleeping are the marks that stand in place of the usual one while a system sleeps: of swsusp, its user-space variants,
// and TuxOnIce.
var sleeping = []string{"S1SUSPEND", "S2SUSPEND", "ULSUSPEND", "LINHIB0001", "\xED\xC3\x02\xE9\x98\x56\xE5\x0C"}

const (
	mark    = "SWAPSPACE2"
	oldMark = "SWAP-SPACE"
	markLen = 10
)

// Open reads the header of vol: a volume, or the content of a file. Where there is none it is [fsys.ErrOther].
func Open(ctx context.Context, vol pipe.Image) (*Area, error) {
	head := make([]byte, min(MaxPage, vol.Size()))
	n, err := vol.ReadAt(ctx, head, 0)
	if n < len(head) && err == nil {
		err = io.ErrUnexpectedEOF
	}
	if err != nil && (n < len(head) || !errors.Is(err, io.EOF)) {
		return nil, fmt.Errorf("read swap header: %w", err)
	}
	return Parse(head, vol.Size())
}

// Parse reads the header from the first [MaxPage] bytes of an area of size bytes, or from all of a smaller one.
func Parse(head []byte, size int64) (*Area, error) {
	var found []*Area
	for page := MinPage; page <= MaxPage && page <= len(head); page *= 2 {
		if a := atPage(head[:page], size); a != nil {
			found = append(found, a)
		}
	}
	switch {
	case len(found) == 0:
		return nil, fsys.ErrOther
	case len(found) > 1: // one of them lies in what was swapped out, and may be anything
		for _, a := range found {
			found[0].Hibernated = found[0].Hibernated || a.Hibernated
		}
		found[0].Doubt = "it carries two marks, for pages of two sizes"
	}
	return found[0], nil
}

// atPage reads the header if the mark stands at the end of a first page of this length.
func atPage(p []byte, size int64) *Area {
	a := &Area{Page: int64(len(p))}
	end := string(p[len(p)-markLen:])
	for _, s := range sleeping {
		a.Hibernated = a.Hibernated || strings.HasPrefix(end, s)
	}
	switch {
	case a.Hibernated:
	case end == oldMark:
		a.Doubt = "it is swap space of the old kind"
		return a
	case end != mark:
		return nil
	}
	a.header(p[1024:], size)
	return a
}

// header reads what stands behind the room for boot code, in the byte order of whoever made it.
func (a *Area) header(h []byte, size int64) {
	var order binary.ByteOrder = binary.LittleEndian
	if order.Uint32(h) != 1 {
		order = binary.BigEndian
	}
	last, bad := int64(order.Uint32(h[4:])), int64(order.Uint32(h[8:]))
	u := h[12:28]
	a.UUID = fmt.Sprintf("%x-%x-%x-%x-%x", u[:4], u[4:6], u[6:8], u[8:10], u[10:])
	if label, _, _ := strings.Cut(string(h[28:44]), "\x00"); utf8.ValidString(label) {
		a.Label = label
	}
	switch {
	case order.Uint32(h) != 1:
		a.Doubt = "its version is not known"
	case last < 1 || last+1 > size/a.Page:
		a.Doubt = "it is longer than what it lies on"
	case bad > (a.Page-1024-512-markLen)/4:
		a.Doubt = "its list of bad pages makes no sense"
	default:
		a.Used = (last + 1) * a.Page
	}
}
