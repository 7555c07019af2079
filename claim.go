package hikae

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"
	"time"
)

// Claimer lets one session at a time work on a thing, such as a VM.
type Claimer interface {
	// Claim takes a thing for an owner, who is told in words to whoever asks for it meanwhile: that is a [*BusyError], at once.
	Claim(ctx context.Context, what, owner string) (Claim, error)
}

// Claim is a thing that is taken.
type Claim interface {
	// Lost is closed when it is not ours any more: a lease ran out, and somebody else may have it.
	Lost() <-chan struct{}
	// Release gives it back. It may be called again.
	Release(ctx context.Context) error
}

// FileClaims are claims in a folder, by lock files that end with their process, however that ends. The folder must be on a file system
// whose locks hold between all processes that use it. They are never lost while the process lives.
type FileClaims struct{ dir string }

var _ Claimer = (*FileClaims)(nil)

const (
	maxClaim = 4 << 10 // bytes of what a claim's file says
	maxWords = 1 << 10 // of who has it
)

// OpenFileClaims opens the claims in a folder, which is made where it is missing.
func OpenFileClaims(dir string) (*FileClaims, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("claims: %w", err)
	}
	return &FileClaims{dir: dir}, nil
}

// fileClaim is what a claim's file says, for whoever meets it.
type fileClaim struct {
	What  string    `json:"what"`
	Owner string    `json:"owner"`
	PID   int       `json:"pid"`
	Since time.Time `json:"since"`

	file *os.File
	path string
	once sync.Once
	err  error
}

// Claim implements [Claimer].
func (c *FileClaims) Claim(ctx context.Context, what, owner string) (Claim, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if len(owner) > maxWords {
		owner = owner[:maxWords]
	}
	sum := sha256.Sum256([]byte(what))
	path := filepath.Join(c.dir, hex.EncodeToString(sum[:16])+".claim")
	for range 100 { // whoever lets go removes the file, perhaps between our opening it and locking it
		f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
		if err != nil {
			return nil, fmt.Errorf("claim %s: %w", what, err)
		}
		free, err := tryLock(f)
		if err != nil {
			return nil, errors.Join(fmt.Errorf("claim %s: %w", what, err), f.Close())
		}
		if !free {
			return nil, errors.Join(busyWith(f, what), f.Close())
		}
		if !leadsTo(path, f) {
			f.Close()
			continue
		}
		claim := &fileClaim{What: what, Owner: owner, PID: os.Getpid(), Since: time.Now().Truncate(time.Second), file: f, path: path}
		if err := claim.write(); err != nil {
			return nil, errors.Join(fmt.Errorf("claim %s: %w", what, err), claim.Release(ctx))
		}
		return claim, nil
	}
	return nil, &BusyError{What: what, Owner: "others, who take it in turns"}
}

// busyWith says who has a claim, as far as its file tells.
func busyWith(f *os.File, what string) error {
	var by fileClaim
	text, err := io.ReadAll(io.NewSectionReader(f, 0, maxClaim))
	if err != nil || json.Unmarshal(text, &by) != nil || by.Owner == "" {
		return &BusyError{What: what, Owner: "another session"}
	}
	return &BusyError{What: what, Owner: fmt.Sprintf("%s, process %d, since %s", by.Owner, by.PID, by.Since.Format(time.RFC3339))}
}

func (c *fileClaim) write() error {
	text, err := json.Marshal(c)
	if err == nil {
		err = c.file.Truncate(0)
	}
	if err == nil {
		_, err = c.file.WriteAt(text, 0)
	}
	return err
}

func (c *fileClaim) Lost() <-chan struct{} { return nil }

func (c *fileClaim) Release(context.Context) error {
	c.once.Do(func() { c.err = removeOpen(c.file, c.path) })
	return c.err
}
