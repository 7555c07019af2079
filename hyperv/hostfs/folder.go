package hostfs

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"

	"github.com/cloudsoda/go-smb2"

	"github.com/hikae/hikae/hyperv/vhdx"
	"github.com/hikae/hikae/pipe/diskfile"
)

// errNotFolder says that something that is no folder lies where one is to be.
var errNotFolder = fmt.Errorf("not a folder: %w", diskfile.ErrNotDisk)

// MakeDir makes a folder and those above it; one that exists is no error.
func (s *Store) MakeDir(ctx context.Context, name string) error {
	p, err := s.find("make", name)
	if err != nil {
		return err
	}
	words := strings.Split(p.path, `\`)
	for i := len(words); i >= 0 && p.path != ""; i-- { // from below, so that folders above need not be ours to make
		there, err := p.isFolder(ctx, strings.Join(words[:i], `\`))
		if err != nil {
			return p.fail("make", -1, err)
		}
		if !there {
			continue
		}
		for ; i < len(words); i++ {
			if err := p.mkdir(ctx, strings.Join(words[:i+1], `\`)); err != nil {
				return p.fail("make", -1, err)
			}
		}
		return nil
	}
	return nil
}

// isFolder looks for a folder of the share.
func (p spot) isFolder(ctx context.Context, path string) (there bool, err error) {
	var fi os.FileInfo
	err = p.do(ctx, func(l *link) error {
		return l.run(ctx, func() (err error) {
			fi, err = l.share.Stat(path)
			return err
		})
	})
	switch {
	case errors.Is(translate(err), fs.ErrNotExist) && path != "":
		return false, nil
	case err != nil:
		return false, err
	case !fi.IsDir():
		return false, errNotFolder
	}
	return true, nil
}

// mkdir makes one folder. One that somebody else made meanwhile is as good.
func (p spot) mkdir(ctx context.Context, path string) error {
	err := p.do(ctx, func(l *link) error {
		return l.run(ctx, func() error { return l.share.Mkdir(path, 0o700) })
	})
	if errors.Is(err, fs.ErrExist) {
		there, err := p.isFolder(ctx, path)
		if err == nil && !there {
			err = fs.ErrNotExist
		}
		return err
	}
	return err
}

// List are the names in a folder, without the folder's own, in no order. More than 100,000 are an error; a name that no path can
// be made of is left out. No folder is fs.ErrNotExist.
func (s *Store) List(ctx context.Context, name string) (names []string, err error) {
	p, err := s.find("list", name)
	if err != nil {
		return nil, err
	}
	err = p.do(ctx, func(l *link) error {
		names, err = p.list(ctx, l)
		return err
	})
	if err != nil {
		return nil, p.fail("list", -1, err)
	}
	return names, nil
}

func (p spot) list(ctx context.Context, l *link) (names []string, err error) {
	var fi os.FileInfo
	var f *smb2.File
	err = l.run(ctx, func() error {
		if fi, err = l.share.Stat(p.path); err == nil && !fi.IsDir() {
			err = errNotFolder
		}
		if err == nil {
			f, err = l.share.OpenFile(p.path, os.O_RDONLY, 0o600)
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	defer func() { _ = l.run(context.WithoutCancel(ctx), f.Close) }() // nothing was written by it
	for total := 0; ; {
		var part []os.FileInfo
		err := l.run(ctx, func() (err error) {
			part, err = f.Readdir(1000)
			return err
		})
		for _, fi := range part {
			if plain(fi.Name()) {
				names = append(names, fi.Name())
			}
		}
		total += len(part)
		switch {
		case err == io.EOF && total <= maxList:
			return names, nil
		case err != nil && err != io.EOF:
			return nil, err
		case total > maxList || len(part) == 0:
			return nil, fmt.Errorf("more than %d names: %w", maxList, fs.ErrInvalid)
		}
	}
}

// plain reports whether a name that a server gives is one of a file in the folder.
func plain(name string) bool {
	clean, err := vhdx.WindowsPath(`C:\` + name)
	return name != "" && err == nil && clean == `C:\`+name && !strings.Contains(name, `\`)
}

// Free is how many bytes are free where the file or folder is, or would be, for who is logged on.
func (s *Store) Free(ctx context.Context, name string) (int64, error) {
	p, err := s.find("free", name)
	if err != nil {
		return 0, err
	}
	for path := p.path; ; {
		var info smb2.FileFsInfo
		err := p.do(ctx, func(l *link) error {
			return l.run(ctx, func() (err error) {
				info, err = l.share.Statfs(path)
				return err
			})
		})
		if err == nil {
			return product(info.AvailableBlockCount(), info.BlockSize()), nil
		}
		if path == "" || !errors.Is(translate(err), fs.ErrNotExist) {
			return 0, p.fail("free", -1, err)
		}
		path = path[:max(0, strings.LastIndexByte(path, '\\'))]
	}
}

// product multiplies what a server says, without overflow.
func product(count, size uint64) int64 {
	const most = 1 << 62
	if size != 0 && count > most/size {
		return most
	}
	return int64(count * size)
}

// Remove removes a file, or a folder that is empty. What is not there is no error. One that is open somewhere is [ErrBusy].
func (s *Store) Remove(ctx context.Context, name string) error {
	p, err := s.find("remove", name)
	if err != nil {
		return err
	}
	if p.path == "" {
		return p.fail("remove", -1, fs.ErrInvalid)
	}
	err = p.do(ctx, func(l *link) error {
		return p.patient(ctx, func() error {
			return l.run(ctx, func() error { return l.share.Remove(p.path) })
		})
	})
	if errors.Is(err, fs.ErrNotExist) || status(err) == statusNotDirectory {
		return nil
	}
	return p.fail("remove", -1, err)
}
