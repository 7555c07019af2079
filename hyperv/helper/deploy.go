package helper

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"time"

	"github.com/hikae/hikae"
	"github.com/hikae/hikae/guest"
)

// File is what the program is called on a host.
const File = "hikae-hyperv.exe"

// EffectKind is what a helper on a host is called in the journal.
const EffectKind = "hyperv.helper"

// ProgramsIn are the helper's builds in a folder, or in an embedded one: windows-amd64/hikae-hyperv.exe, as it is or with gzip as
// ….gz.
func ProgramsIn(fsys fs.FS) guest.Programs { return guest.ProgramsNamed(fsys, "hikae-hyperv") }

// Options change how a helper is brought to a host. Nil and zero fields are good defaults.
type Options struct {
	DialOptions
	// Host is what the host is called in errors and in the journal, Site what the provider's site is: see [hikae.Effect].
	Host, Site string
	// Journal keeps what is made on the host before it is made. Nil: it is not kept, and what a killed process left is found by
	// nobody but the helper's own lease.
	Journal hikae.Journal
}

// Connect opens a way to a host, brings the helper there and starts it. Close of the requester takes all of that away again. After an
// error nothing is left, unless it is guest.ErrLeftover.
func Connect(ctx context.Context, way guest.Way, programs guest.Programs, opts *Options) (*Requester, error) {
	if opts == nil {
		opts = &Options{}
	}
	channel, err := way.Open(ctx)
	if err != nil {
		return nil, fmt.Errorf("the way to host %s: %w", opts.Host, err)
	}
	r, err := bring(ctx, way, channel, programs, opts)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("helper on host %s: %w", opts.Host, err), channel.Close())
	}
	return r, nil
}

// removeLimit bounds taking away a helper that does not answer.
const removeLimit = time.Minute

func bring(ctx context.Context, way guest.Way, channel guest.Channel, programs guest.Programs, opts *Options) (*Requester, error) {
	deploy := &guest.DeployOptions{Guest: opts.Host, Session: opts.Session, Way: way}
	if opts.Journal != nil {
		deploy.Journal = renamed{opts.Journal, opts}
	}
	brought, err := guest.Bring(ctx, channel, programs, deploy)
	if err != nil {
		return nil, err
	}
	r, err := Dial(ctx, brought.Stream, &opts.DialOptions)
	if err != nil {
		undo, cancel := context.WithTimeout(context.WithoutCancel(ctx), removeLimit)
		defer cancel()
		return nil, errors.Join(err, brought.Remove(undo))
	}
	r.remove = func(ctx context.Context) error {
		if err := brought.Remove(ctx); err != nil {
			return err
		}
		return channel.Close()
	}
	return r, nil
}

// renamed is a journal for what guest brings into guests: this is a host, and its effects are of another kind.
type renamed struct {
	hikae.Journal
	opts *Options
}

func (j renamed) Intend(ctx context.Context, e hikae.Effect) (func(context.Context) error, error) {
	facts := maps.Clone(e.Facts)
	facts["site"], facts["host"] = j.opts.Site, j.opts.Host
	e.Kind, e.VM, e.Facts = EffectKind, "", facts
	return j.Journal.Intend(ctx, e)
}

// Undo takes away what an effect of kind [EffectKind] tells of, by a way to the host that its fact "host" names: the service, the
// program, the folder. With the program go its shadow copies. What is not there is no error.
func Undo(ctx context.Context, way guest.Way, e hikae.Effect) error {
	if e.Kind != EffectKind {
		return fmt.Errorf("effect %s is %q, not a helper on a host: %w", e.ID, e.Kind, fs.ErrInvalid)
	}
	channel, err := way.Open(ctx)
	if err != nil {
		return fmt.Errorf("the way to host %s: %w", e.Facts["host"], err)
	}
	defer channel.Close()
	e.Kind, e.VM = guest.EffectKind, e.Facts["host"]
	return guest.UndoDeploy(ctx, channel, e)
}
