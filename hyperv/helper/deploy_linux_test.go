package helper

import (
	"context"
	"crypto/sha256"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae"
	"github.com/hikae/hikae/guest"
	"github.com/hikae/hikae/guest/smbchannel"
	"github.com/hikae/hikae/guest/smbchannel/smbtest"
	"github.com/hikae/hikae/hyperv"
	"github.com/hikae/hikae/hyperv/helper/requester"
	"github.com/hikae/hikae/hyperv/helper/requester/requestertest"
)

// program stands for the helper's build: the double of a host runs the helper in this process instead.
type program struct{}

func (program) Build(os, arch string) (*guest.Build, error) {
	content := []byte("MZ the helper for " + os + " on " + arch)
	return &guest.Build{OS: os, Arch: arch, Name: "hikae-hyperv", Content: content, SHA256: sha256.Sum256(content)}, nil
}

// host is a double of a Hyper-V host: a real Samba, our fake service control manager behind it, and the helper that services start.
type host struct {
	*smbtest.Guest
	way guest.Way

	dialing sync.Mutex
	lines   []net.Conn
}

func startHost(t testing.TB, s *requestertest.Service) *host {
	h := &host{}
	book := &requester.DirBook{Dir: filepath.Join(t.TempDir(), "book")}
	h.start(t, func(ctx context.Context, file string, _ []string, stream io.ReadWriteCloser) int {
		if filepath.Base(file) != File {
			return 2
		}
		err := requester.Serve(ctx, stream, s, &requester.Options{Product: "hikae-hyperv test", Host: "HV1", Book: book, Tick: time.Second})
		if err != nil && !errors.Is(err, io.EOF) {
			return 1
		}
		return 0
	})
	return h
}

// start starts it with something else for a helper.
func (h *host) start(t testing.TB, component smbtest.Component) {
	h.Guest = smbtest.StartGuest(t, smbtest.Settings{}, component)
	h.way = smbchannel.New(h.HostPort(), guest.Credential{User: h.User, Password: smbtest.Password}, &smbchannel.Options{Dial: h.dial})
}

func (h *host) dial(ctx context.Context, network, addr string) (net.Conn, error) {
	c, err := (&net.Dialer{}).DialContext(ctx, network, addr)
	h.dialing.Lock()
	defer h.dialing.Unlock()
	h.lines = append(h.lines, c)
	return c, err
}

// journal keeps effects in memory.
type journal struct {
	mu   sync.Mutex
	open []hikae.Effect
	all  int
}

func (j *journal) Intend(_ context.Context, e hikae.Effect) (func(context.Context) error, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.all++
	e.ID = string(rune('0' + j.all))
	j.open = append(j.open, e)
	return func(context.Context) error {
		j.mu.Lock()
		defer j.mu.Unlock()
		j.open = slices.DeleteFunc(j.open, func(o hikae.Effect) bool { return o.ID == e.ID })
		return nil
	}, nil
}

func connect(t testing.TB, h *host, j *journal) *Requester {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	r, err := Connect(ctx, h.way, program{}, &Options{Host: "HV1", Site: "hv1:5985", Journal: j})
	require.NoError(t, err)
	return r
}

// R041, R103, R188: the helper is brought over a real SMB server, a VM's disk is read through its pipe, and nothing is left.
func TestDeploy(t *testing.T) {
	size := 16 << 20
	if tier := os.Getenv("HIKAE_TEST_TIER"); tier == "long" || tier == "release" {
		size = 512 << 20 // for the figure
	}
	s, content := machine(t, size)
	h, j := startHost(t, s), &journal{}
	began := time.Now()
	r := connect(t, h, j)
	t.Logf("brought and greeted in %v", time.Since(began).Round(time.Millisecond))
	require.Equal(t, "hikae-hyperv test", r.Product())
	require.Len(t, j.open, 1)
	require.Equal(t, EffectKind, j.open[0].Kind)
	require.Equal(t, "HV1", j.open[0].Facts["host"])
	require.Equal(t, "hv1:5985", j.open[0].Facts["site"])
	require.Len(t, h.Left(), 2, "a folder and a service")

	set := take(t, r)
	began = time.Now()
	whole(t, set, content)
	took := time.Since(began)
	t.Logf("%d MiB of a shadow copy through the pipe: %.0f MB/s", len(content)>>20, float64(len(content))/1e6/took.Seconds())
	require.NoError(t, set.Finish(t.Context(), map[string]bool{web1: true}))
	require.NoError(t, set.Delete(t.Context()))
	began = time.Now()
	require.NoError(t, r.Close())
	require.NoError(t, r.Close())
	t.Logf("removed in %v", time.Since(began).Round(time.Millisecond))
	require.Empty(t, h.Left())
	require.Empty(t, j.open)
	require.Empty(t, s.Left())
}

