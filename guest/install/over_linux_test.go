package install

import (
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae"
	"github.com/hikae/hikae/guest"
	"github.com/hikae/hikae/guest/guesttest"
	"github.com/hikae/hikae/guest/sshchannel"
)

// R130, R136: when a machine is added, its installer service comes over whatever channel is open then: here a real SSH
// server. Afterwards SSH is not needed any more, and everything goes again over the service's own port.
func TestInstallOverSSH(t *testing.T) {
	h := guesttest.SSHD(t, nil)
	way := sshchannel.New(h.Addr, guest.Credential{User: h.User, PrivateKey: h.Key}, &sshchannel.Options{KnownHosts: []string{h.KnownHosts}})
	ch, err := way.Open(t.Context())
	require.NoError(t, err)
	defer ch.Close()
	if !ch.System().Admin {
		t.Skip("setting a service up needs root")
	}
	c := newController(t)
	const dir = "/root/hikae-service"
	opts := &OverOptions{Kit: &KitOptions{Signers: signers(), Listen: freePort(t)}, Packages: packagesOf(t, "1.2.0"), Dir: dir}
	opts.Address = opts.Kit.Listen
	journal, err := hikae.OpenFileJournal(filepath.Join(t.TempDir(), "journal"))
	require.NoError(t, err)
	opts.Journal = journal
	began := time.Now()
	require.NoError(t, c.InstallOver(t.Context(), "web1", ch, programs(t, "1.2.0"), opts))
	t.Logf("set up, met, with the component, in %v", time.Since(began).Round(time.Millisecond))
	ours := func() (list []string) {
		for _, l := range h.Left() {
			if l != h.Path(dir) && len(l) > 0 && l[0] == '/' {
				list = append(list, l)
			}
		}
		return list
	}
	require.Empty(t, ours(), "the folder with the secret is gone")

	f := c.Guest("web1", "", nil).Probe(t.Context())
	require.Equal(t, "1.2.0", f.Version, f.Problem)
	require.NoError(t, ch.Close())
	s, err := guest.NewSession([]guest.Deployer{&guest.Here{Guest: "web1", Persist: c.Guest("web1", "", nil)}},
		&guest.SessionOptions{Guest: "web1", Choice: guest.Choice{Persistent: true}})
	require.NoError(t, err)
	require.NoError(t, s.Begin(t.Context()))
	require.NoError(t, s.Close(t.Context()))
	began = time.Now()
	require.NoError(t, c.Remove(t.Context(), "web1"))
	require.Empty(t, h.Left())
	t.Logf("removed in %v", time.Since(began).Round(time.Millisecond))

	// Again, and taken away over the channel.
	ch, err = way.Open(t.Context())
	require.NoError(t, err)
	defer ch.Close()
	opts.Packages = nil // the component would come at the first run
	require.NoError(t, c.InstallOver(t.Context(), "web1", ch, programs(t, "1.2.0"), opts))
	require.NoError(t, c.RemoveOver(t.Context(), "web1", ch, dir))
	require.Empty(t, h.Left())
	_, err = c.Known("web1")
	require.ErrorIs(t, err, ErrNotMet)

	// Without a package the component comes later; without a signer nothing is laid down.
	opts.Kit.Signers = nil
	require.Error(t, c.InstallOver(t.Context(), "web1", ch, programs(t, "1.2.0"), opts))
	require.Empty(t, h.Left())
	require.NoError(t, journal.Close())
	for e, err := range journal.Pending(t.Context()) {
		t.Errorf("left in the journal: %v %v", e, err)
	}
}
