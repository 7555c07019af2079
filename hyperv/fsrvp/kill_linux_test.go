package fsrvp

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae"
	"github.com/hikae/hikae/guest/smbchannel/smbtest"
	"github.com/hikae/hikae/hyperv"
	"github.com/hikae/hikae/hyperv/cim"
	"github.com/hikae/hikae/hyperv/hypervtest"
	"github.com/hikae/hikae/job"
	"github.com/hikae/hikae/pipe"
	"github.com/hikae/hikae/repo"
	"github.com/hikae/hikae/repo/store/dirstore"
)

// The victim is a session in a process of its own, so that it dies as one does.
const (
	victimFolder = "HIKAE_TEST_VICTIM_FOLDER" // journal, repository and state
	victimHost   = "HIKAE_TEST_VICTIM_HOST"
	victimSMB    = "HIKAE_TEST_VICTIM_SMB"
	victimUser   = "HIKAE_TEST_VICTIM_USER"
)

// session is a job over all VMs of a host, off-host by FSRVP, with a journal and a repository that outlive it.
type session struct {
	site    *hyperv.Site
	p       *hyperv.Provider
	journal *hikae.FileJournal
	repo    *repo.Repository
	ids     []string
	close   []func() error
}

// siteFiles opens files of shares as the site does.
type siteFiles struct{ site *hyperv.Site }

func (f siteFiles) Open(ctx context.Context, name string) (pipe.Image, error) {
	hosts, err := f.site.Hosts(ctx)
	if err != nil {
		return nil, err
	}
	store, err := f.site.Store(ctx, hosts[0])
	if err != nil {
		return nil, err
	}
	return store.Open(ctx, name)
}

func openSession(ctx context.Context, folder, host, smb, user string) (s *session, err error) {
	s = &session{}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.end())
		}
	}()
	if s.journal, err = hikae.OpenFileJournal(filepath.Join(folder, "journal")); err != nil {
		return nil, err
	}
	s.close = append(s.close, s.journal.Close)
	at := func(string, string) string { return smb }
	s.site, err = hyperv.ConnectSite(ctx, host, cim.Login{User: user, Password: smbtest.Password}, &hyperv.SiteOptions{Host: hyperv.Options{CIM: &cim.Options{Plain: true}}, Address: at})
	if err != nil {
		return nil, err
	}
	s.close = append(s.close, s.site.Close)
	by := &Snapshotter{Files: siteFiles{s.site}, Options: Options{Address: func(string) string { return smb }, CommitTimeout: time.Minute},
		Login: func(context.Context, string) (Login, error) {
			return Login{User: user, Password: smbtest.Password}, nil
		}}
	s.p, err = hyperv.New(s.site, nil, &hyperv.ProviderOptions{Procedure: hyperv.Production, Mode: hyperv.OffHost, Volumes: []hyperv.VolumeSnapshotter{by}})
	if err != nil {
		return nil, err
	}
	for vm, err := range s.p.VMs(ctx) {
		if err != nil {
			return nil, err
		}
		s.ids = append(s.ids, vm.ID)
	}
	store, err := dirstore.Open(filepath.Join(folder, "repo"))
	if err != nil {
		return nil, err
	}
	s.close = append(s.close, store.Close)
	if s.repo, err = repo.Open(ctx, store, nil, &repo.OpenOptions{StateDir: filepath.Join(folder, "state")}); err != nil {
		return nil, err
	}
	s.close = append(s.close, s.repo.Close)
	return s, nil
}

func (s *session) end() error {
	var errs []error
	for _, f := range slices.Backward(s.close) {
		errs = append(errs, f())
	}
	s.close = nil
	return errors.Join(errs...)
}

// run backs all VMs up as one group.
func (s *session) run(ctx context.Context) (results []job.Result, err error) {
	g, err := job.NewGrouped(ctx, s.p, s.ids, nil)
	if err != nil {
		return nil, err
	}
	if len(g.Groups()) != 1 {
		return nil, fmt.Errorf("%d groups", len(g.Groups()))
	}
	for _, id := range s.ids {
		res, err := job.Backup(ctx, g, id, s.repo, &job.BackupOptions{Journal: s.journal})
		if err != nil {
			return results, errors.Join(err, g.Close(ctx))
		}
		results = append(results, res)
	}
	return results, g.Close(ctx)
}

