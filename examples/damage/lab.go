package main

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/hikae/hikae/pipe"
	"github.com/hikae/hikae/repo"
	"github.com/hikae/hikae/repo/store"
	"github.com/hikae/hikae/repo/store/dirstore"
)

const (
	blockSize = 64 << 10
	deadline  = 2 * time.Minute // of one round
)

var secret = repo.KeyFile([32]byte{'d', 'a', 'm', 'a', 'g', 'e'})

// lab is a repository that nobody hurts, and what is in it.
type lab struct {
	dir      string
	pristine string // the repository
	older    string // it, before its last point
	state    string // of the client that made it
	points   []sample
}

// sample is a point and the content of its disk.
type sample struct {
	id      string
	content []byte
}

// verdict is what came of one round.
type verdict struct {
	what string // was done
	told string // lines for people
	lost bool
}

func (v *verdict) say(format string, args ...any) { v.told += fmt.Sprintf("    "+format+"\n", args...) }

// content is a disk of blocks, each told by a number: 0 is zeros, odd numbers compress, even ones do not.
func content(blocks ...uint64) []byte {
	var b bytes.Buffer
	for _, n := range blocks {
		block := make([]byte, blockSize)
		rng := rand.New(rand.NewPCG(n, 1))
		for i := 0; n > 0 && i < len(block); i += 8 {
			binary.LittleEndian.PutUint64(block[i:], rng.Uint64()>>(n%2*48))
		}
		b.Write(block)
	}
	b.WriteString("and an odd end")
	return b.Bytes()
}

func newLab(ctx context.Context) (*lab, error) {
	dir, err := os.MkdirTemp("", "hikae-damage-")
	if err != nil {
		return nil, err
	}
	l := &lab{dir: dir, pristine: filepath.Join(dir, "pristine"), older: filepath.Join(dir, "older"), state: filepath.Join(dir, "state")}
	if err := l.fill(ctx); err != nil {
		return nil, errors.Join(err, l.close())
	}
	return l, nil
}

func (l *lab) close() error { return os.RemoveAll(l.dir) }

// fill makes a repository with points of two machines that share some of their content.
func (l *lab) fill(ctx context.Context) (err error) {
	st, err := dirstore.Init(l.pristine)
	if err != nil {
		return err
	}
	r, err := repo.Init(ctx, st, secret, &repo.InitOptions{BlockSize: blockSize}, l.options(l.state))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, r.Close()) }()
	for i, p := range []struct {
		vm     string
		blocks []uint64
	}{{"web", []uint64{1, 2, 3, 0, 4, 5}}, {"web", []uint64{1, 2, 7, 0, 8, 5}}, {"mail", []uint64{9, 2, 0, 0, 10}}, {"web", []uint64{11, 2, 7, 12, 8, 5}}} {
		if i == 3 {
			if err := copyTree(l.pristine, l.older); err != nil {
				return err
			}
		}
		c := content(p.blocks...)
		id, err := backup(ctx, r, p.vm, c)
		if err != nil {
			return err
		}
		l.points = append(l.points, sample{id, c})
	}
	return nil
}

func (l *lab) options(state string) *repo.OpenOptions {
	return &repo.OpenOptions{CacheDir: l.dir, StateDir: state}
}

// open opens a repository in a folder, through what wrap puts around its store.
func (l *lab) open(ctx context.Context, dir, state string, wrap func(store.Store) store.Store) (*repo.Repository, error) {
	st, err := dirstore.Open(dir)
	if err != nil {
		return nil, err
	}
	if wrap != nil {
		return repo.Open(ctx, wrap(st), secret, l.options(state))
	}
	return repo.Open(ctx, st, secret, l.options(state))
}

func backup(ctx context.Context, r *repo.Repository, vm string, content []byte) (string, error) {
	w, err := r.Begin(ctx, vm, nil)
	if err != nil {
		return "", err
	}
	defer w.Close()
	d, err := w.Disk(ctx, "disk0", int64(len(content)))
	if err != nil {
		return "", err
	}
	defer d.Close()
	if _, err := pipe.Copy(ctx, d, pipe.FromReaderAt(bytes.NewReader(content), int64(len(content))), nil); err != nil {
		return "", err
	}
	if err := d.Commit(ctx); err != nil {
		return "", err
	}
	return w.Commit(ctx, nil)
}

