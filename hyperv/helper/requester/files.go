package requester

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"strings"
)

// Bounds of a walk that file descriptions with patterns ask for.
const maxDepth = 16

// find leads a production name into the set. One that is on no volume of the set is fs.ErrNotExist: the file itself is never opened.
func (s *set) find(name string) (place, string, error) {
	clean, err := cleanName(name)
	if err != nil {
		return place{}, "", err
	}
	best, path := place{}, ""
	for _, p := range s.places {
		if rest, in := below(clean, p.mount); in && len(p.mount) > len(best.mount) {
			best, path = p, rest
		}
	}
	if best.device == "" {
		return place{}, "", fmt.Errorf("%s: on no volume of the set: %w", clean, fs.ErrNotExist)
	}
	return best, path, nil
}

// open opens a file by its production name.
func (s *set) open(ctx context.Context, name string) (File, error) {
	p, path, err := s.find(name)
	if err != nil {
		return nil, err
	}
	f, err := s.vss.Open(ctx, p.device, path)
	if err != nil {
		return nil, fmt.Errorf("%s in the shadow copy: %w", name, err)
	}
	return f, nil
}

// list lists a folder by its production name.
func (s *set) list(ctx context.Context, folder string) ([]Entry, error) {
	p, path, err := s.find(folder)
	if err != nil {
		return nil, err
	}
	entries, err := s.vss.List(ctx, p.device, path)
	if err != nil {
		return nil, fmt.Errorf("%s in the shadow copy: %w", folder, err)
	}
	if len(entries) > MaxEntries {
		return nil, fmt.Errorf("%s has more than %d entries", folder, MaxEntries)
	}
	return entries, nil
}

// filesOf are a VM's files, with patterns resolved in the set. A folder that is not there has none; where the shadow copies are not on
// this machine patterns stay.
func (s *set) filesOf(ctx context.Context, m vm) (files []string, err error) {
	for _, f := range m.component.Files {
		folder := strings.TrimSuffix(f.Path, `\`)
		if !isPattern(f.Spec) && !f.Recursive || len(s.places) == 0 {
			files = append(files, folder+`\`+f.Spec)
			continue
		}
		if files, err = s.walk(ctx, folder, f, 0, files); err != nil {
			return nil, fmt.Errorf("VM %s: %w", m.id, err)
		}
	}
	return files, nil
}

func (s *set) walk(ctx context.Context, folder string, f FileSet, depth int, files []string) ([]string, error) {
	entries, err := s.list(ctx, folder+`\`)
	if err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return files, nil
		}
		return nil, err
	}
	for _, e := range entries {
		if badPart(e.Name) != "" {
			continue // no name that we could ask for
		}
		name := folder + `\` + e.Name
		switch {
		case e.Dir && f.Recursive && depth < maxDepth:
			if files, err = s.walk(ctx, name, f, depth+1, files); err != nil {
				return nil, err
			}
		case !e.Dir && (f.Spec == "" || matches(f.Spec, e.Name)):
			if files = append(files, name); len(files) > maxFiles {
				return nil, fmt.Errorf("more than %d files", maxFiles)
			}
		}
	}
	return files, nil
}
