package exclude

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"time"

	"github.com/hikae/hikae/pipe"
	"github.com/hikae/hikae/pipe/exclude/fstab"
	"github.com/hikae/hikae/pipe/exclude/layout"
)

// Disk is one disk of the machine: see [layout.Disk].
type Disk = layout.Disk

// Options say what may be left out. A nil *Options leaves nothing out and only tells what there is.
type Options struct {
	// Swap leaves out swap space, but for the first page of each: Linux swap partitions and logical volumes, Linux swap
	// files (regular files that carry the header and are named in an /etc/fstab or lie at a usual place), and
	// pagefile.sys and swapfile.sys at the root of an NTFS volume. All of them have one name; swap files and the
	// /etc/fstab are root's, and nobody else may write them: a user of the guest cannot hide anything that way.
	Swap bool
	// Free leaves out free space of file systems.
	Free bool
	// Hiberfil counts hiberfil.sys at the root of an NTFS volume as swap. Where a system does sleep in it, nothing is
	// left out anywhere.
	Hiberfil bool

	// Files are globs for files that are left out.
	//
	// A glob is a path from the root of a volume, without the place where the guest mounts it: * and ? stand for any
	// characters, or one, within a name, [a-z] for one of several, \ takes the next character as it is, and ** as a whole
	// name for any number of folders. A glob without a slash fits a name in any folder. One that fits a folder fits all
	// that is in it. A leading "!" keeps files instead, and always wins, whatever the order. "VOLUME::" in front (after
	// the "!") limits it to volumes of that name, label or UUID. Case matters but for volume names, and on NTFS and FAT,
	// where it never does.
	//
	// Only regular files are left out; one with several names only where all of them fit. What a file shares with
	// another, or holds inside of metadata, is kept.
	Files []string

	// BlockSize is that of the target in bytes, a power of two, if it is known: ranges that no whole block fits into need
	// not be remembered. Zero: all are.
	BlockSize int64
	// Deadline bounds the time that is spent. What was not analysed by then is stored whole. Zero: 1 s, or 10 s where
	// there are Files to look for, and 15 s for each TiB of the disks. Of what is left of it when a volume's folders are
	// looked through that takes half at most; files not found by then are stored, and the rest of the volume is judged.
	Deadline time.Duration
	// Readers are the file systems that can be looked into. Nil: those of [Readers].
	Readers []Reader
}

// The time that analysing takes at most where nothing else was asked for.
const (
	deadlineBase   = time.Second
	deadlineFiles  = 10 * time.Second
	deadlinePerTiB = 15 * time.Second
)

func (o *Options) withDefaults(disks []Disk) (Options, []glob, error) {
	c := Options{}
	if o != nil {
		c = *o
	}
	if c.BlockSize < 0 || c.BlockSize&(c.BlockSize-1) != 0 || c.BlockSize > 1<<30 || c.Deadline < 0 {
		return c, nil, fmt.Errorf("exclude with blocks of %d bytes and deadline %v: %w", c.BlockSize, c.Deadline, fs.ErrInvalid)
	}
	rules, err := ParseGlobs(c.Files)
	if err != nil {
		return c, nil, err
	}
	if c.Readers == nil {
		c.Readers = Readers()
	}
	if c.Deadline == 0 {
		var total float64
		for _, d := range disks {
			if d.Image != nil {
				total += float64(d.Image.Size())
			}
		}
		c.Deadline = deadlineBase
		if len(c.Files) > 0 {
			c.Deadline = deadlineFiles
		}
		c.Deadline += time.Duration(total / (1 << 40) * float64(deadlinePerTiB))
	}
	return c, rules.rules, nil
}

// Globs are rules that were read: see [Options.Files].
type Globs struct{ rules []glob }

// ParseGlobs reads rules, so that a program can refuse them before it does anything. Errors wrap [fs.ErrInvalid].
func ParseGlobs(texts []string) (Globs, error) {
	if len(texts) > maxGlobs {
		return Globs{}, fmt.Errorf("%d globs: at most %d: %w", len(texts), maxGlobs, fs.ErrInvalid)
	}
	var out Globs
	for _, text := range texts {
		g, err := parseGlob(text)
		if err != nil {
			return Globs{}, err
		}
		out.rules = append(out.rules, g)
	}
	return out, nil
}

// Analyse looks at all disks of a machine, at one moment, and says what of them need not be stored. What cannot be read,
// understood or finished in time is stored, and the report says so: none of that is an error. Errors are that of a context
// that ended, and [fs.ErrInvalid] for disks or options that cannot be.
func Analyse(ctx context.Context, disks []Disk, opts *Options) (*Plan, error) {
	begun := time.Now()
	o, rules, err := opts.withDefaults(disks)
	if err != nil {
		return nil, err
	}
	a := &analysis{opts: o, rules: rules, used: map[string]bool{}, sizes: map[string]int64{}}
	for _, d := range disks {
		if d.Image != nil {
			a.sizes[d.Key] = d.Image.Size()
		}
	}
	timed, cancel := context.WithTimeoutCause(ctx, o.Deadline, errTime)
	defer cancel()
	l, err := layout.Read(timed, disks)
	switch {
	case ctx.Err() != nil:
		return nil, ctx.Err()
	case err != nil && timed.Err() != nil:
		a.notes = append(a.notes, "nothing was left out: the time was up before the disks were looked through")
		l = &layout.Layout{}
	case err != nil:
		return nil, err
	}
	a.notes = append(a.notes, l.Notes...)
	a.volumes(timed, l.Volumes)
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	p := a.plan()
	p.Report.Took = time.Since(begun)
	return p, nil
}