// sweep is the next start's. What a file server has to give up by itself takes it a moment.
func (s *session) sweep(ctx context.Context) error {
	keep, err := job.KeepIDs(ctx, s.repo)
	if err != nil {
		return err
	}
	for end := time.Now().Add(time.Minute); ; time.Sleep(100 * time.Millisecond) {
		_, err = s.journal.SweepFor(ctx, s.repo.ID(), map[string]hikae.Sweeper{"hyperv.": s.p}, keep)
		if err == nil || time.Now().After(end) {
			return err
		}
	}
}

// TestVictim is the session. It runs only where a test has started it.
func TestVictim(t *testing.T) {
	folder := os.Getenv(victimFolder)
	if folder == "" {
		t.Skip("it is started by TestKilledAtEachCall")
	}
	s, err := openSession(t.Context(), folder, os.Getenv(victimHost), os.Getenv(victimSMB), os.Getenv(victimUser))
	require.NoError(t, err)
	_, err = s.run(t.Context())
	require.NoError(t, err)
	require.NoError(t, s.end())
}

// scene is two VMs on a share of a real file server, on which somebody else keeps a shadow copy.
type scene struct {
	t       *testing.T
	server  *fileServer
	proxy   *wireProxy
	host    *hypervtest.Host
	guests  []*hypervtest.Guest
	foreign Set
	theirs  []string // folders of copies that are somebody else's
	folder  string
}

