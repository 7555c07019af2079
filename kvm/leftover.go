package kvm

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/hikae/hikae"
	"github.com/hikae/hikae/internal/freespace"
	"github.com/hikae/hikae/kvm/qga"
	"github.com/hikae/hikae/kvm/qmp"
)

// Leftover is something in a QEMU or its guest that bears Hikae's mark.
type Leftover struct {
	Kind    string `json:"kind"` // export, node, bitmap, folder, frozen
	Name    string `json:"name"`
	On      string `json:"on,omitempty"`   // the node that a bitmap is on
	Kept    string `json:"kept,omitempty"` // why it stays
	Removed bool   `json:"removed"`
}

// LeftoverOptions change what [Provider.SweepLost] removes. Nil and zero fields are good defaults.
type LeftoverOptions struct {
	// DryRun only looks.
	DryRun bool
	// Keep are the change ids that restore points name: [job.KeepIDs] of every repository that the VM is backed up to.
	// Bitmaps that are none of them go. Nil: nobody knows, and no bitmap goes that a point may need.
	Keep []hikae.ChangeID
	// Thaw thaws a frozen guest, whoever froze it.
	Thaw bool
	// Watch is how long is looked whether somebody is at work. Zero: 3 s.
	Watch time.Duration
}

// Leftovers lists what bears Hikae's mark in a machine, by the monitor alone. Bitmaps that points name are among it.
func (p *Provider) Leftovers(ctx context.Context, id string) ([]Leftover, error) {
	return p.SweepLost(ctx, id, &LeftoverOptions{DryRun: true, Watch: -1})
}

// SweepLost removes what sessions left whose journal is lost: [Provider.Undo] is for those that have one. All is found by
// its name, and what has no such name is not touched. Where a session seems to be alive it is a [*hikae.BusyError], and
// nothing is removed.
//
// The list holds what was found, also on error.
func (p *Provider) SweepLost(ctx context.Context, id string, opts *LeftoverOptions) ([]Leftover, error) {
	o := LeftoverOptions{}
	if opts != nil {
		o = *opts
	}
	if o.Watch == 0 {
		o.Watch = 3 * time.Second
	}
	m, err := p.machine(id)
	if err != nil {
		return nil, err
	}
	first, err := p.survey(ctx, m)
	if err != nil || o.Watch < 0 {
		return first.list(&o), err
	}
	if err := first.alive(); err != nil {
		return first.list(&o), err
	}
	select { // a session that is at work changes what is there
	case <-time.After(o.Watch):
	case <-ctx.Done():
		return first.list(&o), ctx.Err()
	}
	again, err := p.survey(ctx, m)
	if err != nil {
		return first.list(&o), err
	}
	list := again.list(&o)
	if err := again.alive(); err != nil {
		return list, err
	}
	if !slices.Equal(first.names, again.names) {
		return list, &hikae.BusyError{What: "VM " + id, Owner: "a session that is at work: what bears its mark has just changed"}
	}
	if o.DryRun {
		return list, nil
	}
	return list, p.removeLost(ctx, m, again, list, &o)
}

// survey is what bears a mark, by session.
type survey struct {
	sessions map[string]*footprint
	names    []string // of all that is there, to be compared
	found    []Leftover
	frozen   bool
}

var marked = regexp.MustCompile(`^(hikae-[a-z2-7]{16})(?:-([a-z]+)([0-9]*))?$`)

func (p *Provider) survey(ctx context.Context, m Machine) (*survey, error) {
	s := &survey{sessions: map[string]*footprint{}}
	mon, err := p.dial(ctx, m.QMP)
	if err != nil {
		return s, err
	}
	defer mon.Close()
	g, err := takeGraph(ctx, mon)
	if err != nil {
		return s, err
	}
	for _, e := range g.exports {
		if f := s.session(m, e.ID); f != nil {
			s.note("export", e.ID, "")
		}
	}
	for _, n := range g.nodes {
		if f := s.session(m, n.Name); f != nil {
			s.note("node", n.Name, "")
			g.place(f, n.Name)
		}
		for _, b := range n.Bitmaps {
			if marked.MatchString(b.Name) {
				s.note("bitmap", b.Name, n.Name)
			}
		}
	}
	p.folders(s, m, g)
	slices.Sort(s.names)
	if m.Agent != "" {
		agent := qga.New(m.Agent, nil)
		defer agent.Close()
		if s.frozen, err = agent.Frozen(ctx); errors.Is(err, qga.ErrSilent) || gone(err) {
			err = nil // nobody to ask
		}
		if s.frozen {
			s.note("frozen", "file systems of the guest", "")
		}
	}
	return s, err
}

