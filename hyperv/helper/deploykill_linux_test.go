package helper

import (
	"context"
	"errors"
	"net"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae"
	"github.com/hikae/hikae/guest"
	"github.com/hikae/hikae/guest/smbchannel"
	"github.com/hikae/hikae/guest/smbchannel/smbtest"
)

// life is a session that ends at one of its steps: a message that it sends, or a call of its journal. From then on nothing that it does
// reaches anything.
type life struct {
	kill int // step; 0: never
	end  context.CancelFunc

	mu    sync.Mutex
	n     int
	dead  bool
	conns []net.Conn
}

var errDead = errors.New("the session is dead")

func (l *life) step() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.n++; l.n == l.kill {
		l.dead = true
		l.end()
		for _, c := range l.conns {
			_ = c.Close()
		}
	}
	if l.dead {
		return errDead
	}
	return nil
}

func (l *life) dial(ctx context.Context, network, addr string) (net.Conn, error) {
	if err := l.step(); err != nil {
		return nil, err
	}
	c, err := (&net.Dialer{}).DialContext(ctx, network, addr)
	if err != nil {
		return nil, err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.conns = append(l.conns, c)
	return mortalConn{c, l}, nil
}

type mortalConn struct {
	net.Conn
	l *life
}

func (c mortalConn) Write(p []byte) (int, error) {
	if err := c.l.step(); err != nil {
		return 0, err
	}
	return c.Conn.Write(p)
}

// mortalJournal is one whose session dies before or after what is written down, and before what is done is struck out.
type mortalJournal struct {
	*journal
	l *life
}

func (j mortalJournal) Intend(ctx context.Context, e hikae.Effect) (func(context.Context) error, error) {
	if err := j.l.step(); err != nil {
		return nil, err
	}
	done, err := j.journal.Intend(ctx, e)
	return func(ctx context.Context) error {
		if err := j.l.step(); err != nil {
			return err
		}
		return done(ctx)
	}, errors.Join(err, j.l.step())
}

// run brings a helper, takes a set, and takes all of it away again.
func (l *life) run(ctx context.Context, h *host, j *journal) error {
	way := smbchannel.New(h.HostPort(), guest.Credential{User: h.User, Password: smbtest.Password}, &smbchannel.Options{Dial: l.dial})
	r, err := Connect(ctx, way, program{}, &Options{Host: "HV1", Site: "hv1:5985", Journal: mortalJournal{j, l}})
	if err != nil {
		return err
	}
	_, err = r.Take(ctx, request())
	return errors.Join(err, r.Close())
}

// R052, R103, laws (b), (f): a session dies at each message that it sends while its helper is brought, used and taken away. The next
// start undoes within a minute what the journal names: service, file and folder, and with the program its shadow copies. A helper of
// somebody else's, which lives through all of it, is not touched. The fast tier has some of the steps.
func TestDeployKilledAtEachStep(t *testing.T) {
	s, _ := machine(t, 1<<20)
	h := startHost(t, s)
	other := &journal{}
	neighbour := connect(t, h, other)
	theirs := h.Left()
	require.Len(t, theirs, 2)
	attempt := func(kill int) (*life, *journal, error) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		l, j := &life{kill: kill, end: cancel}, &journal{}
		return l, j, l.run(ctx, h, j)
	}
	dry, j, err := attempt(0)
	require.NoError(t, err)
	require.Empty(t, j.open)
	steps := dry.n
	require.Greater(t, steps, 30)
	every, slowest := steps/6, time.Duration(0)
	if tier := os.Getenv("HIKAE_TEST_TIER"); tier == "long" || tier == "release" {
		every = 1
	}
	for kill := 1; kill <= steps; kill += every {
		l, j, _ := attempt(kill) // what it says of its own death is nothing to anybody
		if !l.dead {
			require.Empty(t, j.open, "it was done before step %d", kill)
			continue
		}
		begun := time.Now()
		for _, e := range j.open {
			require.NoError(t, Undo(t.Context(), h.way, e), "step %d", kill)
		}
		slowest = max(slowest, time.Since(begun))
		require.ElementsMatch(t, theirs, h.Left(), "step %d", kill)
		require.Eventually(t, func() bool { return len(s.Left()) == 0 }, 10*time.Second, 5*time.Millisecond, "step %d", kill)
	}
	require.Less(t, slowest, time.Minute)
	t.Logf("%d steps, every %d.; slowest sweep %v", steps, every, slowest.Round(time.Millisecond))
	_, err = neighbour.Components(t.Context())
	require.NoError(t, err, "somebody else's helper lives")
	require.NoError(t, neighbour.Close())
	require.Empty(t, h.Left())
}
