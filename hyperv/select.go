package hyperv

import (
	"context"
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
// the same name may be there.
func (s *Site) Select(ctx context.Context, sel Selection) ([]string, error) {
	if err := sel.check(); err != nil {
		return nil, err
	}
	if len(sel.VMs) == 0 && len(sel.Patterns) == 0 {
		return nil, nil
	}
	var named map[string][]string
	if len(sel.Patterns) > 0 || slices.ContainsFunc(sel.VMs, func(v string) bool { return !isGUID(v) }) {
		var err error
		if named, err = s.names(ctx); err != nil {
			return nil, err
		}
	}
	var ids []string
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
			return nil, &AmbiguousError{Name: vm, IDs: has}
		default:
			return nil, fmt.Errorf("VM %q: %w on %s", brief(vm), fs.ErrNotExist, s.name)
		}
	}
	for _, p := range sel.Patterns {
		matched, err := match(named, p)
		if err != nil {
			return nil, err
		}
		if len(matched) == 0 {
			return nil, fmt.Errorf("match %q: %w: no VM of %s is called so", brief(p), fs.ErrNotExist, s.name)
		}
		for _, id := range matched {
			add(id)
		}
	}
	return ids, nil
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

// names are all VMs' GUIDs, by name. A VM that is on its way is on two hosts, and one VM.
func (s *Site) names(ctx context.Context) (map[string][]string, error) {
	hosts, err := s.Hosts(ctx)
	if err != nil {
		return nil, fmt.Errorf("VMs are looked for by name, and not every host can be asked: %w", err)
	}
	named := map[string][]string{}
	for _, h := range hosts {
		list, err := h.list(ctx)
		if err != nil {
			return nil, fmt.Errorf("host %s: %w", h.info.Name, err)
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
	return named, nil
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
