//go:build linux

package mover_test

import (
	"bufio"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/hikae/hikae/pipe"
	"github.com/hikae/hikae/pipe/diskfile"
	"github.com/hikae/hikae/pipe/mover"
	"github.com/hikae/hikae/pipe/mover/bandwidth"
	"github.com/hikae/hikae/pipe/mover/trust"
	"github.com/hikae/hikae/pipe/pipetest"
	"github.com/hikae/hikae/repo"
	"github.com/hikae/hikae/repo/store/dirstore"
)

const specEnv = "HIKAE_FIGURES_CHILD"

// spec is what a child is told.
type spec struct {
	Role    string
	Address string // to listen on, or to connect to
	Dir     string
	Pin     trust.Pin
	Image   string // a file
	VM      string
	Point   string
	Lanes   int
	Streams int
	Count   int
	Bytes   int64
	For     time.Duration
	GiveUp  time.Duration
}

// said is what a child says, one document a line.
type said struct {
	Error      string
	Listening  string
	Point      string
	Seconds    float64
	CPU        float64 // seconds, user and system, of the process so far; of clients: of the measured part
	RSS        int64   // bytes at the peak
	Bytes      int64
	Resent     int64
	Goroutines int
	Files      int
	Times      []float64
}

func say(s said) { json.NewEncoder(os.Stdout).Encode(s) }

// roles are what a child can be.
var roles = map[string]func(context.Context, spec) (said, error){
	"mover": serveMover, "tls": serveTLS, "backup": runBackup, "restore": runRestore, "local": runLocal,
	"tls send": runTLS, "many": runMany, "hole": runHole,
}

// TestFigureChild is the other end of start.
func TestFigureChild(t *testing.T) {
	text := os.Getenv(specEnv)
	if text == "" {
		t.Skip("it is a part of other tests")
	}
	var s spec
	err := json.Unmarshal([]byte(text), &s)
	last := said{}
	if err == nil {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Minute)
		defer cancel()
		if s.Role != "mover" && s.Role != "tls" { // those read their input themselves
			go func() {
				io.Copy(io.Discard, os.Stdin) // which ends with the parent
				os.Exit(1)
			}()
		}
		last, err = roles[s.Role](ctx, s)
	}
	if err != nil {
		last.Error = err.Error()
	}
	say(last)
	os.Exit(0)
}

// used is what this process has used so far.
func used() said {
	var u syscall.Rusage
	syscall.Getrusage(syscall.RUSAGE_SELF, &u)
	status, _ := os.ReadFile("/proc/self/status")
	_, rss, _ := strings.Cut(string(status), "VmHWM:")
	rss, _, _ = strings.Cut(rss, "kB")
	peak, _ := strconv.ParseInt(strings.TrimSpace(rss), 10, 64)
	files, _ := os.ReadDir("/proc/self/fd")
	return said{CPU: time.Duration(u.Utime.Nano() + u.Stime.Nano()).Seconds(), RSS: peak << 10,
		Goroutines: runtime.NumGoroutine(), Files: len(files)}
}

// marks answers each line of the input by what was used, until the input ends.
func marks() {
	for lines := bufio.NewScanner(os.Stdin); lines.Scan(); {
		say(used())
	}
}

func openRepo(ctx context.Context, dir string) (*repo.Repository, error) {
	store, err := dirstore.Open(filepath.Join(dir, "repo"))
	if err != nil {
		return nil, err
	}
	opts := &repo.OpenOptions{StateDir: filepath.Join(dir, "repostate"), CacheDir: dir}
	r, err := repo.Init(ctx, store, repo.KeyFile([32]byte{1}), nil, opts)
	if errors.Is(err, repo.ErrExists) {
		r, err = repo.Open(ctx, store, repo.KeyFile([32]byte{1}), opts)
	}
	return r, err
}

// newMover is a trusted target over a repository in dir.
func newMover(ctx context.Context, dir string, level slog.Level) (*mover.Server, func() error, error) {
	return newMoverLimited(ctx, dir, level, nil)
}

