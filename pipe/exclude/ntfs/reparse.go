package ntfs

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"strings"

	"github.com/hikae/hikae/pipe/exclude/fsys"
)

// Tags of reparse points: what a driver above NTFS makes of a file.
const (
	tagMountPoint = 0xA0000003 // a junction, or where a volume is mounted
	tagSymlink    = 0xA000000C
	tagDedup      = 0x80000013
	tagWOF        = 0x80000017 // compact.exe /exe, and the files of an installed Windows
	tagLxSymlink  = 0xA000001D // the Linux subsystem's
	tagUnixSocket = 0x80000023
	tagLxFIFO     = 0x80000024
	tagLxChar     = 0x80000025
	tagLxBlock    = 0x80000026
	tagCloud      = 0x9000001A // OneDrive and others, in 16 variants
	cloudVariants = 0x0000F000
)

// maxReparse bounds a reparse point; Windows allows 16 KiB.
const maxReparse = 16<<10 + 24

// ContentError says why the content of one file cannot be read from outside, although nothing is wrong with it.
type ContentError struct {
	Node      fsys.Node
	Why       string
	Encrypted bool   // by EFS: the keys are not in the volume
	Tag       uint32 // of the reparse point that says where the content is; 0: none
}

func (e *ContentError) Error() string {
	return fmt.Sprintf("content of file record %d: %s", uint64(e.Node), e.Why)
}

// Unwrap is errors.ErrUnsupported.
func (e *ContentError) Unwrap() error { return errors.ErrUnsupported }

// reparse reads a reparse point and what it makes of the file.
func (w *view) reparse(ctx context.Context, f *file, c *content) error {
	p, err := w.small(ctx, f, typeReparse, "", maxReparse)
	if err != nil {
		return err
	}
	if len(p) < 8 || 8+int(le.Uint16(p[4:])) > len(p) {
		return corrupt("reparse point", w.where(f.number), fmt.Errorf("%d bytes", len(p)))
	}
	tag, data := le.Uint32(p), p[8:8+int(le.Uint16(p[4:]))]
	switch {
	case tag == tagSymlink, tag == tagMountPoint, tag == tagLxSymlink:
		c.mode = fs.ModeSymlink | 0o777
		if c.link, err = linkTarget(tag, data); err != nil {
			return corrupt("reparse point", w.where(f.number), err)
		}
	case tag == tagUnixSocket:
		c.mode = fs.ModeSocket | c.mode.Perm()
	case tag == tagLxFIFO:
		c.mode = fs.ModeNamedPipe | c.mode.Perm()
	case tag == tagLxChar:
		c.mode = fs.ModeDevice | fs.ModeCharDevice | c.mode.Perm()
	case tag == tagLxBlock:
		c.mode = fs.ModeDevice | c.mode.Perm()
	case c.mode.IsDir() || tag&^cloudVariants == tagCloud && c.whole():
	default:
		c.refusal = &ContentError{Node: fsys.Node(f.number), Why: whyReparse(tag), Tag: tag}
	}
	return nil
}

func whyReparse(tag uint32) string {
	switch {
	case tag == tagWOF:
		return "it is compressed by Windows in a stream beside it"
	case tag == tagDedup:
		return "Data Deduplication keeps it in its chunk store"
	case tag&^cloudVariants == tagCloud:
		return "not all of it is on this volume: it is in a cloud"
	}
	return fmt.Sprintf("a reparse point of the unknown kind %#x says where it is", tag)
}

// whole reports whether a file that may be in a cloud is here.
func (c *content) whole() bool {
	if c.flags&(flagOffline|flagRecall) != 0 {
		return false
	}
	if c.data != nil {
		for _, r := range c.data.runs {
			if r.lcn < 0 {
				return false
			}
		}
	}
	return true
}

// linkTarget reads where a link leads. The separators of Windows become slashes, so that a relative link can be
// followed; an absolute one keeps the form in which it stands, /??/C:/…, which no tree has.
func linkTarget(tag uint32, p []byte) (string, error) {
	if tag == tagLxSymlink {
		if len(p) < 4 || bytes.IndexByte(p[4:], 0) >= 0 {
			return "", fmt.Errorf("a link of %d bytes", len(p))
		}
		return string(p[4:]), nil
	}
	head := 8
	if tag == tagSymlink {
		head = 12
	}
	if len(p) < head {
		return "", fmt.Errorf("a link of %d bytes", len(p))
	}
	off, n := int(le.Uint16(p)), int(le.Uint16(p[2:]))
	if head+off+n > len(p) || n%2 != 0 {
		return "", fmt.Errorf("a target of %d bytes at %d of %d", n, off, len(p))
	}
	target := decodeUTF16(p[head+off : head+off+n])
	if strings.IndexByte(target, 0) >= 0 {
		return "", errors.New("a NUL in the target")
	}
	return strings.ReplaceAll(target, `\`, "/"), nil
}

// What Interix, and ntfs-3g after it, put into system files that stand for what Windows does not have.
const (
	interixLink  = "IntxLNK\x01"
	interixChar  = "IntxCHR\x00"
	interixBlock = "IntxBLK\x00"
	maxInterix   = 8 + 2*4096
)

// interix looks whether a system file stands for a link or a device.
func (c *content) interix(ctx context.Context) error {
	if c.data == nil || c.data.size < 8 || c.data.size > maxInterix {
		return nil
	}
	p := make([]byte, c.data.size)
	if _, err := c.data.readAt(ctx, p, 0); err != nil {
		return err
	}
	switch string(p[:8]) {
	case interixLink:
		link := decodeUTF16(p[8:])
		if link == "" || strings.IndexByte(link, 0) >= 0 {
			return nil
		}
		c.mode, c.link = fs.ModeSymlink|0o777, link
	case interixChar:
		c.mode = fs.ModeDevice | fs.ModeCharDevice | c.mode.Perm()
	case interixBlock:
		c.mode = fs.ModeDevice | c.mode.Perm()
	}
	return nil
}
