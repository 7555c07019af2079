package dirstore

import (
	"bytes"
	"context"
	"errors"
	"io/fs"

	"github.com/hikae/hikae/repo/store"
	"github.com/hikae/hikae/repo/store/dirstore/vfs"
)

// Probe tries, in a folder of its own that it removes again, whether a second file takes the name of a first, and
// whether a folder can be synced. That other machines see a new name at once cannot be tried from one machine: it is
// believed of file systems that belong to this kernel alone and where one server is asked for every name, and of no
// other (NFS and SMB as a system mounts them remember for a while that a name was not there).
//
// A file system that cannot be written to is an error, with syscall.EROFS behind it.
func (s *Store) Probe(ctx context.Context) (store.Abilities, error) {
	if err := s.begin(ctx); err != nil {
		return store.Abilities{}, fail("probe", tempDir, err)
	}
	defer s.work.Done()
	fsys := s.on(ctx).fs
	p := &prober{fs: fsys, scratch: newScratch(fsys)}
	err := p.run()
	err = errors.Join(err, p.clean())
	if err != nil {
		return store.Abilities{}, fail("probe", tempDir, err)
	}
	return p.found, nil
}

type prober struct {
	fs      vfs.FS
	scratch *scratch
	made    []string
	found   store.Abilities
}

func (p *prober) run() error {
	first, err := p.file("first")
	if err != nil {
		return err
	}
	second, err := p.file("second")
	if err != nil {
		return err
	}
	if err := p.exclusive(first, second); err != nil {
		return err
	}
	err = p.fs.SyncDir(p.scratch.dir)
	if err != nil && !errors.Is(err, errors.ErrUnsupported) {
		return err
	}
	p.found.DurableNames = err == nil
	return nil
}

func (p *prober) file(content string) (string, error) {
	name, f, err := p.scratch.create()
	if err != nil {
		return "", err
	}
	p.made = append(p.made, name)
	_, err = f.Write([]byte(content))
	return name, errors.Join(err, f.Close())
}

// exclusive gives two files the same name and looks which of them has it.
func (p *prober) exclusive(first, second string) error {
	name := p.scratch.dir + "/name"
	err := p.fs.Publish(first, name)
	if errors.Is(err, errors.ErrUnsupported) {
		return nil
	}
	if err != nil {
		return err
	}
	p.made = append(p.made, name)
	again := p.fs.Publish(second, name)
	content, err := p.read(name)
	if err != nil {
		return err
	}
	p.found.ExclusiveCreate = errors.Is(again, fs.ErrExist) && string(content) == "first"
	place := p.fs.Place()
	p.found.FreshReads = place.Local || place.Central
	return nil
}

func (p *prober) read(name string) ([]byte, error) {
	f, err := p.fs.Open(name)
	if err != nil {
		return nil, err
	}
	content := make([]byte, 16)
	n, _ := f.ReadAt(content, 0) // what cannot be read is not what was written
	return bytes.Clone(content[:n]), f.Close()
}

func (p *prober) clean() (err error) {
	for _, name := range p.made {
		if e := p.fs.Remove(name); e != nil && !errors.Is(e, fs.ErrNotExist) {
			err = errors.Join(err, e)
		}
	}
	return errors.Join(err, p.scratch.close())
}
