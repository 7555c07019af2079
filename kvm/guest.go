package kvm

import (
	"context"
	"fmt"
	"strconv"

	"github.com/hikae/hikae"
	"github.com/hikae/hikae/kvm/qga"
)

// Guest is a way into a guest by its agent.
type Guest struct{ agent *qga.Client }

var _ hikae.GuestChannel = (*Guest)(nil)

// OpenGuest opens the way by the agent's unix socket. Nothing is connected yet.
func OpenGuest(socket string) *Guest { return &Guest{qga.New(socket, nil)} }

// OpenDomainGuest opens the way by libvirt, which holds the agent's port of its domains.
func OpenDomainGuest(d Domain) *Guest { return &Guest{qga.Via(d.carrier())} }

const maxStream = 1 << 20

// Run implements [hikae.GuestChannel].
func (g *Guest) Run(ctx context.Context, path string, args []string, stdin []byte) (hikae.RunResult, error) {
	r, err := g.agent.Exec(ctx, path, args, stdin, maxStream)
	return hikae.RunResult{Stdout: r.Stdout, Stderr: r.Stderr, ExitCode: r.ExitCode, Truncated: r.Truncated}, err
}

// Upload implements [hikae.GuestChannel]. The agent makes files with its own mode; another one is set by the guest's
// chmod, so where there is none, as on Windows, mode must be zero.
func (g *Guest) Upload(ctx context.Context, path string, data []byte, mode uint32) error {
	if err := g.agent.WriteFile(ctx, path, data); err != nil || mode == 0 {
		return err
	}
	r, err := g.agent.Exec(ctx, "chmod", []string{strconv.FormatUint(uint64(mode), 8), path}, nil, maxStream)
	if err == nil && r.ExitCode != 0 {
		err = fmt.Errorf("chmod %o %s: %s", mode, path, r.Stderr)
	}
	return err
}

// Download implements [hikae.GuestChannel].
func (g *Guest) Download(ctx context.Context, path string, max int64) ([]byte, error) {
	return g.agent.ReadFile(ctx, path, max)
}

// Close ends the connection.
func (g *Guest) Close() error { return g.agent.Close() }
