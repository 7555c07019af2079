package job

import (
	"context"
	"fmt"
	"io/fs"
	"strconv"
	"strings"

	"github.com/hikae/hikae/pipe"
)

// FindPoint finds a committed point in any backend by what a person writes: a full id, a unique prefix of at least
// four digits, VM@latest, or VM@latest~N for the Nth before that. Errors wrap fs.ErrNotExist or ErrAmbiguous.
func FindPoint(ctx context.Context, backend pipe.Backend, spec string) (pipe.PointInfo, error) {
	p, err := findPoint(ctx, backend, spec)
	if err != nil {
		return p, fmt.Errorf("point %q: %w", spec, err)
	}
	return p, nil
}

func findPoint(ctx context.Context, backend pipe.Backend, spec string) (pipe.PointInfo, error) {
	if i := strings.LastIndex(spec, "@latest"); i > 0 {
		back, err := stepsBack(spec[i+len("@latest"):])
		if err != nil {
			return pipe.PointInfo{}, err
		}
		points, err := listPoints(ctx, backend, spec[:i])
		if err != nil {
			return pipe.PointInfo{}, err
		}
		if back >= len(points) {
			return pipe.PointInfo{}, fs.ErrNotExist
		}
		last := points[len(points)-1-back]
		return last.PointInfo, last.damage // an older one is not taken for it
	}
	return findByID(ctx, backend, spec)
}

func stepsBack(s string) (int, error) {
	if s == "" {
		return 0, nil
	}
	n, err := strconv.Atoi(strings.TrimPrefix(s, "~"))
	if err != nil || s[0] != '~' || n < 0 {
		return 0, fmt.Errorf("after @latest comes ~ and a number: %w", fs.ErrInvalid)
	}
	return n, nil
}

func findByID(ctx context.Context, backend pipe.Backend, spec string) (pipe.PointInfo, error) {
	points, err := listPoints(ctx, backend, "")
	if err != nil {
		return pipe.PointInfo{}, err
	}
	var found []pipe.PointInfo
	var damage error
	for _, p := range points {
		if p.damage != nil {
			damage = p.damage
			continue
		}
		if p.ID == spec {
			return p.PointInfo, nil
		}
		if len(spec) >= 4 && strings.HasPrefix(p.ID, spec) {
			found = append(found, p.PointInfo)
		}
	}
	switch len(found) {
	case 0:
		if damage != nil {
			return pipe.PointInfo{}, damage // it may be that one
		}
		return pipe.PointInfo{}, fs.ErrNotExist
	case 1:
		return found[0], nil
	}
	return pipe.PointInfo{}, fmt.Errorf("%w: %d points", ErrAmbiguous, len(found))
}

// listedPoint is a point, or what keeps it from being read.
type listedPoint struct {
	pipe.PointInfo
	damage error
}

func listPoints(ctx context.Context, backend pipe.Backend, vm string) ([]listedPoint, error) {
	var out []listedPoint
	for p, err := range backend.Points(ctx, vm) {
		if err != nil && !isDamaged(err) {
			return nil, err
		}
		if out = append(out, listedPoint{p, err}); len(out) > maxListed {
			return nil, fmt.Errorf("more than %d points", maxListed)
		}
	}
	return out, nil
}