// Two sessions on one host have a helper each.
func TestTwoHelpers(t *testing.T) {
	s, content := machine(t, 1<<20)
	h, j := startHost(t, s), &journal{}
	one, two := connect(t, h, j), connect(t, h, j)
	require.Len(t, h.Left(), 4)
	set := take(t, one)
	q := request()
	q.Mark = "77777777777777777777777777"
	other, err := two.Take(t.Context(), q)
	require.NoError(t, err)
	require.NoError(t, one.Close())
	_, err = set.Open(t.Context(), disk)
	require.Error(t, err)
	whole(t, other, content)
	require.NoError(t, two.Close())
	require.Empty(t, h.Left())
	require.Empty(t, s.Left())
}

// A provider's requester brings nothing before its first request, and then into the journal that it was given.
func TestFor(t *testing.T) {
	s, content := machine(t, 100)
	h, j := startHost(t, s), &journal{}
	var asked []string
	requesters := For(func(host string) (guest.Way, error) { asked = append(asked, host); return h.way, nil }, program{}, nil)
	r, err := requesters(t.Context(), &hyperv.Host{})
	require.NoError(t, err)
	r.(hyperv.Journaled).Journal(j, "hv1:5985")
	require.Empty(t, asked)
	list, err := r.Components(t.Context())
	require.NoError(t, err)
	require.Len(t, list, 1)
	require.Len(t, asked, 1)
	require.Equal(t, "hv1:5985", j.open[0].Facts["site"])
	set, err := r.Take(t.Context(), request())
	require.NoError(t, err)
	whole(t, set, content)
	require.NoError(t, r.DeleteSet(t.Context(), mark))
	require.NoError(t, r.Close())
	require.Empty(t, h.Left())
	require.Empty(t, j.open)
	require.Empty(t, s.Left())
	_, err = r.Components(t.Context())
	require.ErrorIs(t, err, ErrClosed)
	_, err = r.Take(t.Context(), request())
	require.ErrorIs(t, err, ErrClosed)
	require.ErrorIs(t, r.DeleteSet(t.Context(), mark), ErrClosed)

	requesters = For(func(host string) (guest.Way, error) { return nil, errors.New("no way") }, program{}, nil)
	r, err = requesters(t.Context(), &hyperv.Host{})
	require.NoError(t, err)
	_, err = r.Components(t.Context())
	require.ErrorContains(t, err, "no way")
	require.NoError(t, r.Close())
}

// Law (f): a requester whose link is lost brings another helper with its next request, and takes away what was brought for the first.
func TestForAfterTheLinkIsLost(t *testing.T) {
	s, content := machine(t, 100)
	h, j := startHost(t, s), &journal{}
	r, err := For(func(string) (guest.Way, error) { return h.way, nil }, program{}, nil)(t.Context(), &hyperv.Host{})
	require.NoError(t, err)
	r.(hyperv.Journaled).Journal(j, "hv1:5985")
	set, err := r.Take(t.Context(), request())
	require.NoError(t, err)
	first := r.(*lazy).r
	h.cutLink()
	<-first.conn.done
	require.ErrorIs(t, set.Delete(t.Context()), ErrLink)
	require.NoError(t, r.DeleteSet(t.Context(), mark))
	require.Empty(t, s.Left())
	require.Len(t, j.open, 1)
	require.Equal(t, 2, j.all)
	require.Len(t, h.Left(), 2, "a folder and a service, of the second")
	set, err = r.Take(t.Context(), request())
	require.NoError(t, err)
	whole(t, set, content)
	require.NoError(t, r.Close())
	require.Empty(t, h.Left())
	require.Empty(t, j.open)
	require.Empty(t, s.Left())
}

// A helper that was brought and does not greet is taken away again.
func TestDeployMute(t *testing.T) {
	h, j := &host{}, &journal{}
	h.start(t, func(context.Context, string, []string, io.ReadWriteCloser) int { return 5 })
	_, err := Connect(t.Context(), h.way, program{}, &Options{Host: "HV1", Journal: j})
	require.ErrorContains(t, err, "HV1")
	require.Empty(t, h.Left())
	require.Empty(t, j.open)
	require.Equal(t, 1, j.all)
}

// A session that is killed leaves a helper that takes everything back by itself when it sees the end of the pipe; service and folder are
// taken away by what the journal has.
func TestKilled(t *testing.T) {
	s, _ := machine(t, 1<<20)
	h, j := startHost(t, s), &journal{}
	r := connect(t, h, j)
	take(t, r)
	h.cutLink()
	<-r.conn.done
	require.Eventually(t, func() bool { return len(s.Left()) == 0 }, 10*time.Second, 20*time.Millisecond, "shadow copies go with the link")
	require.NotEmpty(t, h.Left())
	e := j.open[0]
	require.NoError(t, Undo(t.Context(), h.way, e))
	require.Empty(t, h.Left())
	require.NoError(t, Undo(t.Context(), h.way, e), "undoing what is undone is no error")
	e.Kind = "guest.component"
	require.Error(t, Undo(t.Context(), h.way, e))
	require.NoError(t, r.Close(), "it looks, and there is nothing")
}

// cutLink breaks all connections without a word, as the end of our process does.
func (h *host) cutLink() {
	h.dialing.Lock()
	defer h.dialing.Unlock()
	for _, c := range h.lines {
		_ = c.Close()
	}
}
