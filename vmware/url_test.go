package vmware

import (
	"io/fs"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestParseURL(t *testing.T) {
	pin := strings.Repeat("AB:", 31) + "AB"
	a, err := ParseURL("vsphere://administrator%40vsphere.local@vc.example:8443/?vm=web1&vm=vm-42&match=db*&tag=tier:gold&folder=/DC0/vm/prod" +
		"&pool=backup&datacenter=DC0&thumbprint=" + pin + "&ca=/etc/ca.pem&transport=nbdssl,https&transport=!export&quiesce=require&tracking=keep" +
		"&mount=nfs1=/mnt/nfs1&vddk=/opt/vddk&scratch=/var/tmp")
	require.NoError(t, err)
	assert.Equal(t, "https://vc.example:8443/sdk", a.Server.String())
	assert.Equal(t, "administrator@vsphere.local", a.User)
	assert.Equal(t, Selection{VMs: []string{"web1", "vm-42"}, Patterns: []string{"db*"}, Tags: []string{"tier:gold"},
		Folders: []string{"/DC0/vm/prod"}, Pools: []string{"backup"}, Datacenter: "DC0"}, a.Select)
	assert.Equal(t, ConnectOptions{CAFile: "/etc/ca.pem", Thumbprint: pin}, a.Connect)
	assert.Equal(t, RequireQuiesce, a.Options.Quiesce)
	assert.True(t, a.Options.KeepTracking)
	assert.Equal(t, "/var/tmp", a.Options.Scratch)
	assert.Equal(t, &TransportOptions{Order: []string{"nbdssl", "https", "!export"}, Mounts: map[string]string{"nfs1": "/mnt/nfs1"},
		VDDK: &VDDKOptions{Libdir: "/opt/vddk"}}, a.Options.Transports)

	a, err = ParseURL("vsphere://root@[::1]")
	require.NoError(t, err)
	assert.Equal(t, "https://[::1]/sdk", a.Server.String())
	a, err = ParseURL("vsphere://esx1/")
	require.NoError(t, err)
	assert.Empty(t, a.User)
}

func TestParseURLRefuses(t *testing.T) {
	for _, bad := range []string{
		"", "vsphere:", "vsphere:///", "vsphere://user@/", "http://user@host/", "vsphere:host", "vsphere://user@host/DC0",
		"vsphere://user@host/#x", "vsphere://user@host:/", "vsphere://user@host:0/", "vsphere://user@host:65536/", "vsphere://user@host:http/",
		"vsphere://user@host/?vm=", "vsphere://user@host/?nope=1", "vsphere://user@host/?ca=a&ca=b", "vsphere://user@host/?vm=%zz",
		"vsphere://user@host/?vm=a%00b", "vsphere://user@host/?vm=a%0ab", "vsphere://user@host/?vm=%ff", "vsphere://user@host/?vm=a;b=c",
		"vsphere://user@host/?match=[", "vsphere://user@host/?thumbprint=AB", "vsphere://user@host/?quiesce=maybe", "vsphere://user@host/?tracking=maybe",
		"vsphere://user@host/?transport=carrier-pigeon", "vsphere://user@host/?transport=nbd,nbd", "vsphere://user@host/?mount=x",
		"vsphere://user@host/?mount=x=relative", "vsphere://user@host/?mount=x=/a&mount=x=/b", "vsphere://user@host/?vddk=relative",
		"vsphere://user@host/?scratch=relative", "vsphere://user@host/?vm=" + strings.Repeat("x", maxValue+1),
		"vsphere://user@host/?" + strings.Repeat("vm=a&", maxAddress/5), "vsphere://user@host/?vm=a&" + strings.Repeat("x", 100) + "=1",
	} {
		_, err := ParseURL(bad)
		if assert.ErrorIs(t, err, fs.ErrInvalid, "%.80s", bad) {
			assert.Less(t, len(err.Error()), 1000)
		}
	}
}

func TestParseURLShowsNoPassword(t *testing.T) {
	for _, with := range []string{
		"vsphere://user:hunter2@host/", "vsphere://user:hunter2@host/?nope=1", "vsphere://user:hunter2/x@host/", "vsphere://user:hunter2@host:bad/",
		"vsphere://user@host/?password=hunter2", "vsphere://user:hun%zzhunter2@host/",
	} {
		_, err := ParseURL(with)
		require.ErrorIs(t, err, fs.ErrInvalid, with)
		assert.NotContains(t, err.Error(), "hunter2", with)
	}
	_, err := ParseURL("vsphere://user:hunter2@host/")
	require.ErrorContains(t, err, "HIKAE_SOURCE_PASSWORD")
}

func FuzzParseURL(f *testing.F) {
	for _, seed := range []string{"vsphere://user@host:443/?vm=web1&match=a*", "vsphere://user:x@host/", "vsphere://host/?mount=a=/b&transport=!nfs"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		a, err := ParseURL(text)
		if err != nil {
			require.ErrorIs(t, err, fs.ErrInvalid)
			return
		}
		require.NotEmpty(t, a.Server.Hostname())
		require.Nil(t, a.Server.User)
		require.NoError(t, a.Select.check())
	})
}
