package nfsserve

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"hash/fnv"
	"io/fs"
	"os"
	"path"
	"sync"

	"github.com/go-git/go-billy/v5"
	"github.com/willscott/go-nfs/file"
)

// handles names files to the host: a number that stays with the file, also when it is renamed and when this program is started
// again, how often that number was another file's before, and a proof that it was given out. The number is the file's own (its
// inode), and of a disk made of its name.
//
//	0        8            12                   44
//	│ number │ generation │ HMAC-SHA-256 of both │
type handles struct {
	share *share
	key   []byte

	mu    sync.Mutex
	paths map[uint64]string // where a number was last seen; bounded by maxKnown
}

const (
	named      = 8 + 4 // number and generation
	handleSize = named + sha256.Size
	maxKnown   = 1 << 16
	maxWalked  = 1 << 16 // files that are looked at to find one again
)

var errStale = errors.New("no file has this handle")

func newHandles(s *share, key []byte) *handles {
	return &handles{share: s, key: key, paths: map[uint64]string{}}
}

// numberOf is the number of a disk.
func numberOf(name string) uint64 {
	h := fnv.New64a()
	h.Write([]byte(name))
	return h.Sum64() | 1<<63 // inodes are far below
}

func (h *handles) proof(number []byte) []byte {
	m := hmac.New(sha256.New, h.key)
	m.Write(number)
	return m.Sum(nil)
}

// ToHandle is for a file that is there, or is about to be made: then it is known only later, and the answer is a handle of
// nothing, which nobody is given.
func (h *handles) ToHandle(_ billy.Filesystem, elems []string) []byte {
	name := h.share.Join(elems...)
	h.share.going.RLock()
	defer h.share.going.RUnlock()
	n, err := h.share.number(name)
	if err != nil {
		return make([]byte, handleSize)
	}
	h.mu.Lock()
	if len(h.paths) >= maxKnown {
		clear(h.paths)
	}
	h.paths[n] = name
	h.mu.Unlock()
	out := binary.BigEndian.AppendUint64(nil, n)
	out = binary.BigEndian.AppendUint32(out, h.share.lives.of(n))
	return append(out, h.proof(out)...)
}

func (h *handles) FromHandle(handle []byte) (billy.Filesystem, []string, error) {
	if len(handle) != handleSize || !hmac.Equal(h.proof(handle[:named]), handle[named:]) {
		return nil, nil, errStale
	}
	n := binary.BigEndian.Uint64(handle)
	if binary.BigEndian.Uint32(handle[8:]) != h.share.lives.of(n) {
		return nil, nil, errStale
	}
	h.mu.Lock()
	name, known := h.paths[n]
	h.mu.Unlock()
	if known {
		if now, err := h.share.number(name); err == nil && now == n {
			return h.share, elements(name), nil
		}
	}
	name, err := h.share.find(n)
	if err != nil {
		return nil, nil, err
	}
	h.mu.Lock()
	h.paths[n] = name
	h.mu.Unlock()
	return h.share, elements(name), nil
}

// InvalidateHandle: a file that is gone is not found any more by itself.
func (h *handles) InvalidateHandle(billy.Filesystem, []byte) error { return nil }

func (h *handles) HandleLimit() int { return maxKnown }

func elements(name string) []string {
	if name == "." {
		return []string{}
	}
	var out []string
	for _, e := range bytes.Split([]byte(name), []byte("/")) {
		out = append(out, string(e))
	}
	return out
}

// number is a file's.
func (s *share) number(name string) (uint64, error) {
	if s.disk(name) != nil {
		return numberOf(name), nil
	}
	info, err := s.root.Lstat(name)
	if err != nil {
		return 0, err
	}
	return inode(name, info), nil
}

// inode is what the system numbers files by; where it does not, the path has to do, and a renamed file is another.
func inode(name string, info os.FileInfo) uint64 {
	if i := file.GetInfo(info); i != nil && i.Fileid != 0 {
		return i.Fileid
	}
	return numberOf("/" + name)
}

// find looks for a file of that number in the whole folder.
func (s *share) find(n uint64) (name string, err error) {
	for flat := range s.flats {
		if numberOf(flat) == n {
			return flat, nil
		}
	}
	left := maxWalked
	err = fs.WalkDir(s.root.FS(), ".", func(at string, d fs.DirEntry, err error) error {
		if left--; left < 0 {
			return errStale
		}
		if err != nil {
			return nil
		}
		if info, err := d.Info(); err == nil && inode(path.Clean(at), info) == n {
			name = path.Clean(at)
			return fs.SkipAll
		}
		return nil
	})
	if err != nil || name == "" {
		return "", errStale
	}
	return name, nil
}
