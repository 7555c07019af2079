package remote

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/hikae/hikae/guest"
)

// Deployer works in one guest from a proxy. It is a [guest.Deployer]: a session that has it before one for the backup
// server itself falls back to that (R169, R170).
type Deployer struct {
	Client  *Client
	Guest   string
	Ways    []Way         // one of each kind
	Timeout time.Duration // of each probe. Zero: 10 s
}

var _ guest.Deployer = (*Deployer)(nil)

// Name implements [guest.Deployer].
func (d *Deployer) Name() string { return d.Client.Name() }

// Probe implements [guest.Deployer].
func (d *Deployer) Probe(ctx context.Context) (*guest.Report, error) {
	findings, err := d.Client.Probe(ctx, d.Guest, d.Ways, d.Timeout)
	if err != nil {
		return nil, err
	}
	return &guest.Report{Guest: d.Guest, Ways: findings}, nil
}

// Deploy implements [guest.Deployer]. What is made in the guest stands in the proxy's journal, not in that of the options.
func (d *Deployer) Deploy(ctx context.Context, kinds []guest.Kind, opts *guest.DeployOptions) (*guest.Deployed, error) {
	o := DeployOptions{}
	if opts != nil {
		o.Session, o.Lease, o.Reconnects = opts.Session, opts.Lease, opts.Reconnects
	}
	var ways []Way
	for _, k := range kinds {
		if i := slices.IndexFunc(d.Ways, func(w Way) bool { return w.Kind == k }); i >= 0 {
			ways = append(ways, d.Ways[i])
		}
	}
	if len(ways) == 0 {
		return nil, &guest.StepError{Guest: d.Guest, Step: "deploy", Err: fmt.Errorf("%w: proxy %s has none of the kinds %q set up", guest.ErrNoWay, d.Name(), kinds)}
	}
	return d.Client.Deploy(ctx, d.Guest, ways, &o)
}
