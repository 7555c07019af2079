package exclude

import (
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strings"
	"unicode"
)

// Bounds of what a user may ask for.
const (
	maxGlobs        = 256
	maxGlobBytes    = 4096
	maxGlobSegments = 60
)

// glob is one rule about files.
//
// A position in it is a number of segments that fit the folders passed so far; a set of positions is a bit mask.
type glob struct {
	text     string
	include  bool
	volume   string // empty: every volume
	segments []segment
}

// segment is what one name must fit. A segment that is any stands for any number of names.
type segment struct {
	any     bool
	literal bool
	text    string
	folded  string // for file systems that do not know case
}

// parseGlob reads one rule: see [Options.Files].
func parseGlob(text string) (glob, error) {
	g := glob{text: text}
	bad := func(why string) (glob, error) { return glob{}, fmt.Errorf("glob %q: %s: %w", text, why, fs.ErrInvalid) }
	if len(text) > maxGlobBytes || strings.ContainsRune(text, 0) {
		return bad("too long, or with a NUL")
	}
	rest, include := strings.CutPrefix(text, "!")
	g.include = include
	if volume, inside, ok := strings.Cut(rest, "::"); ok {
		if g.volume, rest = volume, inside; volume == "" {
			return bad("no volume before ::")
		}
	}
	anywhere := !strings.Contains(rest, "/")
	if rest = strings.Trim(rest, "/"); rest == "" {
		return bad("it names nothing; ** is every file")
	}
	if anywhere {
		g.segments = append(g.segments, segment{any: true})
	}
	for name := range strings.SplitSeq(rest, "/") {
		if name == "" || name == "." || name == ".." {
			return bad("an empty name, . or .. between slashes")
		}
		if _, err := path.Match(name, ""); err != nil {
			return bad("brackets or a backslash that do not end")
		}
		s := segment{any: name == "**", literal: !strings.ContainsAny(name, `*?[\`), text: name, folded: fold(name)}
		if last := len(g.segments) - 1; s.any && last >= 0 && g.segments[last].any {
			continue
		}
		g.segments = append(g.segments, s)
	}
	if len(g.segments) > maxGlobSegments {
		return bad("too many folders")
	}
	return g, nil
}

// fold makes names that differ in case the same.
func fold(s string) string {
	return strings.Map(func(c rune) rune { return unicode.ToLower(unicode.ToUpper(c)) }, s)
}

func (s *segment) fits(name string, folded bool) bool {
	text := s.text
	if folded {
		text = s.folded
	}
	if s.literal {
		return text == name
	}
	ok, _ := path.Match(text, name)
	return ok
}

// start is the set of positions before the first name.
func (g *glob) start() uint64 { return g.close(1) }

// close adds the positions that are reached without a name.
func (g *glob) close(set uint64) uint64 {
	for i := range g.segments {
		if g.segments[i].any && set>>i&1 != 0 {
			set |= 1 << (i + 1)
		}
	}
	return set
}

// step is the set after one more name. name is folded where the file system does not know case.
func (g *glob) step(set uint64, name string, folded bool) uint64 {
	var next uint64
	for i := range g.segments {
		if set>>i&1 == 0 {
			continue
		}
		switch s := &g.segments[i]; {
		case s.any:
			next |= 1 << i
		case s.fits(name, folded):
			next |= 1 << (i + 1)
		}
	}
	return g.close(next)
}

// done reports whether the whole glob fits.
func (g *glob) done(set uint64) bool { return set>>len(g.segments)&1 != 0 }

// globs are the rules for one volume.
type globs struct {
	rules  []glob
	folded bool
	used   []bool // by rule: it fitted something
}

// globsFor are the rules that concern a volume that goes by these names.
func globsFor(all []glob, folded bool, names ...string) globs {
	g := globs{folded: folded}
	for _, rule := range all {
		if rule.volume == "" || slices.ContainsFunc(names, func(n string) bool { return strings.EqualFold(n, rule.volume) }) {
			g.rules = append(g.rules, rule)
		}
	}
	g.used = make([]bool, len(g.rules))
	return g
}

// excludes reports whether any rule takes something out.
func (g *globs) excludes() bool {
	return slices.ContainsFunc(g.rules, func(r glob) bool { return !r.include })
}

// spot is where a folder stands with regard to the rules.
type spot struct {
	sets     []uint64
	excluded bool // a rule that excludes fits the folder, or one above it
	kept     bool // a rule that includes does
}

func (g *globs) start() spot {
	s := spot{sets: make([]uint64, len(g.rules))}
	for i := range g.rules {
		s.sets[i] = g.rules[i].start()
		g.mark(&s, i)
	}
	return s
}

// step is the spot of a name in a folder. Its sets are in buf, which is long enough: most names lead nowhere.
func (g *globs) step(at spot, name string, buf []uint64) spot {
	if g.folded {
		name = fold(name)
	}
	next := spot{sets: buf[:len(g.rules)], excluded: at.excluded, kept: at.kept}
	clear(next.sets)
	for i := range g.rules {
		if at.sets[i] != 0 {
			next.sets[i] = g.rules[i].step(at.sets[i], name, g.folded)
			g.mark(&next, i)
		}
	}
	return next
}

func (g *globs) mark(s *spot, i int) {
	if !g.rules[i].done(s.sets[i]) {
		return
	}
	g.used[i] = true
	if g.rules[i].include {
		s.kept = true
	} else {
		s.excluded = true
	}
}

// barren reports that nothing in the folder can be excluded.
func (g *globs) barren(s spot) bool {
	if s.kept {
		return true
	}
	if s.excluded {
		return false
	}
	for i := range g.rules {
		if !g.rules[i].include && s.sets[i] != 0 {
			return false
		}
	}
	return true
}
