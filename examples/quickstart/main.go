// Command quickstart shows Hikae's main job on a disk of its own making. It needs nothing but Go:
//
//	go run ./examples/quickstart
//
// It starts a fake vSphere in its own process, with a machine whose disk has a file system and files, backs it up, has its guest write,
// backs up what changed, verifies everything, reads a file out of a point, restores both points to new machines, and compares them byte for byte.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
)

func main() {
	keep := flag.Bool("keep", false, "keep the folder, to try the hikae command on it")
	sizeMiB := flag.Int64("size", 128, "size of the sample disk in MiB, from 8 to 1024")
	flag.Parse()
	if flag.NArg() > 0 {
		flag.Usage()
		os.Exit(2)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, os.Stdout, *sizeMiB<<20, *keep); err != nil {
		stop()
		fmt.Fprintln(os.Stderr, "quickstart:", err)
		os.Exit(1)
	}
}

// run tells the story on out.
func run(ctx context.Context, out io.Writer, size int64, keep bool) (err error) {
	dir, err := os.MkdirTemp("", "hikae-quickstart-")
	if err != nil {
		return err
	}
	if !keep {
		defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	}
	s := &story{out: out, dir: dir, size: size}
	defer func() { err = errors.Join(err, s.close()) }()
	for _, chapter := range []func(context.Context) error{
		s.makeDisk, s.makeRepository, s.fullBackup, s.passDay, s.incrementalBackup, s.verify, s.find, s.restore, s.report,
	} {
		if err := chapter(ctx); err != nil {
			return err
		}
	}
	s.ending(keep)
	return nil
}
