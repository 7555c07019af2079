package vmwaretest

import (
	"context"
	"crypto/sha1"
	"encoding/hex"
	"errors"
	"io"
	"net/http"
	"os"
	"strings"

	"github.com/hikae/hikae/vmware/vmdk"
)

// leasePrefix is where the disks of leases are. The token in the address is what opens them: no cookie is asked for, as on real
// hosts.
const leasePrefix = "/nfc/"

// ServeHTTP gives out and takes the disks of leases, each in one stream.
func (all *leases) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	token, name, _ := strings.Cut(strings.TrimPrefix(r.URL.Path, leasePrefix), "/")
	l, d := all.find(token, name)
	if l == nil {
		http.NotFound(w, r)
		return
	}
	cut, done := l.s.httpFault(w, r, leasePrefix)
	if done {
		return
	}
	all.taking.Add(1)
	defer all.taking.Done()
	ctx, stop := l.until(r.Context())
	defer stop()
	switch {
	case r.Method == http.MethodGet && !l.upload:
		l.download(ctx, w, d, cut)
	case (r.Method == http.MethodPost || r.Method == http.MethodPut) && l.upload:
		l.take(ctx, w, r, d, cut)
	default:
		http.Error(w, "method not allowed", http.StatusMethodNotAllowed)
	}
}

// until ends a transfer with the lease.
func (l *lease) until(ctx context.Context) (context.Context, func()) {
	ctx, cancel := context.WithCancel(ctx)
	go func() {
		select {
		case <-l.ended:
			cancel()
		case <-ctx.Done():
		}
	}()
	return ctx, cancel
}

// download sends a disk as a streamOptimized VMDK. Its length is not known before, so there is no Content-Length: what breaks
// off is told from what ends by the end of the chunks alone.
func (l *lease) download(ctx context.Context, w http.ResponseWriter, d *leaseDisk, cut int64) {
	img, err := l.s.openFile(ctx, d.file)
	if err != nil {
		http.Error(w, "I/O error", http.StatusInternalServerError)
		return
	}
	defer img.Close()
	w.Header().Set("Content-Type", "application/x-vnd.vmware-streamVmdk")
	passed := &tally{w: w, left: cut}
	opts := &vmdk.StreamOptions{Name: d.name, Adapter: d.adapter}
	if _, err := vmdk.WriteStream(ctx, passed, img, opts); err != nil {
		panic(http.ErrAbortHandler)
	}
	d.settle(passed)
}

var errCut = errors.New("the stream is cut")

// tally counts and digests what passes, and breaks off after left bytes, where that is not negative.
type tally struct {
	w    io.Writer
	left int64
	n    int64
	sum  []byte
	hash interface {
		io.Writer
		Sum([]byte) []byte
	}
}

// Write implements [io.Writer].
func (t *tally) Write(p []byte) (int, error) {
	if t.hash == nil {
		t.hash = sha1.New()
	}
	if t.left >= 0 && int64(len(p)) > t.left {
		n, _ := t.w.Write(p[:t.left])
		t.left = 0
		return n, errCut
	}
	n, err := t.w.Write(p)
	t.hash.Write(p[:n])
	t.n += int64(n)
	if t.left >= 0 {
		t.left -= int64(n)
	}
	return n, err
}

// settle notes that a disk passed whole.
func (d *leaseDisk) settle(t *tally) {
	if t.hash != nil {
		t.sum = t.hash.Sum(nil)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.sha1, d.sent = hex.EncodeToString(t.sum), t.n
}

// take decodes a streamOptimized VMDK into the new VM's disk.
func (l *lease) take(ctx context.Context, w http.ResponseWriter, r *http.Request, d *leaseDisk, cut int64) {
	defer context.AfterFunc(ctx, func() { r.Body.Close() })()
	passed := &tally{w: io.Discard, left: cut}
	body := io.TeeReader(http.MaxBytesReader(w, r.Body, uploadBytes), passed)
	if err := l.decode(ctx, body, d); err != nil {
		if errors.Is(err, errCut) {
			panic(http.ErrAbortHandler)
		}
		http.Error(w, "the stream is no disk that fits: "+err.Error(), http.StatusInternalServerError)
		return
	}
	if _, err := io.Copy(io.Discard, body); err != nil {
		http.Error(w, "the stream does not end", http.StatusInternalServerError)
		return
	}
	d.settle(passed)
	w.WriteHeader(http.StatusCreated)
}

func (l *lease) decode(ctx context.Context, r io.Reader, d *leaseDisk) error {
	stream, err := vmdk.ReadStream(ctx, r)
	if err != nil {
		return err
	}
	if stream.Size() > d.size {
		return errors.New("the disk is longer than the VM's")
	}
	target, err := l.s.writeFile(d.file)
	if err != nil {
		return err
	}
	for grain, err := range stream.Grains(ctx) {
		if err == nil {
			_, err = target.WriteAt(grain.Data[:min(int64(len(grain.Data)), d.size-grain.Off)], grain.Off)
		}
		if err != nil {
			return errors.Join(err, target.Close())
		}
		d.mu.Lock()
		d.held += int64(len(grain.Data))
		d.mu.Unlock()
	}
	return target.Close()
}

// writeFile opens the bytes of a flat disk for writing: what is made new is flat.
func (s *Server) writeFile(file string) (*os.File, error) {
	local, err := s.LocalFile(strings.TrimSuffix(file, ".vmdk") + "-flat.vmdk")
	if err != nil {
		return nil, err
	}
	return os.OpenFile(local, os.O_RDWR, 0)
}
