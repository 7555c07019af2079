package repo

import (
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// Whoever keeps a store can put a repository of his own in the place of the one that was there. Where it opens with a
// public key (an age recipient's), the client that opens it would hand its next backup to him. So a client remembers
// which repository it has met at a place.

// ErrReplaced says that another repository is at a place than this machine has met there.
type ErrReplaced struct {
	Place    string
	Was, Now string // ids; the same where only the header is another one
}

func (e *ErrReplaced) Error() string {
	return fmt.Sprintf("another repository is at %s: this machine knows %s there, and finds %s", e.Place, e.Was, e.Now)
}

// met is what a client remembers of a place.
type met struct {
	Repo   id16 `json:"repo"`
	Header hash `json:"header"`
}

// meet holds the repository against the one that was met at the same place before. Where it is another one the client
// turns suspicious, unless a person has said that it may be.
func (c *client) meet(opts *OpenOptions, now met) error {
	if opts.StateDir == "" || opts.Place == "" {
		return nil
	}
	name := hashBytes([]byte(opts.Place))
	path := filepath.Join(opts.StateDir, "places", hex.EncodeToString(name[:16]))
	var was met
	b, err := os.ReadFile(path)
	switch {
	case err == nil && json.Unmarshal(b, &was) != nil:
		c.warn(fmt.Sprintf("which repository this machine has met at %s is forgotten: %s: %v", opts.Place, path, errTorn))
	case err == nil && was == now:
		return nil
	case err == nil && !opts.Replaced:
		c.suspect = &ErrReplaced{Place: opts.Place, Was: was.Repo.String(), Now: now.Repo.String()}
		return nil
	case err != nil && !errors.Is(err, fs.ErrNotExist):
		return err
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	if b, err = json.Marshal(now); err != nil {
		return err
	}
	return writeFile(path, b)
}
