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
	suspect error  // *ErrRollback
	knew    bool   // a mark was there when the repository was opened

	mu   sync.Mutex
	key  ed25519.PrivateKey
	mark mark
}

// mark is a high-water mark.
type mark struct {
	N    uint64 `json:"n"`
	Hash hash   `json:"hash"`
}

func openClient(stateDir, repo string) (*client, error) {
	c := new(client)
	if stateDir == "" {
		return c, nil
	}
	c.dir = filepath.Join(stateDir, "repositories", repo)
	if err := os.MkdirAll(c.dir, 0o700); err != nil {
		return nil, err
	}
	b, err := os.ReadFile(filepath.Join(c.dir, "mark"))
	if errors.Is(err, fs.ErrNotExist) {
		return c, nil
	}
	if err == nil {
		err = json.Unmarshal(b, &c.mark)
	}
	if err != nil {
		return nil, fmt.Errorf("high-water mark of repository %s: %w", repo, err)
	}
	c.knew = true
	return c, nil
}

// proven reports whether the client has seen the repository before.
func (c *client) proven() bool { return c.knew && c.suspect == nil }

// refresh reads the log for the first time and holds it against the mark.
func (c *client) refresh(ctx context.Context, l *ledger) error {
	l.onMark = c.mark.N
	if err := l.refresh(ctx); err != nil {
		return err
	}
	switch {
	case l.n < c.mark.N:
		c.suspect = &ErrRollback{Seen: c.mark.N, Found: l.n}
	case c.mark.N > 0 && l.marks[c.mark.N] != c.mark.Hash:
		c.suspect = &ErrRollback{Seen: c.mark.N, Found: l.n, Fork: true}
	default:
		return c.advance(l)
	}
	return nil
}

// advance remembers the log's head.
func (c *client) advance(l *ledger) error {
	var now mark
	l.view(func(l *ledger) { now = mark{l.n, l.last} })
	c.mu.Lock()
	defer c.mu.Unlock()
	if now.N <= c.mark.N || c.suspect != nil {
		return nil
	}
	c.mark = now
	if c.dir == "" {
		return nil
	}
	b, err := json.Marshal(now)
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
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		s := newSecret()
		if err := writeFile(path, []byte(hex.EncodeToString(s[:])+"\n")); err != nil {
			return nil, err
		}
		b, err = os.ReadFile(path) // of two first starts at once one wins
	}
	if err != nil {
		return nil, err
	}
	var seed secret32
	if err := decodeHex(seed[:], []byte(strings.TrimSpace(string(b)))); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return keyFromSeed(seed[:]), nil
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
