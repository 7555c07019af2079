package smbstore

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"os"
	"path"
	"strings"
	"time"

	"github.com/cloudsoda/go-smb2"

	"github.com/hikae/hikae/repo/store/dirstore/vfs"
)

// maxEntries bounds what a server may say is in one folder.
const maxEntries = 4 << 20

// ReadDir yields what is in a folder. It is read to its end first, so that a lost connection is not seen.
func (s *share) ReadDir(name string) iter.Seq2[fs.FileInfo, error] {
	return func(yield func(fs.FileInfo, error) bool) {
		var found []fs.FileInfo
		err := s.retry(func(l *link) (err error) {
			found, err = s.readDir(l, name)
			return err
		})
		for _, fi := range found {
			if err == nil && !yield(fi, nil) {
				return
			}
		}
		if err != nil {
			yield(nil, err)
		}
	}
}

func (s *share) readDir(l *link, name string) (found []fs.FileInfo, err error) {
	fi, err := s.lstat(l, name)
	switch {
	case err != nil:
		return nil, err
	case !fi.IsDir():
		return nil, &fs.PathError{Op: "readdir", Path: name, Err: vfs.ErrIrregular}
	}
	f, err := s.open(l, name, os.O_RDONLY)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, l.run(s.ctx, f.Close)) }()
	for {
		var part []os.FileInfo
		err := l.run(s.ctx, func() (err error) {
			part, err = f.Readdir(1000)
			return err
		})
		for _, fi := range part {
			if e, ok := s.entry(l, name, fi); ok {
				found = append(found, e)
			}
		}
		switch {
		case err == io.EOF:
			return found, nil
		case err != nil:
			return nil, err
		case len(found) > maxEntries:
			return nil, fmt.Errorf("%s: more than %d entries", name, maxEntries)
		}
	}
}

// entry is one line of a listing. Where the server does not tell "PACK" from "pack", what is listed as the one is what
// the other name opens, and is listed under that.
func (s *share) entry(l *link, dir string, fi os.FileInfo) (e *entry, ok bool) {
	e = newEntry(fi)
	if strings.ContainsAny(e.name, `\/`) || e.name == "" || e.name == holdName {
		return nil, false
	}
	if lower := strings.ToLower(e.name); lower != e.name {
		if _, err := s.lstat(l, path.Join(dir, lower)); err == nil && s.same(l, path.Join(dir, lower), e.id) {
			e.name = lower
		}
	}
	return e, true
}

// same reports whether a name opens the file that the server knows by the number.
func (s *share) same(l *link, name string, id uint64) bool {
	f, err := s.open(l, name, os.O_RDONLY)
	if err != nil {
		return false
	}
	var fi os.FileInfo
	err = errors.Join(l.run(s.ctx, func() (err error) {
		fi, err = f.Stat()
		return err
	}), l.run(s.ctx, f.Close))
	if err != nil {
		return false
	}
	return id != 0 && newEntry(fi).id == id
}

// entry is what a server says of a file.
type entry struct {
	name    string
	size    int64
	mode    fs.FileMode
	time    time.Time
	id      uint64
	reparse bool
}

func newEntry(fi os.FileInfo) *entry {
	e := &entry{name: fi.Name(), size: fi.Size(), time: fi.ModTime()}
	if e.size < 0 {
		e.mode = fs.ModeIrregular
	}
	st, ok := fi.Sys().(*smb2.FileStat)
	if !ok {
		return e
	}
	e.id = st.FileId
	e.reparse = st.Mode()&fs.ModeSymlink != 0
	const surrogate = 0x20000000 // the tag stands for another file (MS-FSCC 2.1.2.1)
	switch {
	case e.reparse && st.ReparsePointTag&surrogate != 0:
		e.mode = fs.ModeSymlink
	case st.Mode()&fs.ModeDir != 0:
		e.mode = fs.ModeDir
	}
	return e
}

func (e *entry) Name() string       { return e.name }
func (e *entry) Size() int64        { return e.size }
func (e *entry) Mode() fs.FileMode  { return e.mode }
func (e *entry) ModTime() time.Time { return e.time }
func (e *entry) IsDir() bool        { return e.mode.IsDir() }
func (e *entry) Sys() any           { return nil }
