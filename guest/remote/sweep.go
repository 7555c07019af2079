package remote

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"maps"
	"slices"
	"strconv"
	"time"

	"github.com/hikae/hikae"
	"github.com/hikae/hikae/guest"
)

// Leftover is a deployment of a process that has died, as the proxy's journal has it.
type Leftover struct {
	Guest  string     `json:"guest"`
	Kind   guest.Kind `json:"kind"` // of the way that it came by
	Folder string     `json:"folder"`
}

const maxLeftovers = 256

// leftovers are what dead processes of this proxy may have left in guests, for one peer, or for all where whose is empty.
func (s *Server) leftovers(ctx context.Context, whose string) (out []Leftover, err error) {
	if s.opts.Journal == nil {
		return nil, nil
	}
	var errs []error
	for e, err := range s.opts.Journal.Pending(ctx) {
		switch {
		case err != nil:
			errs = append(errs, err)
		case e.Kind == guest.EffectKind && (whose == "" || e.Facts[factPeer] == whose) && len(out) < maxLeftovers:
			out = append(out, Leftover{e.VM, guest.Kind(e.Facts["way"]), e.Facts["folder"]})
		}
		if len(errs) >= maxLeftovers {
			break
		}
	}
	return out, errors.Join(errs...)
}

// Facts of an effect beside those of package guest. Names of guests are their peers' own: two peers may call two guests the
// same, and one peer may have moved a name to another address.
const (
	factPeer  = "peer"
	factPlace = "place"
)

// owned is a journal whose effects say whose they are, and to where they were made.
type owned struct {
	hikae.Journal
	peer, place string
}

func (o owned) Intend(ctx context.Context, e hikae.Effect) (func(context.Context) error, error) {
	e.Facts = maps.Clone(e.Facts)
	e.Facts[factPeer], e.Facts[factPlace] = o.peer, o.place
	return o.Journal.Intend(ctx, e)
}

// peerFact is how the journal knows a peer: by its enrolment.
func peerFact(serial uint64) string { return strconv.FormatUint(serial, 10) }

// places are where the ways of a request lead, by kind: what their settings say, so that the journal need not hold these.
func places(ways []wayArgs) map[guest.Kind]string {
	out := map[guest.Kind]string{}
	for _, w := range ways {
		sum := sha256.Sum256(w.Settings)
		out[w.Kind] = hex.EncodeToString(sum[:16])
	}
	return out
}

// sweep takes away what dead sessions left in a guest, over ways of the kind that it came by.
func (t *task) sweep(ctx context.Context, a *sweepArgs) (*sweepAnswer, error) {
	limit, err := limitOf(a.LimitMillis, deployLimit)
	if err = errors.Join(err, checkGuest(a.Guest)); err != nil {
		return nil, err
	}
	ways, err := t.ways(a.Ways)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	free, err := t.server.slot(ctx)
	if err != nil {
		return nil, err
	}
	defer free()
	return t.server.sweep(ctx, t.broom(a.Guest, ways, places(a.Ways)))
}

// sweepBefore is the sweep that each visit of a guest begins with. What cannot be swept keeps nobody from the visit.
func (t *task) sweepBefore(ctx context.Context, name string, ways []guest.Way, at map[guest.Kind]string, hide []string) {
	ctx, cancel := context.WithTimeout(ctx, sweepLimit)
	defer cancel()
	out, err := t.server.sweep(ctx, t.broom(name, ways, at))
	log := t.server.log.With("peer", t.peer.Name, "guest", name)
	if err != nil {
		log.Warn("what an earlier process left is still there", "err", failureOf(err, hide).Text)
	}
	if out != nil && out.Undone > 0 {
		log.Info("what an earlier process left was taken away", "components", out.Undone)
	}
}

// sweepLimit bounds a sweep that nobody asked for: the visit is what was.
const sweepLimit = 20 * time.Second

func (t *task) broom(name string, ways []guest.Way, at map[guest.Kind]string) *broom {
	return &broom{guest: name, peer: peerFact(t.peer.Serial), ways: ways, places: at}
}

func (s *Server) sweep(ctx context.Context, b *broom) (*sweepAnswer, error) {
	out := &sweepAnswer{}
	left, err := s.leftovers(ctx, b.peer)
	if !slices.ContainsFunc(left, func(l Leftover) bool { return l.Guest == b.guest }) {
		return out, err // and nobody waits for another guest's sweep
	}
	select {
	case s.sweeping <- struct{}{}: // the journal hands a dead session's effects to one at a time
		defer func() { <-s.sweeping }()
	case <-ctx.Done():
		return out, context.Cause(ctx)
	}
	defer b.close()
	_, _ = s.opts.Journal.Sweep(ctx, map[string]hikae.Sweeper{guest.EffectKind: b}, nil) // what the broom cannot do it tells itself
	out.Undone, out.Left = b.undone, b.left
	return out, errors.Join(b.errs...)
}

// broom sweeps one guest, over the ways that it has.
type broom struct {
	guest  string
	peer   string
	ways   []guest.Way
	places map[guest.Kind]string

	open         map[guest.Kind]guest.Channel
	undone, left int
	errs         []error
}

// errOther is what the broom says of effects that it leaves where they are.
var errOther = errors.New("another guest's, or another way's")

// Undo implements [hikae.Sweeper].
func (b *broom) Undo(ctx context.Context, e hikae.Effect, _ []hikae.ChangeID) error {
	if e.VM != b.guest || e.Facts[factPeer] != b.peer {
		return errOther
	}
	kind := guest.Kind(e.Facts["way"])
	if e.Facts[factPlace] != b.places[kind] { // a guest of that name somewhere else: to find nothing there proves nothing
		b.left++
		return errOther
	}
	ch, err := b.channel(ctx, kind)
	if err == nil {
		err = guest.UndoDeploy(ctx, ch, e)
	}
	switch {
	case err == nil:
		b.undone++
	case errors.Is(err, errOther):
		b.left++
	default:
		b.left++
		b.errs = append(b.errs, err)
	}
	return err
}

func (b *broom) channel(ctx context.Context, kind guest.Kind) (guest.Channel, error) {
	if ch := b.open[kind]; ch != nil {
		return ch, nil
	}
	for _, w := range b.ways {
		if w.Kind() != kind {
			continue
		}
		ch, err := w.Open(ctx)
		if err != nil {
			return nil, err
		}
		if b.open == nil {
			b.open = map[guest.Kind]guest.Channel{}
		}
		b.open[kind] = ch
		return ch, nil
	}
	return nil, errOther
}

func (b *broom) close() {
	for _, ch := range b.open {
		_ = ch.Close()
	}
}
