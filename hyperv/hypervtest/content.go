package hypervtest

import (
	"io"
	"maps"
)

const pageBytes = 4096

var zeroPage = make([]byte, pageBytes)

// content is what a disk holds, as a plain map of pages: nothing of a file's format is in it, so that files can be compared with it.
// A page is never changed, only replaced, which makes a clone cheap.
type content struct {
	size  int64
	pages map[int64][]byte // what is not there is zero
}

func newContent(size int64) *content { return &content{size: size, pages: map[int64][]byte{}} }

func (c *content) clone() *content { return &content{size: c.size, pages: maps.Clone(c.pages)} }

// write replaces a range that lies in the disk.
func (c *content) write(off int64, p []byte) {
	for len(p) > 0 {
		at, in := off/pageBytes, off%pageBytes
		n := min(int64(len(p)), pageBytes-in)
		page := make([]byte, pageBytes)
		if n < pageBytes {
			copy(page, c.pages[at])
		}
		copy(page[in:], p[:n])
		c.pages[at] = page
		off, p = off+n, p[n:]
	}
}

// ReadAt implements [io.ReaderAt].
func (c *content) ReadAt(p []byte, off int64) (n int, err error) {
	if off >= c.size {
		return 0, io.EOF
	}
	want := p[:min(int64(len(p)), c.size-off)]
	for n < len(want) {
		page, in := c.pages[(off+int64(n))/pageBytes], (off+int64(n))%pageBytes
		if page == nil {
			page = zeroPage
		}
		n += copy(want[n:], page[in:])
	}
	if n < len(p) {
		err = io.EOF
	}
	return n, err
}
