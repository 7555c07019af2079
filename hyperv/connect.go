package hyperv

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/hikae/hikae/hyperv/cim"
)

// Options change how a host is reached. Nil and zero fields are good defaults.
type Options struct {
	// CIM is how the wire is spoken: TLS or not, certificates, time-outs.
	CIM *cim.Options
	// Route reaches the classes another way; CIM is not used then. Nil: WS-Management. Package dcom has one.
	Route func(ctx context.Context, addr string, login cim.Login) (cim.Caller, error)
	// Limit bounds a call whose context has no deadline. Zero: 5 min.
	Limit time.Duration
}

// Host is one machine with Hyper-V. Its methods may be called at once.
type Host struct {
	client cim.Caller
	limit  time.Duration
	info   HostInfo
	images cim.Ref // Msvm_ImageManagementService
	legacy bool    // it has the classes of 2008 R2 alone
}

// HostInfo says what a host is.
type HostInfo struct {
	Name    string // as Hyper-V calls it
	OS      string // Microsoft Windows Server 2022 Datacenter
	Version string // 10.0.20348
	Build   int    // 20348; procedures are chosen by it
}

// Builds from which on a host's generation begins.
const (
	build2008R2 = 7600
	build2012   = 9200
	build2012R2 = 9600
	build2016   = 14393
)

// Generation is the host's, as procedures are named after: 2012, 2012 R2, 2016+. What is older is "before 2012": 2008 R2, whose classes
// are of another namespace.
func (i HostInfo) Generation() string {
	switch {
	case i.Build >= build2016:
		return "2016+"
	case i.Build >= build2012R2:
		return "2012 R2"
	case i.Build >= build2012:
		return "2012"
	}
	return "before 2012"
}

// Connect logs on and looks at the host. Addr is HOST or HOST:PORT.
func Connect(ctx context.Context, addr string, login cim.Login, opts *Options) (*Host, error) {
	var o Options
	if opts != nil {
		o = *opts
	}
	if o.Limit <= 0 {
		o.Limit = 5 * time.Minute
	}
	h := &Host{limit: o.Limit}
	ctx, cancel := h.bounded(ctx)
	defer cancel()
	route := o.Route
	if route == nil {
		route = func(ctx context.Context, addr string, login cim.Login) (cim.Caller, error) {
			return cim.Dial(ctx, addr, login, o.CIM)
		}
	}
	var err error
	if h.client, err = route(ctx, addr, login); err != nil {
		return nil, err
	}
	if err := h.look(ctx); err != nil {
		h.client.Close()
		return nil, fmt.Errorf("host %s: %w", addr, err)
	}
	return h, nil
}

// Close ends the connection.
func (h *Host) Close() error { return h.client.Close() }

// Info is what the host was when it was connected to.
func (h *Host) Info() HostInfo { return h.info }

func (h *Host) bounded(ctx context.Context) (context.Context, context.CancelFunc) {
	if _, ok := ctx.Deadline(); ok {
		return context.WithCancel(ctx)
	}
	return context.WithTimeoutCause(ctx, h.limit, fmt.Errorf("no end within %v: %w", h.limit, context.DeadlineExceeded))
}

// look asks for the system, and for a service of Hyper-V: where that is not there, nor is Hyper-V.
func (h *Host) look(ctx context.Context) error {
	in, err := cim.One(h.client.Query(ctx, cim.CIMV2, "SELECT Caption, Version, BuildNumber FROM Win32_OperatingSystem", nil))
	if err != nil {
		return err
	}
	var system struct {
		Caption string `cim:"Caption"`
		Version string `cim:"Version"`
		Build   string `cim:"BuildNumber"`
	}
	if err := in.Decode(&system); err != nil {
		return err
	}
	build, err := strconv.Atoi(strings.TrimSpace(system.Build))
	if err != nil || build <= 0 {
		return fmt.Errorf("%w: BuildNumber %.40q", cim.ErrMalformed, system.Build)
	}
	service, err := h.findImages(ctx, build)
	if err != nil {
		return err
	}
	if h.images, err = service.Keyed(h.space(), "SystemCreationClassName", "SystemName", "CreationClassName", "Name"); err != nil {
		return err
	}
	h.info = HostInfo{Name: h.images.Key("SystemName"), OS: strings.TrimSpace(system.Caption), Version: system.Version, Build: build}
	return nil
}
