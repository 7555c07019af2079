package selftest

import (
	"context"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"

	"github.com/hikae/hikae"
	"github.com/hikae/hikae/hyperv"
	"github.com/hikae/hikae/job/selftest"
	"github.com/hikae/hikae/pipe"
)

// state is what a test must leave as it was.
type state struct {
	state hyperv.State
	files map[string]string // that the disks stand on, by key
}

// look asks what the VM is like now, and notes what runs it.
func (t *test) look(ctx context.Context) (s state, err error) {
	h, err := t.site.Owner(ctx, t.vm)
	if err != nil {
		return s, err
	}
	m, err := h.Machine(ctx, t.vm)
	if err != nil {
		return s, err
	}
	s = state{state: m.State, files: map[string]string{}}
	for _, d := range m.Disks {
		s.files[d.Key] = d.Path
		t.secret = append(t.secret, d.Path, d.ParentPath)
	}
	info := h.Info()
	t.secret = append(t.secret, info.Name, t.site.Address())
	maps.Copy(t.facts, map[string]string{"host release": fmt.Sprintf("%s, build %s", info.OS, info.Version), "cluster": "no"})
	if c, err := t.site.Cluster(ctx); err == nil && c != nil {
		t.secret = append(t.secret, c.Name)
		t.facts["cluster"] = fmt.Sprintf("%d nodes", len(c.Nodes))
	}
	return s, nil
}

// leftSince says in words what is there now and was not before.
func (s state) leftSince(before state) string {
	for _, key := range slices.Sorted(maps.Keys(s.files)) {
		if was := before.files[key]; was != "" && !strings.EqualFold(was, s.files[key]) {
			return fmt.Sprintf("disk %s stood on %s, and stands on %s: a merge goes on, or a checkpoint was left; `hikae hyperv sweep` looks after it, if it is one of ours", key, was, s.files[key])
		}
	}
	return ""
}

// drop gives up the reference points of the test's last point.
func (t *test) drop(ctx context.Context, point *pipe.PointInfo) error {
	var ids []hikae.ChangeID
	for _, id := range point.Tracking {
		ids = append(ids, hikae.ChangeID(id))
	}
	if err := t.provider.Forget(ctx, t.vm, ids); err != nil {
		return fmt.Errorf("the test's reference points were left: %w", err)
	}
	return nil
}

// tell makes of a result what may be sent away.
func (t *test) tell(r selftest.Result) selftest.Result {
	if r.Facts == nil {
		r.Facts = map[string]string{}
	}
	maps.Copy(r.Facts, t.facts)
	for k := range r.Facts {
		switch {
		case t.opts.Names:
		case k == "host" || strings.HasPrefix(k, "disk.") || k == "checkpoint" || k == "set":
			t.secret = append(t.secret, r.Facts[k])
			delete(r.Facts, k)
		case k != "host release" && k != "hostVersion" && k != "hostOS": // a release looks like an address
			r.Facts[k] = t.discreet(r.Facts[k])
		}
	}
	for i, s := range r.Steps {
		r.Steps[i] = t.discreetStep(s)
	}
	for i := range r.Disks {
		r.Disks[i].Skip = t.discreet(r.Disks[i].Skip)
	}
	return r
}

func (t *test) discreetStep(s selftest.Step) selftest.Step {
	s.Detail = t.discreet(s.Detail)
	return s
}

var (
	anAddress = regexp.MustCompile(`\b\d{1,3}(\.\d{1,3}){3}(:\d+)?\b|\[[0-9a-fA-F:.]*:[0-9a-fA-F:.]*\](:\d+)?`)
	aFile     = regexp.MustCompile(`(?:\b[A-Za-z]:|\\)\\[^\s,;"]+`) // C:\…, \\server\share\…
)

// discreet is a text without the names that are not to be told.
func (t *test) discreet(text string) string {
	if t.opts.Names {
		return text
	}
	for _, name := range t.secret {
		if len(name) > 2 {
			text = strings.ReplaceAll(text, name, "…")
		}
	}
	return aFile.ReplaceAllString(anAddress.ReplaceAllString(text, "…"), "…")
}
