package vmware

import (
	"context"
	"strings"
)

const (
	maxTold  = 16   // findings of a preflight that are told of one snapshot
	maxNotes = 1024 // bytes of those that stand with the VM's facts
)

// preflight looks for what would stop the backup before anything is touched: that is a *PreflightError. What weakens it is a
// warning, where the snapshot or its disks do not say so themselves, and what is worth knowing stands with the VM's facts.
func (s *snapshot) preflight(ctx context.Context) error {
	p := s.provider
	if p.opts.SkipPreflight {
		return nil
	}
	f := &preflight{c: s.client, m: s.was, out: &Preflight{VM: s.ref.Value, Name: s.was.Name}, o: PreflightOptions{
		Transports: p.transports, KeepTracking: p.opts.KeepTracking, FreePercent: p.opts.FreePercent, DeltaBytes: p.opts.DeltaBytes,
		Quiesce: NoQuiesce, // whether the guest can be is seen when it is tried
	}}
	f.o.defaults()
	if err := f.look(ctx); err != nil {
		return err
	}
	if err := f.out.Err(); err != nil {
		return err
	}
	s.tell(f.out.Findings)
	return nil
}

// tell passes on what was found.
func (s *snapshot) tell(findings []Finding) {
	var notes []string
	told := 0
	for _, f := range findings {
		if f.told {
			continue
		}
		if told++; told > maxTold {
			s.warn("a preflight has more to say of the VM than is told here")
			break
		}
		if f.Severity == Note {
			notes = append(notes, f.Object+": "+f.What)
		} else {
			s.warn("%s: %s", f.Object, f.What)
		}
	}
	if len(notes) > 0 {
		text := strings.Join(notes, "; ")
		s.vm.Facts["preflight"] = strings.ToValidUTF8(text[:min(len(text), maxNotes)], "")
	}
}