func (s *survey) note(kind, name, on string) {
	s.found = append(s.found, Leftover{Kind: kind, Name: name, On: on})
	s.names = append(s.names, kind+" "+name+" "+on)
}

// session is the footprint that a name belongs to; nil: the name is nobody's, or a bitmap's that may stay.
func (s *survey) session(m Machine, name string) *footprint {
	parts := marked.FindStringSubmatch(name)
	if parts == nil {
		return nil
	}
	f := s.sessions[parts[1]]
	if f == nil {
		f = &footprint{Mark: parts[1], QMP: m.QMP}
		s.sessions[f.Mark] = f
	}
	if i, err := strconv.Atoi(parts[3]); err == nil && i < maxStartDisks {
		for len(f.Disks) <= i {
			f.Disks = append(f.Disks, disk{})
		}
	}
	return f
}

// folders finds what sessions left on the host: by the files that QEMU has open, and by name in the scratch folder.
func (p *Provider) folders(s *survey, m Machine, g *graph) {
	for _, n := range g.nodes {
		dir := filepath.Dir(fileOf(n.File))
		if f := s.sessions[filepath.Base(dir)]; f != nil && filepath.IsAbs(dir) {
			f.Dir = dir
		}
	}
	scratch := p.opts.Scratch
	if scratch == "" {
		scratch = "/var/tmp"
	}
	for _, f := range s.sessions {
		if f.Dir == "" {
			f.Dir = filepath.Join(scratch, f.Mark)
		}
		if _, err := os.Stat(f.Dir); err == nil {
			s.note("folder", f.Dir, "")
		}
	}
}

// alive says that somebody reads from a session's exports.
func (s *survey) alive() error {
	for _, f := range s.sessions {
		if n := socketClients(f.socket()); n > 0 {
			return &hikae.BusyError{What: "VM " + f.QMP, Owner: fmt.Sprintf("session %s: somebody reads its disks at %s", f.Mark, f.socket())}
		}
	}
	return nil
}

// list is what was found, with what becomes of it.
func (s *survey) list(o *LeftoverOptions) []Leftover {
	list := slices.Clone(s.found)
	for i := range list {
		switch l := &list[i]; {
		case l.Kind == "frozen" && !o.Thaw:
			l.Kept = "it is not known who froze them; thaw if nobody else is at work"
		case l.Kind == "bitmap" && validID.MatchString(l.Name) && slices.Contains(o.Keep, hikae.ChangeID(l.Name)):
			l.Kept = "a restore point names it"
		case l.Kind == "bitmap" && validID.MatchString(l.Name) && o.Keep == nil:
			l.Kept = "a restore point may name it: the repository would tell"
		}
	}
	return list
}

