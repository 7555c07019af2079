package retention

import (
	"slices"
	"strings"
	"testing"
	"time"
	_ "time/tzdata" // the zones are the same on every machine

	"github.com/stretchr/testify/require"
)

// pts reads one point a line: id, time with offset ("-" for none), and words: holed, crash, fs, app, off, hold:x, tag:x.
// Points are of VM "vm" and without such words whole and application-consistent.
func pts(t testing.TB, text string) []Point {
	t.Helper()
	var points []Point
	for line := range strings.Lines(text) {
		words := strings.Fields(line)
		if len(words) == 0 {
			continue
		}
		p := Point{ID: words[0], VM: "vm", Log: uint64(10 * (len(points) + 1)), Consistency: Application, Whole: true}
		if words[1] != "-" {
			at, err := time.Parse(time.RFC3339, words[1])
			require.NoError(t, err)
			p.Time = at
		}
		for _, word := range words[2:] {
			mark(t, &p, word)
		}
		points = append(points, p)
	}
	return points
}

func mark(t testing.TB, p *Point, word string) {
	kinds := map[string]Consistency{"unknown": Unknown, "crash": Crash, "fs": Filesystem, "app": Application, "off": Offline}
	if c, ok := kinds[word]; ok {
		p.Consistency = c
		return
	}
	switch kind, name, _ := strings.Cut(word, ":"); kind {
	case "holed":
		p.Whole = false
	case "hold":
		p.Holds = append(p.Holds, name)
	case "tag":
		p.Tags = append(p.Tags, name)
	default:
		t.Fatalf("unknown word %q", word)
	}
}

func mustParse(t testing.TB, text string) Policy {
	t.Helper()
	p, err := Parse(text)
	require.NoError(t, err)
	return p
}

func zone(t testing.TB, name string) *time.Location {
	t.Helper()
	loc, err := time.LoadLocation(name)
	require.NoError(t, err)
	return loc
}

func decide(t testing.TB, points []Point, policy string, opts *Options) *Plan {
	t.Helper()
	plan, err := Decide(points, mustParse(t, policy), opts)
	require.NoError(t, err)
	require.Len(t, plan.Decisions, len(points))
	return plan
}

func ids(plan *Plan, keep bool) []string {
	var list []string
	for d := range plan.where(func(d *Decision) bool { return d.Keep == keep }) {
		list = append(list, d.Point.ID)
	}
	return list
}

func kept(plan *Plan) string { return strings.Join(ids(plan, true), " ") }

func of(t testing.TB, plan *Plan, id string) Decision {
	t.Helper()
	i := slices.IndexFunc(plan.Decisions, func(d Decision) bool { return d.Point.ID == id })
	require.GreaterOrEqual(t, i, 0, id)
	return plan.Decisions[i]
}

func words(d Decision) string {
	var all []string
	for _, r := range d.Reasons {
		all = append(all, r.String())
	}
	return strings.Join(all, "; ")
}
