package kvm

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"github.com/hikae/hikae/pipe/nbd"
)

// writer is QEMU's own NBD server over a qcow2 image, for as long as we write to it. QEMU locks the image, goes on with
// the bitmaps that are in it, and marks them as not saved until it ends in good order. It ends when its last client
// leaves, so it does not outlive us.
type writer struct {
	disk   *offDisk
	socket string
	cmd    *exec.Cmd
	out    tail
	ended  chan error // what waiting for the process gave
	client *nbd.Client
}

const (
	writerStart  = 20 * time.Second
	writerEnd    = 2 * time.Minute // it may have to write what its cache holds
	writerLinger = 5 * time.Second // after its last client has left
)

func (d *offDisk) socketIn(dir string) string { return filepath.Join(dir, d.Key) }

// startWriter opens an image for writing. Where bitmap is not empty, the client can ask for it.
func startWriter(ctx context.Context, d *offDisk, dir, bitmap string) (*writer, error) {
	w := &writer{disk: d, socket: d.socketIn(dir), ended: make(chan error, 1)}
	if len(w.socket) > maxSocketPath {
		return nil, fmt.Errorf("%s: %w: a socket's path has at most %d bytes, choose another scratch folder", w.socket, fs.ErrInvalid, maxSocketPath)
	}
	args := []string{"--format=" + formatQcow2, "--socket=" + w.socket, "--export-name=" + d.Key, "--discard=unmap"}
	if bitmap != "" {
		args = append(args, "--bitmap="+bitmap)
	}
	w.cmd = exec.Command("qemu-nbd", append(args, d.Path)...)
	w.cmd.Env = append(os.Environ(), "LC_ALL=C")
	w.cmd.Stdout, w.cmd.Stderr, w.cmd.WaitDelay = &w.out, &w.out, time.Second
	if err := startBound(w.cmd, w.ended); err != nil {
		return nil, err
	}
	if err := w.connect(ctx, bitmap); err != nil {
		w.kill()
		return nil, d.inUse(err)
	}
	return w, nil
}

func (w *writer) failed(err error) error {
	return &ProgramError{Program: "qemu-nbd", Args: w.cmd.Args[1:], Output: w.out.String(), Err: err}
}

// connect waits until the server listens.
func (w *writer) connect(ctx context.Context, bitmap string) error {
	ctx, cancel := context.WithTimeout(ctx, writerStart)
	defer cancel()
	opts := &nbd.Options{Connections: 1} // it does not end after a connection that was cut off in its handshake
	if bitmap != "" {
		opts.Contexts = []string{bitmapContext(bitmap)}
	}
	uri := w.disk.uriAt(w.socket)
	for {
		var err error
		if w.client, err = nbd.Dial(ctx, uri, opts); err == nil || !gone(err) {
			return err
		}
		select {
		case ended := <-w.ended:
			w.ended <- ended
			return w.failed(cmpErr(ended, errors.New("it ended before anybody came")))
		case <-ctx.Done():
			return w.failed(ctx.Err())
		case <-time.After(10 * time.Millisecond):
		}
	}
}

func cmpErr(err, or error) error {
	if err != nil {
		return err
	}
	return or
}

func bitmapContext(name string) string { return "qemu:dirty-bitmap:" + name }

// end lets the server go, and waits until it has written everything, with the bitmaps.
func (w *writer) end(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), writerEnd)
	defer cancel()
	err := w.client.Close()
	linger := time.AfterFunc(writerLinger, func() { w.cmd.Process.Signal(os.Interrupt) }) // which ends it in good order too
	defer linger.Stop()
	select {
	case ended := <-w.ended:
		w.ended <- ended
		if ended != nil {
			err = errors.Join(err, w.failed(ended))
		}
	case <-ctx.Done():
		w.kill()
		err = errors.Join(err, w.failed(ctx.Err()))
	}
	return err
}

// kill ends the server at once. Bitmaps in the image stay marked as not saved.
func (w *writer) kill() {
	w.cmd.Process.Kill()
	w.ended <- <-w.ended
	if w.client != nil {
		w.client.Close()
	}
}

func (d *offDisk) uriAt(socket string) string {
	return "nbd+unix:///" + d.Key + "?" + url.Values{"socket": {socket}}.Encode()
}

// hangUp lets a server end that a killed session left without a client: it does so when one comes and leaves.
func (d *offDisk) hangUp(ctx context.Context, dir string) {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	c, err := nbd.Dial(ctx, d.uriAt(d.socketIn(dir)), &nbd.Options{Connections: 1})
	if err == nil {
		c.Close()
	}
}

// syncImage makes durable what is in a file.
func syncImage(path string) error {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}
