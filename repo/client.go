package repo

import (
	"context"
	"crypto/ed25519"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
)

// client is what one machine remembers of one repository: the key that it signs with, and the last log record that it
// has seen. Only the second makes an old state that was put back visible.
type client struct {
	dir     string // empty: nothing is remembered
	suspect error  // *ErrRollback or *ErrReplaced
	knew    bool   // a mark was there when the repository was opened

	mu   sync.Mutex
	key  ed25519.PrivateKey
	mark mark
	warn func(string)
}

// mark is a high-water mark.
type mark struct {
	N    uint64 `json:"n"`
	Hash hash   `json:"hash"`
}

func openClient(stateDir, repo string, warn func(string)) (*client, error) {
	c := &client{warn: warn}
	if stateDir == "" {
		return c, nil
	}
	c.dir = filepath.Join(stateDir, "repositories", repo)
	if err := os.MkdirAll(c.dir, 0o700); err != nil {
		return nil, err
	}
	m, err := c.readMark()
	switch {
	case errors.Is(err, errTorn):
		warn(fmt.Sprintf("what this machine has seen of the repository is forgotten, so an older state that was put back would not be noticed: %v", err))
	case err == nil:
		c.mark, c.knew = m, true
	case !errors.Is(err, fs.ErrNotExist):
		return nil, err
	}
	return c, nil
}

// errTorn says that a file of the client's own holds nothing that could be used.
var errTorn = errors.New("the file is damaged")

func (c *client) readMark() (m mark, err error) {
	path := filepath.Join(c.dir, "mark")
	b, err := os.ReadFile(path)
	if err != nil {
		return m, err
	}
	if json.Unmarshal(b, &m) != nil || m.N == 0 {
		return mark{}, fmt.Errorf("%s: %w", path, errTorn)
	}
	return m, nil
}

// proven reports whether the client has seen the repository before.
func (c *client) proven() bool { return c.knew && c.suspect == nil }

// refresh reads the log for the first time and holds it against the mark.
func (c *client) refresh(ctx context.Context, l *ledger) error {
	if err := l.refresh(ctx); err != nil {
		return err
	}
	if err := l.findHole(ctx); err != nil {
		return err
	}
	switch {
	case l.n < c.mark.N && l.damage() != nil: // that says enough: what was seen may be behind it
	case l.n < c.mark.N:
		c.suspect = &ErrRollback{Seen: c.mark.N, Found: l.n}
	case c.mark.N > 0 && l.hashOf(c.mark.N) == (hash{}):
		c.knew = false
		c.warn(fmt.Sprintf("this machine has last seen record %d of the repository, and only a checkpoint is left of that: whether this is the same history is unproven", c.mark.N))
		return c.advance(l)
	case c.mark.N > 0 && l.hashOf(c.mark.N) != c.mark.Hash:
		c.suspect = &ErrRollback{Seen: c.mark.N, Found: l.n, Fork: true}
	default:
		return c.advance(l)
	}
	return nil
}

// advance remembers the log's head.
func (c *client) advance(l *ledger) error {
	n, last := l.head()
	now := mark{n, last}
	c.mu.Lock()
	defer c.mu.Unlock()
	if now.N <= c.mark.N || c.suspect != nil {
		return nil
	}
	c.mark = now
	if c.dir == "" {
		return nil
	}
	if m, err := c.readMark(); err == nil && m.N >= now.N {
		return nil // another process of this machine has seen more
	}
	return c.writeMark(now)
}

func (c *client) writeMark(m mark) error {
	b, err := json.Marshal(m)
	if err != nil {
		return err
	}
	return writeFile(filepath.Join(c.dir, "mark"), b)
}

// enrolled returns the client's key once the log knows it.
func (c *client) enrolled(ctx context.Context, l *ledger, root ed25519.PrivateKey) (ed25519.PrivateKey, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.key == nil {
		key, err := c.loadKey()
		if err != nil {
			return nil, err
		}
		c.key = key
	}
	public := publicOf(c.key)
	known := false
	l.view(func(l *ledger) { _, known = l.keys[public] })
	if known {
		return c.key, nil
	}
	_, err := l.append(ctx, root, func() (*record, error) {
		return &record{Kind: recordKey, Key: &public, Role: roleFull}, nil
	})
	return c.key, err
}

func (c *client) loadKey() (ed25519.PrivateKey, error) {
	if c.dir == "" {
		s := newSecret()
		return keyFromSeed(s[:]), nil
	}
	path := filepath.Join(c.dir, "key")
	seed, err := readSeed(path)
	if errors.Is(err, errTorn) {
		c.warn(fmt.Sprintf("this machine signs with a new key from here on: %v", err))
	}
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, errTorn) {
		s := newSecret()
		if err := writeFile(path, []byte(hex.EncodeToString(s[:])+"\n")); err != nil {
			return nil, err
		}
		seed, err = readSeed(path) // of two first starts at once one wins
	}
	if err != nil {
		return nil, err
	}
	return keyFromSeed(seed[:]), nil
}

func readSeed(path string) (seed secret32, err error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return seed, err
	}
	if decodeHex(seed[:], []byte(strings.TrimSpace(string(b)))) != nil {
		return seed, fmt.Errorf("%s: %w", path, errTorn)
	}
	return seed, nil
}

// writeFile replaces a small file of the client's own at once and durably.
func writeFile(path string, b []byte) error {
	f, err := os.CreateTemp(filepath.Dir(path), ".new-*")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	_, err = f.Write(b)
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	return os.Rename(f.Name(), path)
}
