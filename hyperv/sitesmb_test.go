package hyperv

import (
	"context"
	"errors"
	"io/fs"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae/hyperv/cim"
	"github.com/hikae/hikae/hyperv/hypervtest"
)

// The login is shown to machines of the site, to servers that configurations name, and to those that the caller named: never to one that
// only a disk file names.
func TestServersThatAreTrusted(t *testing.T) {
	c := cluster(t, 0, "2022", "2022")
	c.AddVM("HV1", hypervtest.VM{ID: movingVM, Name: "web1", Disks: []hypervtest.Disk{{Path: `\\FS1\vms\a.vhdx`, Size: 64 << 20}}})
	o := clusterOptions(c)
	o.Servers = []string{"FS9"}
	s := siteAt(t, c.Host("HV1"), o)
	may := func(server string) bool {
		l, err := s.smbLogin(t.Context(), server)
		if err != nil {
			require.ErrorIs(t, err, fs.ErrPermission)
			require.Empty(t, l)
			return false
		}
		require.Equal(t, "pw", l.Password)
		return true
	}
	require.True(t, may("hv1"))
	require.True(t, may("HV1.example.org"))
	require.True(t, may("CL1"))
	require.True(t, may("fs9"))
	require.False(t, may("fs1"))
	require.False(t, may("evil"))
	_, err := s.plan(t.Context(), movingVM, &ProviderOptions{})
	require.NoError(t, err)
	require.True(t, may("fs1"), "a configuration names it")
	require.True(t, may("hv2"), "a node")
	require.False(t, may("fs1.evil.example"))
	s.TrustServer("FS2")
	require.True(t, may("fs2"))
}

func TestServerOf(t *testing.T) {
	for file, want := range map[string]string{
		`\\fs1\vms\a.vhdx`: "fs1", `\\fs1.example.org\vms\a.vhdx`: "fs1.example.org", `\\10.0.0.7\vms\a.vhdx`: "10.0.0.7", `C:\a.vhdx`: "", `\\fs1`: "", `\\fs1\`: "",
		`\\?\C:\a.vhdx`: "", `\\.\PhysicalDrive1`: "", `\\?\UNC\fs1\vms\a.vhdx`: "", `\\a b\c\d`: "", `\\\x\y`: "", "": "",
	} {
		require.Equal(t, want, serverOf(file), file)
	}
}

// Files are where management is, at SMB's own port, unless the address says otherwise.
func TestWhereFilesAre(t *testing.T) {
	s := &Site{addr: "hv1.example.org:5985", inOne: true, nodes: map[string]*siteNode{}}
	s.first = &siteNode{name: "HV1"}
	s.nodes["hv1"], s.nodes["hv2"] = s.first, &siteNode{name: "HV2"}
	require.Equal(t, "hv1.example.org", s.whereFiles("HV1"))
	require.Equal(t, "HV2.example.org", s.whereFiles("hv2"))
	require.Empty(t, s.whereFiles("fs1"))
	s.opts.Address = func(machine, protocol string) string {
		if protocol == ProtocolSMB && machine == "fs1" {
			return "127.0.0.1:4455"
		}
		return ""
	}
	require.Equal(t, "127.0.0.1:4455", s.whereFiles("fs1"))
	require.Equal(t, "hv1.example.org", s.whereFiles("HV1"))
}

// Without a hook files come by SMB with the site's own login: a real Samba, which knows the fake's user.
func TestSiteFilesBySMB(t *testing.T) {
	f := fake(t, hypervtest.Options{})
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	err := f.StartSMB(ctx, nil)
	if errors.Is(err, errors.ErrUnsupported) {
		t.Skipf("this needs a Samba: %v", err)
	}
	require.NoError(t, err)
	id := f.AddVM(hypervtest.VM{Name: "web1", Disks: []hypervtest.Disk{{Path: `C:\VMs\web1\a.vhdx`, Size: 64 << 20}}})
	a := &Address{SMB: map[string]string{"": f.SMB()}}
	o, err := a.SiteOptions()
	require.NoError(t, err)
	o.Host = Options{CIM: &cim.Options{Plain: true}}
	s := siteAt(t, f, o)
	h, err := s.Owner(ctx, id)
	require.NoError(t, err)
	store, err := s.Store(ctx, h)
	require.NoError(t, err)
	list, err := store.List(ctx, `C:\VMs\web1`)
	require.NoError(t, err)
	require.Contains(t, list, "a.vhdx")
	p := preflightOf(t, s, id, nil)
	require.True(t, p.OK(), p.String())
	require.NotContains(t, names(p), "weak unknown")
	_, err = store.Open(ctx, `\\evil\share\a.vhdx`)
	require.ErrorIs(t, err, fs.ErrPermission)
}
