package guest

import (
	"context"
	"encoding/json"
	"io"
	"io/fs"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae/internal/bubble"
)

// fixedWay answers a probe with what it is told to.
type fixedWay struct {
	finding Finding
	wait    time.Duration
	stuck   bool // does not end with its context
	sees    bool
	open    func(ctx context.Context) (Channel, error)
}

func (w *fixedWay) Kind() Kind { return w.finding.Kind }

func (w *fixedWay) Probe(ctx context.Context) Finding {
	over := ctx.Done()
	if w.stuck {
		over = nil
	}
	select {
	case <-time.After(w.wait):
		return w.finding
	case <-over:
		return Finding{Kind: w.finding.Kind, Step: "connect", Problem: "no answer", Hint: "open the port"}
	}
}

func (w *fixedWay) Open(ctx context.Context) (Channel, error) { return w.open(ctx) }

func (w *fixedWay) SeesComponent(context.Context) (bool, error) { return w.sees, nil }

// fixedPersistent is an installer service as it is told to be.
type fixedPersistent struct{ finding PersistentFinding }

func (p *fixedPersistent) Probe(context.Context) PersistentFinding { return p.finding }
func (p *fixedPersistent) Open(context.Context) (io.ReadWriteCloser, error) {
	return nil, ErrNoWay
}
func (p *fixedPersistent) Install(context.Context) error { return ErrNoWay }

// All ways are probed at once, each with its own end, also one that does not keep to it.
func TestProbeAtOnce(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		ways := []Way{
			&fixedWay{finding: Finding{Kind: SSH, Open: true, System: System{OS: "linux", Arch: "amd64", User: "root", Admin: true}}, wait: 3 * time.Second},
			&fixedWay{finding: Finding{Kind: SMB}, wait: time.Hour},
			&fixedWay{finding: Finding{Kind: QGA, Open: true}, wait: 30 * time.Second, stuck: true},
			&fixedWay{finding: Finding{Kind: WinRM, Step: "login", Problem: "refused", Hint: "use a domain account"}, wait: 2 * time.Second},
		}
		began := time.Now()
		r := Probe(t.Context(), "web1", ways, &ProbeOptions{Persistent: &fixedPersistent{PersistentFinding{Problem: "connection refused"}}})
		require.Equal(t, 12*time.Second, time.Since(began), "the slowest's deadline and its grace")
		require.Equal(t, []Kind{SSH, SMB, QGA, WinRM}, []Kind{r.Ways[0].Kind, r.Ways[1].Kind, r.Ways[2].Kind, r.Ways[3].Kind})
		require.Equal(t, int64(3000), r.Ways[0].Millis)
		require.Equal(t, "no answer", r.Ways[1].Problem)
		require.False(t, r.Ways[2].Open)
		require.Contains(t, r.Ways[2].Problem, "within 10s")
		require.Equal(t, Probed{Network: true}, r.Probed())
		require.NoError(t, r.Err())
		windows, known := r.Windows()
		require.True(t, known)
		require.False(t, windows)

		text := r.String()
		for _, want := range []string{"web1", "ssh", "3000 ms", "linux/amd64 as root", "login: refused → use a domain account", "connection refused"} {
			require.Contains(t, text, want)
		}
		data, err := json.Marshal(r)
		require.NoError(t, err)
		require.Contains(t, string(data), `"hint":"use a domain account"`)
		time.Sleep(time.Minute) // the stuck one ends too
	})
}

func TestProbeEndsWithItsContext(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		began := time.Now()
		r := Probe(ctx, "g", []Way{&fixedWay{finding: Finding{Kind: SSH, Open: true}, wait: time.Hour}}, nil)
		require.Equal(t, time.Second, time.Since(began))
		require.ErrorIs(t, r.Err(), ErrNoWay)
		require.Contains(t, r.Err().Error(), "open the port")
	})
}

func TestProbedFromFindings(t *testing.T) {
	r := Probe(t.Context(), "g", []Way{
		&fixedWay{finding: Finding{Kind: SMB, Open: true}, sees: true},
		&fixedWay{finding: Finding{Kind: PSDirect, Open: true}},
		&fixedWay{finding: Finding{Kind: WinRM, Reached: true}},
	}, nil)
	require.Equal(t, Probed{AdminShare: true, Component: true, Hypervisor: true}, r.Probed())

	r = Probe(t.Context(), "g", nil, &ProbeOptions{Persistent: &fixedPersistent{PersistentFinding{Installer: true, Certificates: true, Component: true, Version: "1.2.3"}}})
	require.Equal(t, Probed{Installer: true, Certificates: true, Component: true}, r.Probed())
	require.NoError(t, r.Err())
	require.Contains(t, r.String(), "1.2.3")
	require.ErrorIs(t, Probe(t.Context(), "g", nil, nil).Err(), ErrNoWay)
}

// What a guest says of itself cannot move the cursor of whoever reads the report.
func TestReportIsPrintable(t *testing.T) {
	hostile := "evil\x1b[2J\u202egnp.exe\x00\n" + strings.Repeat("x", 10_000)
	r := Probe(t.Context(), hostile, []Way{
		&fixedWay{finding: Finding{Kind: SSH, Open: true, System: System{OS: hostile, User: hostile, Temp: []string{hostile}}}},
		&fixedWay{finding: Finding{Kind: SMB, Problem: hostile, Hint: hostile, Step: hostile}},
	}, nil)
	for _, text := range []string{r.String(), strings.ReplaceAll(r.Ways[1].words(), "\n", "?")} {
		require.NotContains(t, text, "\x1b")
		require.NotContains(t, text, "\u202e")
		require.NotContains(t, text, "\x00")
		require.Less(t, len(text), 5000)
	}
	require.Equal(t, 4, strings.Count(r.String(), "\n"))
}

func TestOrder(t *testing.T) {
	o, err := ParseOrder("qga, SSH")
	require.NoError(t, err)
	require.Equal(t, Order{QGA, SSH}, o)
	require.Equal(t, "qga,ssh", o.String())
	none, err := ParseOrder(" ")
	require.NoError(t, err)
	require.Nil(t, none)
	for _, wrong := range []string{"telnet", "ssh,ssh", "ssh,,qga", "\x00"} {
		_, err := ParseOrder(wrong)
		require.ErrorIs(t, err, fs.ErrInvalid, wrong)
	}
	require.NoError(t, DefaultOrder(true).Check())
	require.NoError(t, DefaultOrder(false).Check())
}

// The order belongs to the guest: the same findings, two orders, two ways.
func TestRanked(t *testing.T) {
	found := []Finding{{Kind: SMB, Open: true}, {Kind: VSphere, Open: true}, {Kind: WinRM, Open: true}, {Kind: SSH}}
	windows := Choice{Windows: true}
	d := Decide(windows, Probed{AdminShare: true, Hypervisor: true, Network: true})
	require.Equal(t, []Kind{SMB, VSphere, WinRM}, Ranked(d, windows, nil, found))
	require.Equal(t, []Kind{VSphere, SMB}, Ranked(d, windows, Order{VSphere, SMB}, found), "the hypervisor first, for this guest")
	require.Equal(t, []Kind{SMB}, Ranked(d, Choice{Windows: true, Strict: true}, nil, found))
	require.Empty(t, Ranked(Decision{Action: UsePersistent}, windows, nil, found))
	require.Empty(t, Ranked(Decision{Action: Fail}, windows, nil, found))
	require.Equal(t, []Kind{VSphere}, Ranked(Decide(windows, Probed{Hypervisor: true}), windows, nil, []Finding{{Kind: VSphere, Open: true}}))
}