// round hurts a copy in one way, and looks what came of it.
func (l *lab) round(ctx context.Context, w way, rng *rand.Rand) (v *verdict, err error) {
	ctx, cancel := context.WithTimeout(ctx, deadline)
	defer cancel()
	dir := filepath.Join(l.dir, "hurt")
	v = &verdict{}
	if err := copyTree(l.pristine, dir); err != nil {
		return v, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	if w.alive != nil {
		return w.alive(l, rng, dir)
	}
	if v.what, err = w.hurt(rng, dir); err != nil {
		return v, err
	}
	return v, l.examine(ctx, dir, v)
}

// examine restores, repairs and restores again.
func (l *lab) examine(ctx context.Context, dir string, v *verdict) error {
	r, err := l.open(ctx, dir, "", nil)
	if err != nil {
		return fmt.Errorf("it does not open: %w", err)
	}
	defer r.Close()
	for _, p := range l.points {
		if _, err := restored(ctx, r, p); errors.Is(err, errWrong) {
			return err
		}
	}
	rep, err := r.Repair(ctx, nil)
	if err != nil && !isCorrupt(err) {
		return fmt.Errorf("repair: %w", err)
	}
	v.tell(rep, err)
	return l.holds(ctx, dir, rep, err != nil, v)
}

// tell writes down what a repair said.
func (v *verdict) tell(rep repo.RepairReport, err error) {
	if len(rep.Found) == 0 && err == nil {
		v.say("nothing of Hikae's was hurt")
	}
	for _, o := range rep.Repaired {
		v.say("repaired: %s", o)
	}
	said := map[string]bool{}
	for _, d := range rep.Left {
		if line := fmt.Sprintf("lost: %s: %s", d.Object, d.Reason); !said[line] {
			v.say("%s", line)
			said[line] = true
		}
	}
	for _, a := range rep.Affected {
		if a.Disk == "" {
			v.say("lost with it: all of point %.8s", a.Point)
			continue
		}
		v.say("lost with it: point %.8s of %s, %s, %d bytes at %d", a.Point, a.VM, a.Disk, a.Length, a.Offset)
	}
	if err != nil {
		v.say("not repaired: %v", err)
	}
	v.lost = !rep.OK || err != nil
}

// holds looks whether a repair told the truth, by the eyes of a client that knows nothing of it.
func (l *lab) holds(ctx context.Context, dir string, rep repo.RepairReport, stopped bool, v *verdict) error {
	r, err := l.open(ctx, dir, "", nil)
	if err != nil {
		return fmt.Errorf("it does not open any more: %w", err)
	}
	defer r.Close()
	for _, p := range l.points {
		ranges := affected(rep, p.id)
		_, err := restored(ctx, r, p)
		switch {
		case errors.Is(err, errWrong):
			return err
		case err == nil && len(ranges) > 0:
			return fmt.Errorf("point %s is called lost in parts and restores", p.id)
		case err == nil:
		case !isCorrupt(err) && !errors.Is(err, fs.ErrNotExist):
			return fmt.Errorf("an error that says nothing: %w", err)
		case len(ranges) > 0 && ranges[0].Disk == "": // its manifest: nobody knows what is in it
		case len(ranges) > 0:
			if err := salvaged(ctx, r, p, ranges); err != nil {
				return err
			}
		case !stopped && !cutOff(rep.Left):
			return fmt.Errorf("the repair names no loss of point %s: %w", p.id, err)
		default:
			v.say("point %.8s cannot be found: %v", p.id, err)
		}
	}
	return nil
}

// cutOff says whether a record of the log is lost: nobody knows of any point behind it.
func cutOff(left []repo.Damage) bool {
	return slices.ContainsFunc(left, func(d repo.Damage) bool { return kindOf(d.Object) == "log" })
}

func affected(rep repo.RepairReport, point string) (ranges []repo.Affected) {
	for _, a := range rep.Affected {
		if a.Point == point {
			ranges = append(ranges, a)
		}
	}
	return ranges
}

var errWrong = errors.New("a wrong byte was restored")

// isCorrupt says whether an error names damage.
func isCorrupt(err error) bool {
	_, ok := errors.AsType[*repo.ErrCorrupt](err)
	return ok
}

// restored restores a point. What comes out without an error is right, or the error is errWrong.
func restored(ctx context.Context, r *repo.Repository, p sample) ([]byte, error) {
	img, err := r.Open(ctx, p.id, "disk0")
	if err != nil {
		return nil, err
	}
	defer img.Close()
	got := make([]byte, img.Size())
	if _, err := img.ReadAt(ctx, got, 0); err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	if !bytes.Equal(got, p.content) {
		return nil, fmt.Errorf("point %s: %w", p.id, errWrong)
	}
	return got, nil
}

// salvaged restores what is left of a point. It is right outside of the ranges that are called lost, and its holes are those.
func salvaged(ctx context.Context, r *repo.Repository, p sample, lost []repo.Affected) error {
	img, err := r.Salvage(ctx, p.id, "disk0")
	if err != nil {
		return fmt.Errorf("salvage of point %s: %w", p.id, err)
	}
	defer img.Close()
	got := make([]byte, img.Size())
	if _, err := img.ReadAt(ctx, got, 0); err != nil && !errors.Is(err, io.EOF) {
		return fmt.Errorf("salvage of point %s: %w", p.id, err)
	}
	want := bytes.Clone(p.content)
	var named, holes int64
	for _, a := range lost {
		clear(want[a.Offset:min(a.Offset+a.Length, int64(len(want)))])
		named += a.Length
	}
	for _, h := range img.Holes() {
		holes += h.Len
	}
	if !bytes.Equal(got, want) {
		return fmt.Errorf("point %s, salvaged: %w", p.id, errWrong)
	}
	if named != holes {
		return fmt.Errorf("point %s: %d bytes are called lost, and %d are", p.id, named, holes)
	}
	return nil
}

// copyTree copies a folder of files.
func copyTree(from, to string) error {
	return os.CopyFS(to, os.DirFS(from))
}
