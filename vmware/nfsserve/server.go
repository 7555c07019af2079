package nfsserve

import (
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"time"

	"github.com/willscott/go-nfs"
)

// Options change how disks are offered.
type Options struct {
	// Folder takes what is written: it is made where it is missing, belongs to one server at a time, and outlives it. Needed.
	Folder string
	// Clients are the addresses of the hosts that may mount. Empty: this machine alone.
	Clients []netip.Prefix
	// Async answers writes before they are durable.
	Async bool
	// LeastFree is how much of the folder's file system stays free, in bytes. Zero: 1 GiB.
	LeastFree int64
	// Connections bounds how many there are at once. Zero: 64.
	Connections int
}

// Server offers disks. It is told as a story: New opens what was written before, Serve answers hosts, Close makes all of it
// durable.
type Server struct {
	opts    Options
	share   *share
	volumes []*volume
	handles *handles
	secret  []byte
	ctx     context.Context
	end     context.CancelFunc
	serving sync.WaitGroup
}

const maxDisks = 256

// New makes a server of some disks. Nothing listens yet.
func New(disks []Disk, opts *Options) (_ *Server, err error) {
	if opts == nil || opts.Folder == "" || len(disks) == 0 || len(disks) > maxDisks {
		return nil, fmt.Errorf("NFS server: a folder and 1 to %d disks are needed: %w", maxDisks, fs.ErrInvalid)
	}
	s := &Server{opts: *opts}
	if s.opts.LeastFree <= 0 {
		s.opts.LeastFree = leastFree
	}
	if s.opts.Connections <= 0 {
		s.opts.Connections = 64
	}
	if len(s.opts.Clients) == 0 {
		s.opts.Clients = []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("::1/128")}
	}
	s.ctx, s.end = context.WithCancel(context.Background())
	defer func() {
		if err != nil {
			err = fmt.Errorf("NFS server in %s: %w", opts.Folder, errors.Join(err, s.Close()))
		}
	}()
	return s, s.open(disks)
}

const (
	filesFolder    = "files"
	overlaysFolder = "overlays"
	secretFile     = "secret"
	livesFile      = "lives"
)

func (s *Server) open(disks []Disk) error {
	files, overlays := filepath.Join(s.opts.Folder, filesFolder), filepath.Join(s.opts.Folder, overlaysFolder)
	if err := errors.Join(os.MkdirAll(files, 0o700), os.MkdirAll(overlays, 0o700)); err != nil {
		return err
	}
	root, err := os.OpenRoot(files)
	if err != nil {
		return err
	}
	s.share = &share{ctx: s.ctx, root: root, flats: map[string]*volume{}, started: time.Now(),
		room: &room{folder: s.opts.Folder, least: s.opts.LeastFree, async: s.opts.Async}}
	if s.share.lives, err = openLives(filepath.Join(s.opts.Folder, livesFile)); err != nil {
		return err
	}
	if s.secret, err = secretIn(s.opts.Folder); err != nil {
		return err
	}
	s.handles = newHandles(s.share, s.derive("handle"))
	for _, d := range disks {
		if err := s.add(d, overlays); err != nil {
			return err
		}
	}
	return nil
}

func (s *Server) add(d Disk, overlays string) error {
	if err := d.check(); err != nil {
		return err
	}
	flat := d.Name + "-flat.vmdk"
	if s.share.flats[flat] != nil {
		return fmt.Errorf("disk %q: %w", d.Name, fs.ErrExist)
	}
	v, err := openVolume(d, overlays, s.opts.Async)
	if err != nil {
		return err
	}
	s.share.flats[flat] = v
	s.volumes = append(s.volumes, v)
	name := d.Name + ".vmdk"
	if _, err := s.share.root.Lstat(name); !errors.Is(err, fs.ErrNotExist) {
		return err // the host's own by now: it writes to descriptors
	}
	return s.share.root.WriteFile(name, d.descriptor(), 0o600)
}

// secretIn is what handles and the path stand on. It stays with the folder, so that a host that has it mounted goes on after
// this program was started again.
func secretIn(folder string) ([]byte, error) {
	name := filepath.Join(folder, secretFile)
	secret, err := os.ReadFile(name)
	switch {
	case err == nil && len(secret) == sha256.Size:
		return secret, nil
	case err == nil: // another would make every host's mount a stale one, without a word
		return nil, fmt.Errorf("%s: %d bytes are no secret: %w", name, len(secret), fs.ErrInvalid)
	case !errors.Is(err, fs.ErrNotExist):
		return nil, err
	}
	secret = make([]byte, sha256.Size)
	rand.Read(secret)
	return secret, writeDurable(name, secret)
}

// writeDurable makes a file that is there whole or not at all.
func writeDurable(name string, data []byte) error {
	temp := name + ".tmp"
	f, err := os.OpenFile(temp, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	if err := os.Rename(temp, name); err != nil {
		return err
	}
	return syncFolder(filepath.Dir(name))
}

// syncFolder makes names durable, where the system has such a thing.
func syncFolder(name string) error {
	d, err := os.Open(name)
	if err != nil {
		return err
	}
	defer d.Close()
	if err := d.Sync(); err != nil && runtime.GOOS != "windows" {
		return err
	}
	return nil
}

func (s *Server) derive(use string) []byte {
	m := hmac.New(sha256.New, s.secret)
	m.Write([]byte(use))
	return m.Sum(nil)
}

// Path is what a host mounts. Whoever knows it and has an allowed address gets in.
func (s *Server) Path() string { return "/hikae/" + hex.EncodeToString(s.derive("path")[:16]) }

// Files is the folder that the host's own files are in, such as a .vmx that is to be registered. It is laid out as the host
// sees it, without the disks' contents.
func (s *Server) Files() string { return filepath.Join(s.opts.Folder, filesFolder) }

// Serve answers hosts until the context ends or the listener fails; the listener is closed. A mount and its files go over the
// same port. It may be called for several listeners.
func (s *Server) Serve(ctx context.Context, l net.Listener) error {
	s.serving.Add(1)
	defer s.serving.Done()
	g := newGate(l, s.opts.Clients, s.opts.Connections)
	stop := context.AfterFunc(ctx, func() { g.Close() })
	defer stop()
	defer context.AfterFunc(s.ctx, func() { g.Close() })()
	quiet()
	server := &nfs.Server{Handler: handler{s.handles, s}, Context: s.ctx}
	copy(server.ID[:], s.derive("writes")) // the same after a restart: what was answered was durable
	if s.opts.Async {
		rand.Read(server.ID[:])
	}
	err := server.Serve(g)
	g.Close()
	g.wait()
	if ctx.Err() != nil || s.ctx.Err() != nil {
		return nil
	}
	return err
}

// Close ends the service and makes durable what was written.
func (s *Server) Close() error {
	s.end()
	s.serving.Wait()
	var errs []error
	for _, v := range s.volumes {
		errs = append(errs, v.close())
	}
	s.volumes = nil
	if s.share != nil && s.share.root != nil {
		errs = append(errs, s.share.root.Close())
		s.share.root = nil
	}
	return errors.Join(errs...)
}

var quiet = sync.OnceFunc(func() { nfs.Log.SetLevel(nfs.PanicLevel) })
