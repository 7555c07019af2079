package exclude

import "strings"

// Fits reports whether a rule takes the file or folder of that path, from the root and without a slash in front, and
// none keeps it. Folded, case does not matter. Rules for one volume only fit nothing here.
func (g Globs) Fits(name string, folded bool) bool {
	rules := globsFor(g.rules, folded)
	at := rules.start()
	for part := range strings.SplitSeq(name, "/") {
		at = rules.step(at, part, make([]uint64, len(rules.rules)))
	}
	return at.excluded && !at.kept
}