func newMoverLimited(ctx context.Context, dir string, level slog.Level, shaper *bandwidth.Shaper) (*mover.Server, func() error, error) {
	if err := os.MkdirAll(filepath.Join(dir, "repo"), 0o700); err != nil {
		return nil, nil, err
	}
	id, err := trust.LoadIdentity(filepath.Join(dir, "id"))
	if err != nil {
		return nil, nil, err
	}
	book, err := trust.OpenBook(filepath.Join(dir, "book"))
	if err != nil {
		return nil, nil, err
	}
	r, err := openRepo(ctx, dir)
	if err != nil {
		return nil, nil, err
	}
	server, err := mover.NewServer(&mover.ServerOptions{Identity: id, Book: book, Backend: r, StateDir: filepath.Join(dir, "state"), Shaper: shaper,
		Log: slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: level})), Version: "figures"})
	return server, r.Close, err
}

func serveMover(ctx context.Context, s spec) (said, error) {
	server, closeRepo, err := newMover(ctx, s.Dir, slog.LevelWarn)
	if err != nil {
		return said{}, err
	}
	l, err := net.Listen("tcp4", s.Address)
	if err != nil {
		return said{}, err
	}
	served := make(chan error, 1)
	go func() { served <- server.Serve(ctx, l) }()
	say(said{Listening: l.Addr().String()})
	marks()
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	err = errors.Join(server.Shutdown(ctx), closeRepo())
	<-served
	return used(), err
}

func dial(ctx context.Context, s spec) (*mover.Client, error) { return dialLogging(ctx, s, nil) }

func dialLogging(ctx context.Context, s spec, log *slog.Logger) (*mover.Client, error) {
	return mover.Dial(ctx, s.Address, &mover.DialOptions{IdentityDir: s.Dir, ServerPin: s.Pin, Lanes: s.Lanes, GiveUp: s.GiveUp, Log: log,
		Warn: func(text string) { fmt.Fprintln(os.Stderr, "warning:", text) }})
}

// backup brings an image to a backend as a point.
func backup(ctx context.Context, b pipe.Backend, vm string, img pipe.Image) (point string, stats pipe.Stats, err error) {
	w, err := b.Begin(ctx, vm, nil)
	if err != nil {
		return "", stats, err
	}
	defer w.Close()
	disk, err := w.Disk(ctx, "disk0", img.Size())
	if err != nil {
		return "", stats, err
	}
	defer disk.Close()
	if stats, err = pipe.Copy(ctx, disk, img, nil); err != nil {
		return "", stats, err
	}
	if err = disk.Commit(ctx); err != nil {
		return "", stats, err
	}
	point, err = w.Commit(ctx, nil)
	return point, stats, err
}

// measured runs f and says what it took.
func measured(f func() error) (said, error) {
	before, start := used(), time.Now()
	err := f()
	s := used()
	s.Seconds, s.CPU = time.Since(start).Seconds(), s.CPU-before.CPU
	return s, err
}

func runBackup(ctx context.Context, s spec) (said, error) {
	img, err := diskfile.Open(s.Image, nil)
	if err != nil {
		return said{}, err
	}
	defer img.Close()
	var out said
	var point string
	out, err = measured(func() error {
		c, err := dial(ctx, s)
		if err != nil {
			return err
		}
		defer c.Close()
		point, _, err = backup(ctx, c, s.VM, img)
		out.Resent = c.Stats().Resent
		return err
	})
	out.Point, out.Bytes = point, img.Size()
	return out, err
}

func runLocal(ctx context.Context, s spec) (said, error) {
	if err := os.MkdirAll(filepath.Join(s.Dir, "repo"), 0o700); err != nil {
		return said{}, err
	}
	r, err := openRepo(ctx, s.Dir)
	if err != nil {
		return said{}, err
	}
	defer r.Close()
	img, err := diskfile.Open(s.Image, nil)
	if err != nil {
		return said{}, err
	}
	defer img.Close()
	return measured(func() error {
		_, _, err := backup(ctx, r, s.VM, img)
		return err
	})
}

