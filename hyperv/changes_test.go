package hyperv

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae"
	"github.com/hikae/hikae/hyperv/hypervtest"
)

// Whatever a host's answer to a call that changes something is, and whether it comes: the point is right or there is none, a sweep
// of what the journal still has leaves nothing, and the next increment is right.
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
		for k, m := range methods {
			if !longTier() && (i+k)%8 != 3 {
				continue // a part of them: the long tier has all
			}
			t.Run(c.name+" "+m, func(t *testing.T) {
				t.Parallel()
				l := newLab(t, hypervtest.Options{})
				g, p := l.vm("web1", nil), l.provider(&ProviderOptions{NoTracking: false})
				base, _, err := l.backup(p, g, nil, nil)
				require.NoError(t, err)
				l.fake.Fail(c.fault(m))
				if m == "DestroySnapshot" {
					p = l.provider(&ProviderOptions{NoTracking: true})
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
					require.NoError(t, p.Undo(t.Context(), e, keep))
				}
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
