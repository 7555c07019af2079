package hyperv

import (
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae/hyperv/cim"
)

const someVM = "a0a00000-0000-4000-8000-000000000001"

func TestParseURL(t *testing.T) {
	pin := strings.Repeat("AB:", 31) + "AB"
	a, err := ParseURL("hyperv://CORP%5Cbackup@hv.example:7777/?vm=" + someVM + "&vm=web1&match=db*&tls=1&thumbprint=" + pin +
		"&realm=CORP.EXAMPLE&kdc=dc1.example:88&kdc=dc2.example&smb=127.0.0.1:4455&smb.FS1=127.0.0.1:4456&node.HV2=127.0.0.1:7778" +
		"&mode=off-host&procedure=production&quiesce=require&full=1&rct=off&ignore=scsi0-1&ignore=ide0-0&check=off&transport=wsman")
	require.NoError(t, err)
	assert.Equal(t, &Address{Host: "hv.example:7777", User: `CORP\backup`, Realm: "CORP.EXAMPLE", KDCs: []string{"dc1.example:88", "dc2.example"},
		TLS: true, Thumbprint: []string{pin}, Nodes: map[string]string{"hv2": "127.0.0.1:7778"},
		SMB: map[string]string{"": "127.0.0.1:4455", "fs1": "127.0.0.1:4456"}, Transport: "wsman", NoCheck: true,
		Select: Selection{VMs: []string{someVM, "web1"}, Patterns: []string{"db*"}},
		Options: ProviderOptions{Procedure: Production, Mode: OffHost, Quiesce: RequireQuiesce, Full: true, NoTracking: true,
			IgnoreDisks: []string{"scsi0-1", "ide0-0"}}}, a)
	assert.Equal(t, cim.Login{User: `CORP\backup`, Password: "pw", Realm: "CORP.EXAMPLE", KDCs: a.KDCs}, a.Login("pw"))

	o, err := a.SiteOptions()
	require.NoError(t, err)
	assert.False(t, o.Host.CIM.Plain)
	assert.Equal(t, "127.0.0.1:7778", o.Address("hv2.corp.example", ProtocolCIM))
	assert.Empty(t, o.Address("HV1", ProtocolCIM))
	assert.Equal(t, "127.0.0.1:4456", o.Address("fs1", ProtocolSMB))
	assert.Equal(t, "127.0.0.1:4455", o.Address("HV1", ProtocolSMB))
}

// Without a word of TLS messages are sealed over HTTP; what only TLS has, and its port, mean TLS.
func TestParseURLTLS(t *testing.T) {
	pin := strings.Repeat("a1", 20)
	for address, tls := range map[string]bool{
		"hyperv://eva@hv1": false, "hyperv://eva@hv1/?tls": true, "hyperv://eva@hv1/?tls=0": false, "hyperv://eva@hv1/?plain": false, "hyperv://eva@hv1/?plain=0": true,
		"hyperv://eva@hv1:5986/": true, "hyperv://eva@hv1:5985/": false, "hyperv://eva@[::1]:5986": true, "hyperv://hv1/?thumbprint=" + pin: true,
		"hyperv://hv1/?ca=/etc/ca.pem": true, "hyperv://eva@hv1:5986/?plain=1": false, "hyperv://eva@hv1/?tls=1&plain=0": true,
	} {
		a, err := ParseURL(address)
		if assert.NoError(t, err, address) {
			assert.Equal(t, tls, a.TLS, address)
		}
	}
}