// runRestore brings a point back and compares it with the file that it was made of.
func runRestore(ctx context.Context, s spec) (said, error) {
	img, err := diskfile.Open(s.Image, nil)
	if err != nil {
		return said{}, err
	}
	defer img.Close()
	restored := filepath.Join(s.Dir, "restored")
	defer os.Remove(restored)
	out, err := measured(func() error { return restore(ctx, s, restored) })
	if err != nil {
		return out, err
	}
	got, err := diskfile.Open(restored, nil)
	if err != nil {
		return out, err
	}
	defer got.Close()
	return out, pipetest.CheckImage(ctx, got, img)
}

// restore brings a point's disk back from far.
func restore(ctx context.Context, s spec, to string) error {
	c, err := dial(ctx, s)
	if err != nil {
		return err
	}
	defer c.Close()
	far, err := c.Open(ctx, s.Point, "disk0")
	if err != nil {
		return err
	}
	if closer, ok := far.(io.Closer); ok {
		defer closer.Close()
	}
	file, err := diskfile.Create(to, far.Size(), nil)
	if err != nil {
		return err
	}
	defer file.Close()
	if _, err := pipe.Copy(ctx, file, far, nil); err != nil {
		return err
	}
	return file.Commit(ctx)
}

// serveTLS takes what comes on any connection and answers each with its count.
func serveTLS(ctx context.Context, s spec) (said, error) {
	id, err := trust.LoadIdentity(filepath.Join(s.Dir, "id"))
	if err != nil {
		return said{}, err
	}
	book, err := trust.OpenBook(filepath.Join(s.Dir, "book"))
	if err != nil {
		return said{}, err
	}
	l, err := net.Listen("tcp4", s.Address)
	if err != nil {
		return said{}, err
	}
	go func() {
		for {
			raw, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer raw.Close()
				conn, _, err := trust.Accept(ctx, raw, trust.ServerTLS(id, book), book)
				if err != nil {
					return
				}
				n, _ := io.CopyBuffer(struct{ io.Writer }{io.Discard}, conn, make([]byte, 256<<10))
				conn.Write(binary.BigEndian.AppendUint64(nil, uint64(n)))
				conn.CloseWrite()
			}()
		}
	}()
	say(said{Listening: l.Addr().String()})
	marks()
	l.Close()
	return used(), nil
}

// runTLS sends so many bytes, or for so long, over several connections, and counts what arrived.
func runTLS(ctx context.Context, s spec) (said, error) {
	id, err := trust.LoadIdentity(s.Dir)
	if err != nil {
		return said{}, err
	}
	counts := make([]int64, s.Streams)
	failures := make([]error, s.Streams)
	out, err := measured(func() error {
		var wg sync.WaitGroup
		for i := range counts {
			wg.Go(func() { counts[i], failures[i] = sendTLS(ctx, s, id) })
		}
		wg.Wait()
		return errors.Join(failures...)
	})
	for _, n := range counts {
		out.Bytes += n
	}
	return out, err
}

func sendTLS(ctx context.Context, s spec, id *trust.Identity) (int64, error) {
	raw, err := new(net.Dialer).DialContext(ctx, "tcp4", s.Address)
	if err != nil {
		return 0, err
	}
	defer raw.Close()
	conn, err := trust.Connect(ctx, raw, trust.ClientTLS(id, s.Pin))
	if err != nil {
		return 0, err
	}
	piece := make([]byte, 256<<10)
	fillNoise(piece, 1)
	end := time.Now().Add(s.For)
	for left := s.Bytes / int64(s.Streams); left > 0 || s.For > 0 && time.Now().Before(end); left -= int64(len(piece)) {
		if _, err := conn.Write(piece); err != nil {
			return 0, err
		}
	}
	if err := conn.CloseWrite(); err != nil {
		return 0, err
	}
	answer := make([]byte, 8)
	_, err = io.ReadFull(conn, answer)
	return int64(binary.BigEndian.Uint64(answer)), err
}

