package fsrvp

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"

	"github.com/hikae/hikae"
	"github.com/hikae/hikae/hyperv"
	"github.com/hikae/hikae/pipe"
)

// Name is how the snapshotter is called in plans, reports and effects.
const Name = "fsrvp"

const kindSet = "hyperv.volume.fsrvp"

// Snapshotter pins shares for a provider of package hyperv.
type Snapshotter struct {
	// Login is who logs on to a file server.
	Login func(ctx context.Context, server string) (Login, error)
	// Files opens files of file servers by UNC names, those of exposed shares too.
	Files hyperv.Files
	Options
}

var _ hyperv.VolumeSnapshotter = (*Snapshotter)(nil)

// Name implements [hyperv.VolumeSnapshotter].
func (s *Snapshotter) Name() string { return Name }

func (s *Snapshotter) dial(ctx context.Context, server string) (*Conn, error) {
	who, err := s.Login(ctx, server)
	if err != nil {
		return nil, err
	}
	return Dial(ctx, server, who, &s.Options)
}

// shareOf is the share that a file lies on, \\server\share, and what it is called there.
func shareOf(file string) (share, rest string, ok bool) {
	rest, ok = strings.CutPrefix(file, `\\`)
	parts := strings.SplitN(rest, `\`, 3)
	if !ok || len(parts) != 3 || parts[0] == "" || parts[0] == "?" || parts[0] == "." || parts[1] == "" || parts[2] == "" {
		return "", "", false
	}
	return `\\` + parts[0] + `\` + parts[1], parts[2], true
}

// Volume implements [hyperv.VolumeSnapshotter]: it is the share. Whether the server makes shadow copies of it is asked.
func (s *Snapshotter) Volume(ctx context.Context, _, file string) (string, error) {
	share, _, ok := shareOf(file)
	if !ok {
		return "", fmt.Errorf("%s is on no share: %w", file, errors.ErrUnsupported)
	}
	server, _, _ := splitShare(share)
	c, err := s.dial(ctx, server)
	if err != nil {
		return "", err
	}
	defer c.Close()
	if _, err := c.Supported(ctx, share); err != nil {
		return "", err
	}
	return strings.ToLower(share), nil
}

// Take implements [hyperv.VolumeSnapshotter]. Shares of one server are of one moment; each server has a set of its own.
func (s *Snapshotter) Take(ctx context.Context, host, mark string, volumes []string, j hikae.Journal) (hyperv.VolumeSnapshot, error) {
	byServer := map[string][]string{}
	var servers []string
	for _, share := range volumes {
		server, _, ok := splitShare(share)
		if !ok {
			return nil, fmt.Errorf("%s is no share: %w", share, fs.ErrInvalid)
		}
		if byServer[server] == nil {
			servers = append(servers, server)
		}
		byServer[server] = append(byServer[server], share)
	}
	pin := &pinned{snapshotter: s}
	for _, server := range servers {
		if err := pin.take(ctx, server, mark, byServer[server], j); err != nil {
			return nil, errors.Join(err, pin.Delete(context.WithoutCancel(ctx)))
		}
	}
	return pin, nil
}

// pinned is the sets of one snapshot.
type pinned struct {
	snapshotter *Snapshotter
	sets        []*taken
}

type taken struct {
	server string
	set    Set
	done   func(context.Context) error
}

func (p *pinned) take(ctx context.Context, server, mark string, shares []string, j hikae.Journal) error {
	c, err := p.snapshotter.dial(ctx, server)
	if err != nil {
		return err
	}
	defer c.Close()
	// In a cluster of file servers another machine may own the share.
	owner, err := c.Supported(ctx, shares[0])
	if err != nil {
		return err
	}
	return p.made(ctx, c, server, owner, mark, shares, j)
}

// made makes the set of one server. Its effect is written down when it is begun, as a server waits half an hour for one whose session died
// then, and again with its copies. It stays in the journal where the set could not be taken back.
func (p *pinned) made(ctx context.Context, c *Conn, server, owner, mark string, shares []string, j hikae.Journal) error {
	t := &taken{server: server, done: func(context.Context) error { return nil }}
	set, err := c.Take(ctx, shares, func(set Set) error {
		if j == nil {
			return nil
		}
		e := hikae.Effect{Kind: kindSet, Facts: map[string]string{"snapshotter": Name, "server": server, "owner": owner, "mark": mark, "set": set.ID}}
		for i, one := range set.Copies {
			e.Facts[fmt.Sprintf("copy%d", i)] = one.ID + " " + one.Share
		}
		done, err := j.Intend(ctx, e)
		if err != nil {
			return err
		}
		first := t.done
		t.done = done
		return first(ctx)
	})
	if err != nil {
		if left := (*LeftError)(nil); !errors.As(err, &left) {
			err = errors.Join(err, t.done(context.WithoutCancel(ctx)))
		}
		return err
	}
	t.set = set
	p.sets = append(p.sets, t)
	return nil
}

// ID implements [hyperv.VolumeSnapshot].
func (p *pinned) ID() string {
	var ids []string
	for _, t := range p.sets {
		ids = append(ids, t.set.ID)
	}
	return strings.Join(ids, "+")
}

// Open implements [hyperv.Files]: a production name leads to the same file in the exposed share, and any other nowhere.
func (p *pinned) Open(ctx context.Context, name string) (pipe.Image, error) {
	share, rest, ok := shareOf(name)
	if !ok {
		return nil, fmt.Errorf("%s is on no share: %w", name, fs.ErrNotExist)
	}
	for _, t := range p.sets {
		for _, one := range t.set.Copies {
			if strings.EqualFold(one.Share, share) {
				return p.snapshotter.Files.Open(ctx, one.Exposed+`\`+rest)
			}
		}
	}
	return nil, fmt.Errorf("%s is on none of the pinned shares: %w", name, fs.ErrNotExist)
}

// Delete implements [hyperv.VolumeSnapshot].
func (p *pinned) Delete(ctx context.Context) error {
	var errs []error
	p.sets = slices.DeleteFunc(p.sets, func(t *taken) bool {
		err := p.snapshotter.drop(ctx, t.server, t.set)
		if err == nil {
			err = t.done(ctx)
		}
		errs = append(errs, err)
		return err == nil
	})
	return errors.Join(errs...)
}

func (s *Snapshotter) drop(ctx context.Context, server string, set Set) error {
	c, err := s.dial(ctx, server)
	if err != nil {
		return err
	}
	defer c.Close()
	return c.Delete(ctx, set)
}

// maxShares bounds what an effect names.
const maxShares = 64

// Undo implements [hyperv.VolumeSnapshotter].
func (s *Snapshotter) Undo(ctx context.Context, e hikae.Effect) error {
	set := Set{ID: e.Facts["set"]}
	for i := range maxShares {
		id, share, ok := strings.Cut(e.Facts[fmt.Sprintf("copy%d", i)], " ")
		if !ok {
			break
		}
		set.Copies = append(set.Copies, Copy{ID: id, Share: share})
	}
	if e.Facts["server"] == "" || set.ID == "" {
		return fmt.Errorf("effect %s: it names no server or no set: %w", e.ID, fs.ErrInvalid)
	}
	return s.drop(ctx, e.Facts["server"], set)
}