func TestParseURLRefuses(t *testing.T) {
	pin := strings.Repeat("a1", 20)
	for _, bad := range []string{
		"", "hyperv:", "hyperv:///", "hyperv://user@/", "http://user@host/", "hyperv:host", "hyperv://user@host/VM", "hyperv://user@host/#x", "hyperv://user@host:/",
		"hyperv://user@host:0/", "hyperv://user@host:65536/", "hyperv://user@host:http/", "hyperv://user@host/?vm=", "hyperv://user@host/?nope=1",
		"hyperv://user@host/?ca=a&ca=b", "hyperv://user@host/?vm=%zz", "hyperv://user@host/?vm=a%00b", "hyperv://user@host/?vm=%ff", "hyperv://user@host/?vm=a;b=c",
		"hyperv://user@host/?match=[", "hyperv://user@host/?thumbprint=AB", "hyperv://user@host/?quiesce=maybe", "hyperv://user@host/?mode=both",
		"hyperv://user@host/?procedure=5", "hyperv://user@host/?rct=1", "hyperv://user@host/?check=0", "hyperv://user@host/?full=yes", "hyperv://user@host/?tls=yes",
		"hyperv://user@host/?tls&plain", "hyperv://user@host/?tls=0&plain=0", "hyperv://user@host/?plain&thumbprint=" + pin, "hyperv://user@host/?tls=0&ca=x",
		"hyperv://user@host/?smb=a:b", "hyperv://user@host/?smb.=a", "hyperv://user@host/?smb.a%2Fb=c", "hyperv://user@host/?node.a=b:0", "hyperv://user@host/?node.a=b&node.a=c",
		"hyperv://user@host/?node.a=b&node.A=c", "hyperv://user@host/?kdc=a/b", "hyperv://user@host/?transport=dcop", "hyperv://us%0aer@host/", "hyperv://user@ho%20st/",
		"hyperv://user@host/?vm=" + strings.Repeat("x", maxValue+1), "hyperv://user@host/?" + strings.Repeat("vm=a&", maxAddress/5),
		"hyperv://user@host/?" + strings.Repeat("x", 100) + "=1",
	} {
		_, err := ParseURL(bad)
		if assert.ErrorIs(t, err, fs.ErrInvalid, "%.80s", bad) {
			assert.Less(t, len(err.Error()), 1000)
		}
	}
	_, err := ParseURL("hyperv://user@host/?nope=1")
	for _, p := range parameters {
		require.ErrorContains(t, err, p)
	}
}

func TestParseURLShowsNoPassword(t *testing.T) {
	for _, with := range []string{
		"hyperv://user:hunter2@host/", "hyperv://user:hunter2@host/?nope=1", "hyperv://user:hunter2/x@host/", "hyperv://user:hunter2@host:bad/",
		"hyperv://user@host/?password=hunter2", "hyperv://user:hun%zzhunter2@host/", "hyperv://user@host/?full=hunter2", "hyperv://user@host/?thumbprint=hunter2",
	} {
		_, err := ParseURL(with)
		require.ErrorIs(t, err, fs.ErrInvalid, with)
		assert.NotContains(t, err.Error(), "hunter2", with)
	}
	_, err := ParseURL("hyperv://user:hunter2@host/")
	require.ErrorContains(t, err, "HIKAE_SOURCE_PASSWORD")
}

func TestCAFile(t *testing.T) {
	dir := t.TempDir()
	none := filepath.Join(dir, "none.pem")
	require.NoError(t, os.WriteFile(none, []byte("nothing"), 0o600))
	for file, want := range map[string]error{none: fs.ErrInvalid, dir: fs.ErrInvalid, filepath.Join(dir, "gone"): fs.ErrNotExist} {
		_, err := (&Address{TLS: true, CAFile: file}).SiteOptions()
		require.ErrorIs(t, err, want)
	}
}

func FuzzParseURL(f *testing.F) {
	for _, seed := range []string{"hyperv://user@host:443/?vm=web1&match=a*", "hyperv://user:x@host/", "hyperv://[::1]:1/?smb.a=b:1&node.c=[::1]:2&plain", "hyperv://h/?kdc=a&tls&thumbprint="} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		a, err := ParseURL(text)
		if err != nil {
			require.ErrorIs(t, err, fs.ErrInvalid)
			return
		}
		require.True(t, isHostPort(a.Host))
		require.NoError(t, a.Select.check())
		require.False(t, !a.TLS && len(a.Thumbprint) > 0)
	})
}