func newScene(t *testing.T) *scene {
	s := &scene{t: t, server: startFileServerThat(t, 20), folder: t.TempDir()}
	s.proxy = startProxy(t, s.server.HostPort())
	var err error
	s.host, err = hypervtest.Start(&hypervtest.Options{Generation: "2019", JobTime: time.Millisecond, User: s.server.User, Password: smbtest.Password, Dir: s.server.root})
	require.NoError(t, err)
	t.Cleanup(s.host.Close)
	for _, name := range []string{"web1", "web2"} {
		g := s.host.VM(s.host.AddVM(hypervtest.VM{Name: name, GuestOS: "windows", Folder: `\\fs1\vms\` + name, Disks: []hypervtest.Disk{{Size: 3 << 20, BlockSize: 1 << 20}}}))
		require.NoError(t, g.Write(0, 1<<20, []byte("content of "+name)))
		s.guests = append(s.guests, g)
	}
	s.foreign, err = s.server.dial().Take(t.Context(), []string{`\\fs1\vms`}, nil)
	require.NoError(t, err)
	s.theirs = s.server.left()
	require.Len(t, s.theirs, 1)

	store, err := dirstore.Init(filepath.Join(s.folder, "repo"))
	require.NoError(t, err)
	r, err := repo.Init(t.Context(), store, nil, &repo.InitOptions{NoEncryption: true}, &repo.OpenOptions{StateDir: filepath.Join(s.folder, "state")})
	require.NoError(t, err)
	require.NoError(t, r.Close())
	require.NoError(t, store.Close())
	s.right(s.start(), false) // the base
	return s
}

func (s *scene) start() *session {
	s.t.Helper()
	one, err := openSession(s.t.Context(), s.folder, s.host.Addr(), s.proxy.addr, s.server.User)
	require.NoError(s.t, err)
	return one
}

// right makes one whole backup and compares each disk, and ends the session.
func (s *scene) right(one *session, changed bool) {
	t := s.t
	t.Helper()
	results, err := one.run(t.Context())
	require.NoError(t, err)
	require.Len(t, results, 2)
	for i, res := range results {
		require.Empty(t, res.Warnings)
		require.Equal(t, changed, res.Disks[0].Method == job.Changed, "%v", res.Fallbacks)
		img, err := one.repo.Open(t.Context(), res.Point, res.Disks[0].Key)
		require.NoError(t, err)
		got, want := make([]byte, 3<<20), make([]byte, 3<<20)
		_, err = img.ReadAt(t.Context(), got, 0)
		require.NoError(t, err)
		_, _ = s.guests[i].AtFreeze(0).ReadAt(want, 0)
		require.True(t, string(want) == string(got), "%s is not what it was at the freeze", res.VM)
		require.NoError(t, img.Close())
	}
	require.NoError(t, one.end())
}

// victim starts the session, and returns when it is dead, or done.
func (s *scene) victim(at int, after bool) (output string, err error) {
	cmd := exec.CommandContext(s.t.Context(), os.Args[0], "-test.run=^TestVictim$", "-test.timeout=120s")
	cmd.Env = append(os.Environ(), victimFolder+"="+s.folder, victimHost+"="+s.host.Addr(), victimSMB+"="+s.proxy.addr, victimUser+"="+s.server.User)
	out := &strings.Builder{}
	cmd.Stdout, cmd.Stderr = out, out
	started, dead := make(chan struct{}), make(chan struct{})
	var once sync.Once
	s.proxy.arm(at, after, func() {
		<-started
		once.Do(func() { cmd.Process.Kill() })
		<-dead
	})
	if err := cmd.Start(); err != nil {
		return "", err
	}
	close(started)
	err = cmd.Wait()
	close(dead)
	return out.String(), err
}

// killedAt kills one session there, and looks at what the next start makes of it.
func (s *scene) killedAt(at int, after bool, byte1 byte) {
	t := s.t
	t.Helper()
	for i, g := range s.guests {
		require.NoError(t, g.Write(0, int64(at%3)<<20, []byte{byte1, byte(i), byte(at)}))
	}
	out, err := s.victim(at, after)
	require.Error(t, err, "it was to die: %s", out)
	require.NotContains(t, out, "--- FAIL")
	ops := s.proxy.seen()
	s.proxy.arm(0, false, nil)
	where := fmt.Sprintf("killed at call %d, %s, after: %v", at, ops[at-1], after)

	next := s.start()
	require.NoError(t, next.sweep(t.Context()), where)
	for e, err := range next.journal.Pending(t.Context()) {
		require.NoError(t, err)
		require.Failf(t, "an effect is left", "%s: %+v", where, e)
	}
	require.Equal(t, s.theirs, s.server.left(), where)
	require.Len(t, s.server.exposed(), 1, where)
	for i, g := range s.guests {
		require.Empty(t, g.Checkpoints(), where)
		require.NoError(t, g.Write(0, 2<<20, []byte{byte1, byte(i), 'n'}))
	}
	s.right(next, true)
	require.Equal(t, s.theirs, s.server.left(), "%s; then %v", where, s.proxy.seen())
	require.Equal(t, "content of web1", s.readForeign(), where)
}

// readForeign reads somebody else's shadow copy, which nobody here may touch.
func (s *scene) readForeign() string {
	s.t.Helper()
	b, err := os.ReadFile(filepath.Join(s.server.snaps, s.theirs[0], "web1", "disk_1.vhdx"))
	require.NoError(s.t, err)
	i := strings.Index(string(b), "content of web1")
	require.Positive(s.t, i)
	return string(b[i : i+15])
}

func longTier() bool {
	tier := os.Getenv("HIKAE_TEST_TIER")
	return tier == "long" || tier == "release"
}

// R096, R097, R099: a session that is killed at any call of the protocol, before the call arrives or when its answer is lost. The next start
// leaves no shadow copy and no share of it, touches nobody else's, and its backup is right, on the changes since the last point.
func TestKilledAtEachCall(t *testing.T) {
	if !longTier() {
		t.Skip("in the long tier")
	}
	s := newScene(t)
	out, err := s.victim(0, false)
	require.NoError(t, err, out)
	ops := s.proxy.seen()
	t.Logf("a session has %d calls: %v", len(ops), ops)
	for _, op := range []string{"StartShadowCopySet", "AddToShadowCopySet", "PrepareShadowCopySet", "CommitShadowCopySet", "ExposeShadowCopySet", "GetShareMapping",
		"RecoveryCompleteShadowCopySet", "DeleteShareMapping"} {
		require.Contains(t, ops, op)
	}
	for i, op := range ops {
		for _, after := range []bool{false, true} {
			begun := time.Now()
			s.killedAt(i+1, after, byte(i))
			t.Logf("call %d, %s, after %v: %v", i+1, op, after, time.Since(begun).Round(10*time.Millisecond))
		}
	}
}
