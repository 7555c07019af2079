package guard

import (
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
)

// keyBook remembers which key is whose: the peer that first brought a record signed with it. A key needs no more than
// that, for nobody else can sign with it.
type keyBook struct {
	path string // empty: nothing is kept

	mu    sync.Mutex
	peers map[[32]byte]string
}

const (
	maxKeys     = 1 << 16
	maxBookSize = 32 << 20
)

func openKeyBook(dir string) (*keyBook, error) {
	b := &keyBook{peers: map[[32]byte]string{}}
	if dir == "" {
		return b, nil
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	b.path = filepath.Join(dir, "writers.json")
	fi, err := os.Stat(b.path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return b, nil
	case err != nil:
		return nil, err
	case fi.Size() > maxBookSize:
		return nil, fmt.Errorf("%s has %d bytes: %w", b.path, fi.Size(), fs.ErrInvalid)
	}
	text, err := os.ReadFile(b.path)
	if err != nil {
		return nil, err
	}
	if err := b.parse(text); err != nil {
		return nil, fmt.Errorf("%s: %w", b.path, err)
	}
	return b, nil
}

func (b *keyBook) parse(text []byte) error {
	var doc map[string]string
	if err := json.Unmarshal(text, &doc); err != nil {
		return err
	}
	for digits, peer := range doc {
		key, err := hex.DecodeString(digits)
		if err != nil || len(key) != 32 || peer == "" {
			return fmt.Errorf("%q is no key of a peer: %w", digits, fs.ErrInvalid)
		}
		b.peers[[32]byte(key)] = peer
	}
	return nil
}

// owner is the peer that a key is bound to, "" for none.
func (b *keyBook) owner(key [32]byte) string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.peers[key]
}

// bind gives a key to a peer, durably, unless it is another's.
func (b *keyBook) bind(key [32]byte, peer string) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	switch owner, ok := b.peers[key]; {
	case ok && owner == peer:
		return nil
	case ok:
		return denied("the key that signed it is another peer's")
	case len(b.peers) >= maxKeys:
		return denied("%d keys are known, which is as many as can be", maxKeys)
	}
	b.peers[key] = peer
	if err := b.write(); err != nil {
		delete(b.peers, key)
		return fmt.Errorf("remembering whose key it is: %w", err)
	}
	return nil
}

// write replaces the file at once.
func (b *keyBook) write() error {
	if b.path == "" {
		return nil
	}
	doc := map[string]string{}
	for key, peer := range b.peers {
		doc[hex.EncodeToString(key[:])] = peer
	}
	text, err := json.MarshalIndent(doc, "", " ")
	if err != nil {
		return err
	}
	f, err := os.CreateTemp(filepath.Dir(b.path), ".new-*")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	_, err = f.Write(append(text, '\n'))
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	return os.Rename(f.Name(), b.path)
}
