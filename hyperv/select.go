package hyperv

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strings"

	"github.com/hikae/hikae/hyperv/cim"
)

// Selection names VMs of a site. An empty one is all of them.
type Selection struct {
	VMs      []string // GUIDs; a name where only one VM has it
	Patterns []string // of names: as path.Match has them, case does not count
}

func (s Selection) check() error {
	for _, p := range s.Patterns {
		if _, err := path.Match(p, ""); err != nil {
			return fmt.Errorf("match: %w: a pattern has * and ? and [a-z]", fs.ErrInvalid)
		}
	}
	return nil
}

// AmbiguousError says that several VMs have a name: they are told by GUID.
type AmbiguousError struct {
	Name string
	IDs  []string
}

func (e *AmbiguousError) Error() string {
	return fmt.Sprintf("%d VMs are called %q: name one by its GUID, of %s", len(e.IDs), e.Name, strings.Join(e.IDs, ", "))
}

// Select finds the GUIDs of what is selected, in the order of the names given, each once; nil for all VMs. A name that nobody has is
// fs.ErrNotExist, one that several have an *AmbiguousError. Where hosts cannot be asked, names are not taken: another VM of
// the same name may be there. What only reads may use [Site.SelectReachable].
func (s *Site) Select(ctx context.Context, sel Selection) ([]string, error) {
	ids, lost, err := s.SelectReachable(ctx, sel)
	if err == nil && lost != nil {
		ids, err = nil, fmt.Errorf("VMs are looked for by name, and not every host can be asked: %w", lost)
	}
	return ids, err
}

// SelectReachable is [Site.Select] for work that goes on where hosts do not answer: it takes names as those know them that do. The others'
// errors are lost, beside a list that is good; nil where nobody had to be asked. A name that none of the hosts knows is lost as well
// where some did not answer, and fs.ErrNotExist where all did.
func (s *Site) SelectReachable(ctx context.Context, sel Selection) (ids []string, lost, err error) {
	if err := sel.check(); err != nil {
		return nil, nil, err
	}
	if len(sel.VMs) == 0 && len(sel.Patterns) == 0 {
		return nil, nil, nil
	}
	var named map[string][]string
	if len(sel.Patterns) > 0 || slices.ContainsFunc(sel.VMs, func(v string) bool { return !isGUID(v) }) {
		if named, lost = s.names(ctx); ctx.Err() != nil {
			return nil, nil, context.Cause(ctx)
		}
		if lost != nil && len(named) == 0 {
			return nil, nil, fmt.Errorf("VMs are looked for by name, and not every host can be asked: %w", lost)
		}
	}
	ids, unknown, err := s.pick(sel, named, lost != nil)
	return ids, errors.Join(lost, unknown), err
}

// pick finds what is selected by names. One that nobody has is unknown where there is a chance that somebody else has it.
func (s *Site) pick(sel Selection, named map[string][]string, partly bool) (ids []string, unknown, err error) {
	add := func(id string) {
		if id = strings.ToLower(id); !slices.Contains(ids, id) {
			ids = append(ids, id)
		}
	}
	for _, vm := range sel.VMs {
		switch has := named[vm]; {
		case isGUID(vm):
			add(vm)
		case len(has) == 1:
			add(has[0])
		case len(has) > 1:
			return nil, nil, &AmbiguousError{Name: vm, IDs: has}
		case partly:
			unknown = errors.Join(unknown, fmt.Errorf("VM %q is on none of the hosts that answer", brief(vm)))
		default:
			return nil, nil, fmt.Errorf("VM %q: %w on %s", brief(vm), fs.ErrNotExist, s.name)
		}
	}
	for _, p := range sel.Patterns {
		matched, err := match(named, p)
		if err != nil {
			return nil, nil, err
		}
		if len(matched) == 0 && !partly {
			return nil, nil, fmt.Errorf("match %q: %w: no VM of %s is called so", brief(p), fs.ErrNotExist, s.name)
		}
		for _, id := range matched {
			add(id)
		}
	}
	return ids, unknown, nil
}

func match(named map[string][]string, pattern string) (ids []string, err error) {
	for name, has := range named {
		ok, err := path.Match(strings.ToLower(pattern), strings.ToLower(name))
		if err != nil {
			return nil, fmt.Errorf("match %q: %w", brief(pattern), err)
		}
		if ok {
			ids = append(ids, has...)
		}
	}
	slices.Sort(ids)
	return ids, nil
}

// names are all VMs' GUIDs, by name, and the errors of hosts that do not answer. A VM that is on its way is on two hosts, and one VM.
func (s *Site) names(ctx context.Context) (map[string][]string, error) {
	hosts, lost := s.Hosts(ctx)
	named := map[string][]string{}
	for _, h := range hosts {
		list, err := h.list(ctx)
		if err != nil {
			lost = errors.Join(lost, fmt.Errorf("host %s: %w", h.info.Name, err))
			continue
		}
		for _, in := range list {
			id, name := strings.ToLower(in.Text("Name")), in.Text("ElementName")
			if !slices.Contains(named[name], id) {
				named[name] = append(named[name], id)
			}
		}
	}
	for name := range named {
		slices.Sort(named[name])
	}
	return named, lost
}

// list is a host's VMs as they are listed. The host itself is of the same class: what tells it from a VM in every language is that
// its name is no GUID.
func (h *Host) list(ctx context.Context) (vms []*cim.Instance, err error) {
	ctx, cancel := h.bounded(ctx)
	defer cancel()
	all, err := cim.All(h.client.Query(ctx, h.space(), "SELECT * FROM Msvm_ComputerSystem", nil))
	if err != nil {
		return nil, err
	}
	for _, in := range all {
		if isGUID(in.Text("Name")) {
			vms = append(vms, in)
		}
	}
	return vms, nil
}

// Is: a name that is not unique is not a name.
func (e *AmbiguousError) Is(target error) bool { return target == fs.ErrInvalid }
