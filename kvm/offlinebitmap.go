package kvm

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"sync"
	"time"
)

// ProgramError says that one of QEMU's programs failed, and in which words.
type ProgramError struct {
	Program string
	Args    []string
	Output  string // the last of what it printed
	Err     error
}

func (e *ProgramError) Error() string {
	return fmt.Sprintf("%s %s: %v: %s", e.Program, strings.Join(e.Args, " "), e.Err, e.Output)
}

func (e *ProgramError) Unwrap() error { return e.Err }

const (
	programTimeout = time.Minute
	maxOutput      = 4 << 10
)

// tail keeps the last bytes of what a program prints.
type tail struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (t *tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	n, err := t.buf.Write(p)
	t.buf.Next(max(0, t.buf.Len()-maxOutput))
	return n, err
}

// String is what is left of it.
func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return strings.TrimSpace(t.buf.String())
}

// runProgram runs one of QEMU's programs to its end, with a deadline.
func runProgram(ctx context.Context, program string, args ...string) error {
	ctx, cancel := context.WithTimeout(ctx, programTimeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Env = append(os.Environ(), "LC_ALL=C")
	cmd.WaitDelay = time.Second
	var out tail
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Run(); err != nil {
		return &ProgramError{Program: program, Args: args, Output: out.String(), Err: errors.Join(ctx.Err(), err)}
	}
	return nil
}

// changeBitmap adds a bitmap to an image, or removes one. QEMU's own program does it, which locks the image and writes
// its parts in an order that survives a kill.
func changeBitmap(ctx context.Context, what string, d offDisk, name string) error {
	return d.inUse(runProgram(ctx, "qemu-img", "bitmap", what, "-f", formatQcow2, d.Path, name))
}

// dropBitmaps removes bitmaps that are named by disk, wherever the machine is by now: by its monitor where it runs, else
// from its images. Bitmaps and images that are not there are not missed.
func (p *Provider) dropBitmaps(ctx context.Context, m Machine, disks []offDisk, names func(d offDisk) []string) error {
	var errs []error
	dropped := map[string]bool{}
	mon, err := p.monitor(ctx, m)
	switch {
	case err == nil:
		defer mon.Close()
		nodes, err := takeNodes(ctx, mon)
		if err != nil {
			return err
		}
		for _, n := range nodes {
			for _, d := range disks {
				for _, name := range names(d) {
					if _, ok := n.bitmap(name); ok && !dropped[n.Name+"/"+name] {
						dropped[n.Name+"/"+name] = true
						errs = append(errs, mon.Execute(ctx, "block-dirty-bitmap-remove", map[string]any{"node": n.Name, "name": name}, nil))
					}
				}
			}
		}
		return errors.Join(errs...)
	case !gone(err):
		return err
	}
	for _, d := range disks {
		for _, name := range names(d) {
			errs = append(errs, d.drop(ctx, name))
		}
	}
	return errors.Join(errs...)
}

// drop removes a bitmap from an image that nobody has open.
func (d offDisk) drop(ctx context.Context, name string) error {
	if _, err := os.Stat(d.Path); gone(err) {
		return nil
	}
	list, err := d.bitmaps(ctx)
	if err != nil {
		return err
	}
	if _, ok := hasBitmap(list, name); !ok {
		return nil
	}
	return changeBitmap(ctx, "--remove", d, name)
}