// runMany is Count sessions at once, of as many peers, each with a point of Bytes.
func runMany(ctx context.Context, s spec) (said, error) {
	times := make([]float64, s.Count)
	failures := make([]error, s.Count)
	out, err := measured(func() error {
		var open, wg sync.WaitGroup
		open.Add(s.Count)
		for i := range s.Count {
			wg.Go(func() {
				content := make([]byte, s.Bytes)
				fillNoise(content, uint64(i)+1)
				one := s
				one.Dir, one.Lanes = filepath.Join(s.Dir, strconv.Itoa(i)), 1
				c, err := dial(ctx, one)
				open.Done()
				open.Wait() // all sessions stand
				start := time.Now()
				if err == nil {
					_, _, err = backup(ctx, c, "vm", pipetest.Bytes(content))
					err = errors.Join(err, c.Close())
				}
				failures[i], times[i] = err, time.Since(start).Seconds()
			})
		}
		wg.Wait()
		failed := slices.DeleteFunc(failures, func(err error) bool { return err == nil })
		if len(failed) == 0 {
			return nil
		}
		return fmt.Errorf("%d of %d failed: %w", len(failed), s.Count, failed[0])
	})
	out.Times = times
	return out, err
}

// runHole backs up until the line goes away for good. It says when it noticed and when it gave up, and
// what is left five seconds after.
func runHole(ctx context.Context, s spec) (said, error) {
	img, err := diskfile.Open(s.Image, nil)
	if err != nil {
		return said{}, err
	}
	defer img.Close()
	base, loss := used(), &lossWatch{Handler: slog.DiscardHandler}
	say(base)
	c, err := dialLogging(ctx, s, slog.New(loss))
	if err == nil {
		_, _, err = backup(ctx, c, s.VM, img)
	}
	if err == nil {
		return said{}, errors.New("the backup came through")
	}
	fmt.Fprintln(os.Stderr, "it ended by:", err)
	over := time.Now().UnixNano()
	loss.at.CompareAndSwap(0, over) // no lane stood
	say(said{Bytes: loss.at.Load(), Resent: over})
	if c != nil {
		c.Close()
	}
	after := used()
	for end := time.Now().Add(5 * time.Second); time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
		after = used()
		if after.Goroutines <= base.Goroutines && after.Files <= base.Files+1 {
			break
		}
	}
	after.Goroutines -= base.Goroutines
	after.Files -= base.Files
	return after, nil
}

// lossWatch is a log that notes when the first lane was lost.
type lossWatch struct {
	slog.Handler
	at atomic.Int64 // nanoseconds since 1970
}

func (w *lossWatch) Enabled(context.Context, slog.Level) bool { return true }

func (w *lossWatch) Handle(_ context.Context, r slog.Record) error {
	if r.Message == "a lane has ended" {
		w.at.CompareAndSwap(0, r.Time.UnixNano())
	}
	return nil
}

func (w *lossWatch) WithAttrs([]slog.Attr) slog.Handler { return w }
func (w *lossWatch) WithGroup(string) slog.Handler      { return w }

func writeNoise(name string, size int64, seed uint64) error {
	f, err := os.Create(name)
	if err != nil {
		return err
	}
	p := make([]byte, 1<<20)
	for off := int64(0); off < size; off += int64(len(p)) {
		fillNoise(p, seed+uint64(off))
		if _, err := f.Write(p[:min(int64(len(p)), size-off)]); err != nil {
			return errors.Join(err, f.Close())
		}
	}
	return f.Close()
}

// fillNoise fills p with bytes that do not compress and that the seed decides.
func fillNoise(p []byte, seed uint64) {
	var key [32]byte
	binary.BigEndian.PutUint64(key[:], seed)
	rand.NewChaCha8(key).Read(p)
}
