package psdirect

import (
	"context"

	"github.com/hikae/hikae"
	"github.com/hikae/hikae/guest"
)

// Options change how a guest is reached. Nil and zero fields are good defaults.
type Options struct {
	// Temp are folders of the guest that are tried for the component before the usual one.
	Temp []string
}

// New is a way into the guest of one machine, by its host: a [guest.Way] such as one of package guest/winrmchannel. The
// channel to the host is opened and closed with the one to the guest.
func New(host guest.Way, vm string, cred guest.Credential, opts *Options) guest.Way {
	if opts == nil {
		opts = &Options{}
	}
	open := func(ctx context.Context) (hikae.GuestChannel, error) {
		h, err := host.Open(ctx)
		if err != nil {
			return nil, err
		}
		c, err := Open(h, vm, cred)
		if err != nil {
			h.Close()
			return nil, err
		}
		return &owning{Channel: c, host: h}, nil
	}
	return guest.OverWay(guest.PSDirect, open, &guest.OverOptions{OS: "windows", Temp: opts.Temp})
}

// owning closes the host's channel too.
type owning struct {
	*Channel
	host guest.Channel
}

func (o *owning) Close() error { return o.host.Close() }