var errTime = errors.New("the time for analysing was up")

// analysis is one run of Analyse.
type analysis struct {
	opts    Options
	rules   []glob
	sizes   map[string]int64 // of the disks
	used    map[string]bool  // by glob: it fitted something
	notes   []string
	results []*result
	bytes   int // of all tracks so far
}

// volumes analyses one volume after the other. Swap space comes first: it takes no time, and says whether a system sleeps.
func (a *analysis) volumes(ctx context.Context, list []*layout.Volume) {
	for _, v := range list {
		a.results = append(a.results, &result{volume: v})
	}
	order := slices.Clone(a.results)
	slices.SortStableFunc(order, func(x, y *result) int { return cmp.Compare(rank(x), rank(y)) })
	for _, r := range order {
		a.analyse(ctx, r)
	}
	for _, r := range a.elsewhere() {
		a.analyse(ctx, r)
	}
	a.sleepers()
}

func rank(r *result) int {
	if r.volume.Kind == layout.Swap {
		return 0
	}
	return 1
}

// sleepers: a system that sleeps on one volume wakes up with what it remembers of all of them. Where a volume on which a
// system may sleep could not be judged, nobody knows.
func (a *analysis) sleepers() {
	why := ""
	for _, r := range a.results {
		switch {
		case r.sleeps:
			why = fmt.Sprintf("a system sleeps on %s (hibernation or fast start), and wakes up with all its volumes as they are", r.volume.Name)
		case r.unjudged && why == "":
			why = fmt.Sprintf("%s could not be judged, and a system may sleep on it", r.volume.Name)
		}
	}
	if why == "" {
		return
	}
	for _, r := range a.results {
		if r.keep(); r.whole == "" {
			r.whole, r.caution = why, true
		}
	}
}

// plan puts the tracks of all volumes into the order of the disks, and the report together.
func (a *analysis) plan() *Plan {
	p := &Plan{disks: map[string][]*track{}}
	for _, r := range a.results {
		p.Report.Volumes = append(p.Report.Volumes, r.report())
		for i, t := range r.tracks {
			if t.count > 0 {
				disk := r.volume.Places()[i].Disk
				p.disks[disk] = append(p.disks[disk], &t.track)
			}
		}
	}
	for _, tracks := range p.disks {
		slices.SortFunc(tracks, func(x, y *track) int { return cmp.Compare(x.off, y.off) })
	}
	for _, rule := range a.rules {
		if !a.used[rule.text] {
			a.notes = append(a.notes, fmt.Sprintf("the glob %q fits no file on any volume that could be looked into", rule.text))
		}
	}
	p.Report.Notes = a.notes
	return p
}

// names are what a glob may call a volume.
func (r *result) names() []string {
	return slices.DeleteFunc([]string{r.volume.Name, r.volume.Label, r.info.Label, r.info.UUID}, func(s string) bool { return strings.TrimSpace(s) == "" })
}

// result is what is known of one volume.
type result struct {
	volume *layout.Volume
	info   info
	tracks []*trackWriter // by place

	free, swap, excluded, files int64

	whole    string
	caution  bool
	sleeps   bool
	unjudged bool

	swapNamed []string     // the swap files that its /etc/fstab names
	mounts    []fstab.Line // and what it mounts where
	extra     []string     // swap files on it that the fstab of another volume names
}

// info is what a volume says of itself.
type info struct {
	Kind, Label, UUID string
	Replayed          int64
}

// keep forgets what could be left out.
func (r *result) keep() {
	r.tracks, r.free, r.swap, r.excluded, r.files = nil, 0, 0, 0, 0
}

// store says that the volume is stored whole.
func (r *result) store(caution bool, format string, args ...any) {
	r.keep()
	r.whole, r.caution = fmt.Sprintf(format, args...), caution
}

func (r *result) report() Volume {
	v := r.volume
	out := Volume{
		Name: v.Name, Kind: cmp.Or(r.info.Kind, v.Kind), Label: cmp.Or(r.info.Label, v.Label), UUID: r.info.UUID, Size: v.Size,
		Free: r.free, Swap: r.swap, Excluded: r.excluded, Files: r.files, Replayed: r.info.Replayed, Whole: r.whole, Caution: r.caution,
	}
	for _, p := range v.Places() {
		if len(out.Parts) < maxParts {
			out.Parts = append(out.Parts, Part{p.Disk, p.Off, p.N})
		}
	}
	return out
}

// kinds that the tracks and sums of a result know.
func (r *result) count(kind pipe.Kind, n int64) {
	switch kind {
	case pipe.Free:
		r.free += n
	case pipe.Swap:
		r.swap += n
	case pipe.Excluded:
		r.excluded += n
	}
}