// removeLost removes what does not stay, and notes it in the list.
func (p *Provider) removeLost(ctx context.Context, m Machine, s *survey, list []Leftover, o *LeftoverOptions) error {
	mon, err := p.dial(ctx, m.QMP)
	if err != nil {
		return err
	}
	defer mon.Close()
	var errs []error
	if s.frozen && o.Thaw { // first: a frozen guest waits
		agent := qga.New(m.Agent, nil)
		defer agent.Close()
		err := agent.Thaw(ctx)
		errs = append(errs, err)
		settleKind(list, "frozen", func(string) bool { return err == nil })
	}
	for _, f := range s.sessions {
		err := f.removeSession(ctx, mon)
		errs = append(errs, err)
		if err == nil {
			for _, kind := range []string{"export", "node"} {
				settleKind(list, kind, f.mine)
			}
			settleKind(list, "folder", func(name string) bool { return name == f.Dir })
		}
	}
	for i := range list {
		l := &list[i]
		if l.Kind != "bitmap" || l.Kept != "" {
			continue
		}
		err := mon.Execute(ctx, "block-dirty-bitmap-remove", map[string]any{"node": l.On, "name": l.Name}, nil)
		if l.Removed = err == nil; !l.Removed && !isGone(ctx, mon, l) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// isGone says that a bitmap went with what was removed before it.
func isGone(ctx context.Context, mon *qmp.Conn, l *Leftover) bool {
	nodes, err := takeNodes(ctx, mon)
	if err != nil {
		return false
	}
	_, there := nodes[l.On].bitmap(l.Name)
	l.Removed = !there
	return !there
}

func settleKind(list []Leftover, kind string, mine func(name string) bool) {
	for i := range list {
		if list[i].Kind == kind && mine(list[i].Name) {
			list[i].Removed = true
		}
	}
}

// graph is QEMU's block graph, as far as it must be known to take filters out again.
type graph struct {
	exports []export
	nodes   []graphNode
	devices []device
	below   map[string]string // what is below a filter
}

type graphNode struct {
	node
	File string `json:"file"`
}

func takeGraph(ctx context.Context, mon *qmp.Conn) (*graph, error) {
	g := &graph{below: map[string]string{}}
	var debug struct {
		Nodes []struct {
			ID   int64  `json:"id"`
			Name string `json:"name"`
		} `json:"nodes"`
		Edges []struct {
			Parent int64  `json:"parent"`
			Child  int64  `json:"child"`
			Name   string `json:"name"`
		} `json:"edges"`
	}
	for _, q := range []struct {
		command   string
		args, out any
	}{
		{"query-block-exports", nil, &g.exports}, {"query-named-block-nodes", map[string]any{"flat": true}, &g.nodes},
		{"query-block", nil, &g.devices}, {"x-debug-query-block-graph", nil, &debug},
	} {
		if err := mon.Execute(ctx, q.command, q.args, q.out); err != nil {
			return nil, err
		}
	}
	names := map[int64]string{}
	for _, n := range debug.Nodes {
		names[n.ID] = n.Name
	}
	for _, e := range debug.Edges {
		if e.Name == "file" {
			g.below[names[e.Parent]] = names[e.Child]
		}
	}
	return g, nil
}

// place notes where a filter stands: below which device, and above which node.
func (g *graph) place(f *footprint, name string) {
	for i := range f.Disks {
		if name != f.filter(i) {
			continue
		}
		f.Disks[i].Node = g.below[name]
		for _, d := range g.devices {
			if d.Inserted != nil && d.Inserted.Node == name && d.QDev != "" {
				f.Disks[i].QDev = fullPath(d.QDev)
			}
		}
	}
}

// socketClients counts the connections to a unix socket, where this system tells: those that were accepted have its path.
func socketClients(path string) (n int) {
	f, err := os.Open("/proc/net/unix")
	if err != nil {
		return 0
	}
	defer f.Close()
	const connected = "03"
	for lines := bufio.NewScanner(io.LimitReader(f, 64<<20)); lines.Scan(); {
		if fields := strings.Fields(lines.Text()); len(fields) == 8 && fields[5] == connected && fields[7] == path {
			n++
		}
	}
	return n
}

// Forget removes the bitmaps with the given change ids from a machine: no point that is kept may name them.
func (p *Provider) Forget(ctx context.Context, id string, ids map[hikae.ChangeID]bool) error {
	m, err := p.machine(id)
	if err != nil {
		return err
	}
	mon, err := p.dial(ctx, m.QMP)
	if err != nil {
		return err
	}
	defer mon.Close()
	nodes, err := takeNodes(ctx, mon)
	if err != nil {
		return err
	}
	var errs []error
	for name, n := range nodes {
		for _, b := range n.Bitmaps {
			if ids[hikae.ChangeID(b.Name)] && validID.MatchString(b.Name) {
				errs = append(errs, mon.Execute(ctx, "block-dirty-bitmap-remove", map[string]any{"node": name, "name": b.Name}, nil))
			}
		}
	}
	return errors.Join(errs...)
}

// FreeBytes is what an ordinary user may still write into a folder.
func FreeBytes(dir string) (int64, error) {
	_, free, err := freespace.Of(dir)
	if err != nil {
		return 0, &fs.PathError{Op: "free space", Path: dir, Err: err}
	}
	return int64(min(free, 1<<62)), nil
}
