package install

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"syscall"
	"time"

	"github.com/hikae/hikae/guest"
	"github.com/hikae/hikae/guest/agent/wire"
	"github.com/hikae/hikae/guest/install/service"
	"github.com/hikae/hikae/pipe/mover/trust"
)

// ErrNotMet says that the guest's own key is not known here yet.
var ErrNotMet = errors.New("the guest was not met yet")

const dialLimit = 15 * time.Second

// Dial connects to an installer service that shows the key with that pin, for one of service.ALPNAgent,
// service.ALPNInstaller and service.ALPNEnrol. An address without a port gets the default one. Whether we are let in
// shows at the first read, whose error then is a trust.ErrRefused.
func Dial(ctx context.Context, address string, id *trust.Identity, pin trust.Pin, protocol string) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, dialLimit)
	defer cancel()
	raw, err := new(net.Dialer).DialContext(ctx, "tcp", WithPort(address))
	if err != nil {
		return nil, err
	}
	conn, err := trust.Connect(ctx, raw, trust.ClientTLS(id, pin, protocol))
	if err != nil {
		return nil, err
	}
	return &explained{conn}, nil
}

// WithPort is an address with the usual port of an installer service, where it has none.
func WithPort(address string) string {
	if _, _, err := net.SplitHostPort(address); err == nil {
		return address
	}
	return net.JoinHostPort(strings.Trim(address, "[]"), strings.TrimPrefix(service.DefaultListen, ":"))
}

// explained says what an alert means, and gives a peer a time to take what it is sent.
type explained struct{ *tls.Conn }

func (e *explained) Read(p []byte) (int, error) {
	n, err := e.Conn.Read(p)
	if err != nil {
		err = trust.Explain(err)
	}
	return n, err
}

func (e *explained) Write(p []byte) (int, error) {
	if err := e.SetWriteDeadline(time.Now().Add(2 * time.Minute)); err != nil {
		return 0, err
	}
	return e.Conn.Write(p)
}

// talk begins a session for one of the protocols.
func (c *Controller) talk(ctx context.Context, address string, pin trust.Pin, protocol string) (*guest.Component, error) {
	conn, err := Dial(ctx, address, c.id, pin, protocol)
	if err != nil {
		return nil, err
	}
	host, _ := os.Hostname() // for the other side's log alone
	return guest.Dial(ctx, conn, &guest.ComponentOptions{Session: host})
}

// Enrol meets a guest: by the temporary key of its kit it learns the guest's own key, writes it down, and comes back by
// that. It may be called again after an error, and for a guest that was met, whose new kit then counts. The error wraps
// [ErrNotMet] where there is no kit that is good, and trust.ErrWrongServer where the guest has another one.
func (c *Controller) Enrol(ctx context.Context, name, address string) (Known, error) {
	if err := checkGuest(name); err != nil {
		return Known{}, err
	}
	pins, err := c.temporaryPins(name)
	if err != nil {
		return Known{}, fmt.Errorf("enrol guest %.80q: %w", name, err)
	}
	var errs []error
	for _, pin := range pins {
		own, err := c.learn(ctx, address, pin)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		return c.settle(ctx, name, Known{Address: WithPort(address), Pin: own, Since: time.Now().UTC().Truncate(time.Second)})
	}
	return Known{}, fmt.Errorf("enrol guest %.80q at %s: %w", name, address, errors.Join(errs...))
}

// learn asks for the guest's own key.
func (c *Controller) learn(ctx context.Context, address string, temporary trust.Pin) (trust.Pin, error) {
	g, err := c.talk(ctx, address, temporary, service.ALPNEnrol)
	if err != nil {
		return trust.Pin{}, err
	}
	defer g.Close()
	a, err := g.Enrol(ctx, wire.EnrolArgs{Key: c.id.PublicKey()})
	if err != nil {
		return trust.Pin{}, err
	}
	return trust.ParsePin(a.Pin)
}

// settle writes a guest down and comes back by its own key, which ends the temporary one there. Where only that fails,
// the next session does it.
func (c *Controller) settle(ctx context.Context, name string, k Known) (Known, error) {
	if err := c.remember(ctx, name, k); err != nil {
		return Known{}, err
	}
	if err := c.book.Revoke(kitName(name)); err != nil && ignoreMissing(err) != nil {
		return Known{}, err
	}
	g, err := c.talk(ctx, k.Address, k.Pin, service.ALPNInstaller)
	if err != nil {
		return k, fmt.Errorf("guest %.80q was met, and does not answer by its own key: %w", name, err)
	}
	return k, g.Close()
}

// Admit lets another machine into a guest: a proxy, with the role guest.
func (c *Controller) Admit(ctx context.Context, name string, other service.Controller) error {
	return c.installer(ctx, name, func(g *guest.Component) error {
		key, err := decodeKey(other.Key)
		if err != nil {
			return err
		}
		_, err = g.Enrol(ctx, wire.EnrolArgs{Key: key, Name: other.Name, Role: string(other.Role)})
		return err
	})
}

// Remove takes everything of ours out of a guest, the installer service too, and sees that nobody listens there any
// more. The guest is then forgotten.
func (c *Controller) Remove(ctx context.Context, name string) error {
	k, err := c.Known(name)
	if err != nil {
		return err
	}
	err = c.installer(ctx, name, func(g *guest.Component) error {
		_, err := g.Remove(ctx)
		return err
	})
	if err == nil {
		err = closed(ctx, k.Address)
	}
	if err != nil {
		return &guest.StepError{Guest: name, Step: "remove", Err: err}
	}
	return c.Forget(ctx, name)
}

// goneLimit is how long a service may take to let go of what its sessions held.
const goneLimit = 2 * time.Minute

// closed waits until an address refuses: the service closes its port last of all. That it cannot be reached proves nothing.
func closed(ctx context.Context, address string) error {
	ctx, cancel := context.WithTimeout(ctx, goneLimit)
	defer cancel()
	for {
		conn, err := new(net.Dialer).DialContext(ctx, "tcp", address)
		if isRefused(err) {
			return nil
		}
		if conn != nil {
			conn.Close()
		}
		select {
		case <-time.After(20 * time.Millisecond):
		case <-ctx.Done():
			return fmt.Errorf("%w: something still listens at %s", guest.ErrLeftover, address)
		}
	}
}

// isRefused reports whether a host said that nobody listens there.
func isRefused(err error) bool {
	const wsaRefused = 10061 // on Windows, where it has a number of its own
	var number syscall.Errno
	return errors.As(err, &number) && (number == syscall.ECONNREFUSED || number == wsaRefused)
}

// installer does something with a guest's installer service.
func (c *Controller) installer(ctx context.Context, name string, f func(*guest.Component) error) error {
	k, err := c.Known(name)
	if err != nil {
		return err
	}
	g, err := c.talk(ctx, k.Address, k.Pin, service.ALPNInstaller)
	if err != nil {
		return fmt.Errorf("guest %.80q: %w", name, err)
	}
	defer g.Close()
	return f(g)
}
