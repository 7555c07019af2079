package dirstore

import "github.com/hikae/hikae/repo/store/dirstore/vfs"

// Unfinished leaves an unfinished file behind.
func (s *Store) Unfinished() (string, vfs.File, error) { return s.scratch.create() }
