package index

import (
	"context"
	"fmt"
	"io/fs"
	"iter"
	"path"
	"slices"
	"strings"

	"github.com/hikae/hikae/guest/index/list"
)

// Query says what is looked for. All that is set must hold; of Globs, one.
type Query struct {
	// Folder is where to look, with all that is below it. Empty: the whole volume.
	Folder string
	// Globs fit paths: * stands for any characters within a name, ? for one, [a-z] for one of several, \ takes the next
	// as it is, and ** as a whole name stands for any number of folders. A glob without a slash fits a name in any
	// folder. Empty: everything.
	Globs []string
	// Text is a part of a name, in any case.
	Text string
	// Fold makes case not matter in Globs, as far as ASCII goes.
	Fold bool
	// Keep, where set, decides last.
	Keep func(e *Entry) bool
}

const (
	maxGlobs = 256
	maxParts = 4096 // names of a path that ** is tried on; no walk goes as deep
)

// pattern is a glob that was read.
type pattern struct {
	names []string
	need  []uint32
}

// Find yields what is asked for of a volume, in its order. Blocks whose names cannot fit are not read. An error is the
// last; it wraps fs.ErrInvalid where the question is wrong.
func (x *Index) Find(ctx context.Context, volume int, q Query) iter.Seq2[Entry, error] {
	patterns, err := q.patterns()
	if err != nil {
		return func(yield func(Entry, error) bool) { yield(Entry{}, err) }
	}
	text := string(lower(nil, q.Text))
	need := needs(q.Text)
	skip := func(b *place) bool {
		if !may(b.summary, need) {
			return true
		}
		return len(patterns) > 0 && !slices.ContainsFunc(patterns, func(p pattern) bool { return may(b.summary, p.need) })
	}
	return func(yield func(Entry, error) bool) {
		for e, err := range x.scan(ctx, volume, q.Folder, skip) {
			if err == nil {
				err = ctx.Err()
			}
			if err == nil && !q.fits(&e, patterns, text) {
				continue
			}
			if !yield(e, err) || err != nil {
				return
			}
		}
	}
}

func (q *Query) fits(e *Entry, patterns []pattern, text string) bool {
	if text != "" && !strings.Contains(string(lower(nil, e.Name())), text) {
		return false
	}
	if len(patterns) > 0 {
		p := e.Path
		if q.Fold {
			p = string(lower(nil, p))
		}
		if !slices.ContainsFunc(patterns, func(g pattern) bool { return g.fits(p) }) {
			return false
		}
	}
	return q.Keep == nil || q.Keep(e)
}

// fits looks at the last names first: they are what most paths fail by, and nothing is split for them. A path of more than
// maxParts names before those fits no glob with ** between other names.
func (g *pattern) fits(p string) bool {
	more := true // p has names that are still to fit
	i := len(g.names) - 1
	for ; i >= 0 && g.names[i] != "**"; i-- {
		if !more {
			return false
		}
		slash := strings.LastIndexByte(p, '/')
		if ok, _ := path.Match(g.names[i], p[slash+1:]); !ok {
			return false
		}
		p, more = p[:max(slash, 0)], slash >= 0
	}
	switch {
	case i < 0:
		return !more
	case i == 0:
		return true
	case !more:
		return matches(g.names[:i+1], nil)
	}
	return strings.Count(p, "/") < maxParts && matches(g.names[:i+1], strings.Split(p, "/"))
}

func (q *Query) patterns() ([]pattern, error) {
	if len(q.Globs) > maxGlobs {
		return nil, fmt.Errorf("%d globs: at most %d: %w", len(q.Globs), maxGlobs, fs.ErrInvalid)
	}
	var out []pattern
	for _, g := range q.Globs {
		if len(g) > 4096 {
			return nil, fmt.Errorf("glob of %d bytes: %w", len(g), fs.ErrInvalid)
		}
		text := g
		if q.Fold {
			text = string(lower(nil, g))
		}
		p := pattern{names: strings.Split(strings.Trim(text, "/"), "/")}
		if !strings.Contains(g, "/") {
			p.names = append([]string{"**"}, p.names...)
		}
		p.names = slices.CompactFunc(p.names, func(a, b string) bool { return a == "**" && b == "**" })
		if len(p.names) > 60 {
			return nil, fmt.Errorf("glob %.100q: too many folders: %w", g, fs.ErrInvalid)
		}
		for _, name := range p.names {
			if _, err := path.Match(name, ""); err != nil || name == "" {
				return nil, fmt.Errorf("glob %.100q: %w", g, fs.ErrInvalid)
			}
		}
		p.need = literals(p.names[len(p.names)-1])
		out = append(out, p)
	}
	return out, nil
}

// literals are the groups that every name has that fits: those of the parts between what stands for something.
func literals(name string) []uint32 {
	if strings.ContainsAny(name, `\[`) {
		return nil
	}
	var out []uint32
	for part := range strings.FieldsFuncSeq(name, func(r rune) bool { return r == '*' || r == '?' }) {
		out = append(out, needs(part)...)
	}
	return out
}

// matches reports whether a path fits a glob. A set of positions is a bit mask: no glob takes longer than its length times
// the path's.
func matches(glob, names []string) bool {
	at := skipAny(glob, 1)
	for _, name := range names {
		var next uint64
		for i, g := range glob {
			if at>>i&1 == 0 {
				continue
			}
			if g == "**" {
				next |= 1 << i
			} else if ok, _ := path.Match(g, name); ok {
				next |= 1 << (i + 1)
			}
		}
		if at = skipAny(glob, next); at == 0 {
			return false
		}
	}
	return at>>len(glob)&1 != 0
}

// skipAny adds the positions that are reached without a name.
func skipAny(glob []string, at uint64) uint64 {
	for i, g := range glob {
		if g == "**" && at>>i&1 != 0 {
			at |= 1 << (i + 1)
		}
	}
	return at
}

// Within reports whether a path is that folder or below it.
func Within(p, folder string) bool { return list.Within(p, folder) }
