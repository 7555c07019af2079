package hyperv

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae"
	"github.com/hikae/hikae/hyperv/hypervtest"
)

// Whatever a host's answer to a call that changes something is, and whether it comes: the point is right or there is none, a sweep
// of what the journal still has leaves nothing but what nothing proves to be ours, which is told, and the next increment is right. Checkpoints
// are proven by their names, on a host that keeps them, or by the job; reference points by the job alone.
func TestAnswersThatGoWrong(t *testing.T) {
	methods := []string{"CreateSnapshot", "ModifySystemSettings", "ConvertToReferencePoint", "DestroyReferencePoint", "DestroySnapshot"}
	for i, c := range []struct {
		name  string
		fault func(method string) hypervtest.Fault
	}{
		{"answer lost", func(m string) hypervtest.Fault {
			return hypervtest.Fault{Call: m, Failure: &hypervtest.Failure{Lose: true}}
		}},
		{"never arrived", func(m string) hypervtest.Fault {
			return hypervtest.Fault{Call: m, Failure: &hypervtest.Failure{Cut: true}}
		}},
		{"refused", func(m string) hypervtest.Fault { return hypervtest.Fault{Call: m, Code: 32768} }},
		{"busy once", func(m string) hypervtest.Fault { return hypervtest.Fault{Call: m, Code: 32775} }},
		{"job fails", func(m string) hypervtest.Fault { return hypervtest.Fault{Job: m, Code: 32768, Reason: "it failed"} }},
		{"done and fails", func(m string) hypervtest.Fault {
			return hypervtest.Fault{Job: m, Code: 32768, Reason: "it failed", Done: true}
		}},
		{"job is gone", func(m string) hypervtest.Fault { return hypervtest.Fault{Job: m, Gone: true} }},
		{"warnings", func(m string) hypervtest.Fault { return hypervtest.Fault{Job: m, Warn: true} }},
	} {
		for k, m := range append(methods, methods[:2]...) {
			if !longTier() && (i+k)%8 != 3 {
				continue // a part of them: the long tier has all
			}
			nameless := k >= len(methods)
			t.Run(fmt.Sprintf("%s %s nameless %v", c.name, m, nameless), func(t *testing.T) {
				t.Parallel()
				l := newLab(t, hypervtest.Options{DropNames: nameless})
				var told []string
				o := ProviderOptions{CheckpointLimit: 20 * time.Second, Warn: func(_, text string) { told = append(told, text) }}
				if nameless {
					o.CheckpointLimit = 4 * time.Second
				}
				g, p := l.vm("web1", nil), l.provider(&o)
				base, _, err := l.backup(p, g, nil, nil)
				require.NoError(t, err)
				l.fake.Fail(c.fault(m))
				if m == "DestroySnapshot" {
					o.NoTracking = true
					p = l.provider(&o)
				}
				j := newNote()
				pt, _, err := l.backup(p, g, base, j)
				if err != nil {
					t.Log(err)
				} else {
					l.same(g, pt)
				}
				keep := []hikae.ChangeID{}
				last := base
				if pt != nil && pt.committed {
					last = pt
				}
				for _, of := range []*point{base, last} {
					for _, id := range of.ids {
						keep = append(keep, id)
					}
				}
				for _, e := range j.left() {
					err := p.Undo(t.Context(), older(e), keep)
					if nameless && m == "CreateSnapshot" && unansweredFaults[c.name] {
						require.Equal(t, g.Checkpoints(), candidatesOf(t, err))
						require.NoError(t, g.RemoveCheckpoint(g.Checkpoints()[0])) // a person's decision
						continue
					}
					require.NoError(t, err)
				}
				var unproven []string
				if m == "ConvertToReferencePoint" && unansweredFaults[c.name] {
					for _, id := range l.fake.ReferencePoints(g.ID()) {
						if !slices.Contains(refs(last), id) {
							require.Contains(t, strings.Join(told, "\n"), id+", made")
							unproven = append(unproven, id)
						}
					}
					require.Len(t, unproven, 1)
				}
				require.NoError(t, p.dropReferences(t.Context(), g.ID(), unproven))
				l.clean(g, refs(last)...)
				next, _, err := l.backup(l.provider(nil), g, last, newNote())
				require.NoError(t, err)
				l.same(g, next)
				if len(last.ids) > 0 {
					require.Empty(t, next.lost)
				}
			})
		}
	}
}

// unansweredFaults leave it open what the host made.
var unansweredFaults = map[string]bool{"answer lost": true, "job is gone": true}

// §1.1.4: a checkpoint is in listings a while after its job has ended only.
func TestLateListing(t *testing.T) {
	t.Parallel()
	l := newLab(t, hypervtest.Options{Late: 700 * time.Millisecond})
	g := l.vm("web1", nil)
	pt, _, err := l.backup(l.provider(nil), g, nil, newNote())
	require.NoError(t, err)
	l.same(g, pt)
	l.clean(g, refs(pt)...)
}
