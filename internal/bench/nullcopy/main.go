// Nullcopy copies a disk to a target that keeps nothing: what a program would do that only reads. The bars for NBD compare
// with it.
//
//	nullcopy REPO POINT DISK    a disk of a restore point, unencrypted
//	nullcopy URI                an NBD export
//
// The target takes no blocks, so nothing is hashed or compressed on the way: it is the reading that is measured.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/hikae/hikae/pipe"
	"github.com/hikae/hikae/pipe/nbd"
	"github.com/hikae/hikae/repo"
	"github.com/hikae/hikae/repo/store/dirstore"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "nullcopy:", err)
		os.Exit(1)
	}
}

// longest is more than any measured copy takes.
const longest = 30 * time.Minute

func run(ctx context.Context, args []string) error {
	ctx, cancel := context.WithTimeout(ctx, longest)
	defer cancel()
	switch len(args) {
	case 1:
		c, err := nbd.Dial(ctx, args[0], nil)
		if err != nil {
			return err
		}
		return errors.Join(copyTo(ctx, c), c.Close())
	case 3:
		return copyPoint(ctx, args[0], args[1], args[2])
	}
	return errors.New("usage: nullcopy REPO POINT DISK | nullcopy URI")
}

func copyPoint(ctx context.Context, dir, point, disk string) error {
	st, err := dirstore.Open(dir)
	if err != nil {
		return err
	}
	defer st.Close()
	r, err := repo.Open(ctx, st, nil, &repo.OpenOptions{ReadOnly: true})
	if err != nil {
		return err
	}
	defer r.Close()
	p, err := r.Resolve(ctx, point)
	if err != nil {
		return err
	}
	img, err := r.Open(ctx, p.ID, disk)
	if err != nil {
		return err
	}
	return errors.Join(copyTo(ctx, img), img.Close())
}

func copyTo(ctx context.Context, img pipe.Image) error {
	begun := time.Now()
	stats, err := pipe.Copy(ctx, null{pipe.NewNull(img.Size(), 0)}, img, nil)
	if err == nil {
		fmt.Printf("{\"size\": %d, \"read\": %d, \"seconds\": %f}\n", stats.Size, stats.Read, time.Since(begun).Seconds())
	}
	return err
}

// null is a target that takes bytes and marks, and no blocks.
type null struct{ target *pipe.Null }

func (n null) Size() int64 { return n.target.Size() }
func (n null) WriteAt(ctx context.Context, p []byte, off int64) (int, error) {
	return n.target.WriteAt(ctx, p, off)
}
func (n null) Mark(ctx context.Context, e pipe.Extent) error { return n.target.Mark(ctx, e) }
func (n null) Commit(ctx context.Context) error              { return n.target.Commit(ctx) }
func (n null) Close() error                                  { return n.target.Close() }
