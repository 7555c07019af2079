package smbchannel

import (
	"context"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae/guest/smbchannel/rpc"
	"github.com/hikae/hikae/guest/smbchannel/scm"
	"github.com/hikae/hikae/guest/smbchannel/smbtest"
)

// Samba's own servers, which we had no hand in: the server service says where ADMIN$ is, and the service control manager
// opens, lists and refuses; CreateServiceW is a fault there, and the manager goes on after it.
func TestSambasOwnServers(t *testing.T) {
	s := smbtest.StartSamba(t, smbtest.Settings{Helpers: true})
	require.NoError(t, os.Mkdir(filepath.Join(s.Windows(), "System32"), 0o755))
	w := wayTo(s, nil)
	l, err := w.connect(t.Context())
	require.NoError(t, err)
	t.Cleanup(l.close)
	c := &channel{way: w, link: l}
	root, name, err := c.askServer(t.Context())
	require.NoError(t, err)
	require.Equal(t, `C:`+strings.ReplaceAll(s.Windows(), "/", `\`), root)
	require.Equal(t, smbtest.Name, name)

	manager, err := scm.Open(t.Context(), func(ctx context.Context) (io.ReadWriteCloser, error) { return l.openPipe(ctx, scm.Pipe) })
	require.NoError(t, err)
	defer manager.Close()
	st, err := manager.Status(t.Context(), "NETLOGON")
	require.NoError(t, err)
	require.Contains(t, []scm.State{scm.Stopped, scm.Running}, st.State)
	_, err = manager.Status(t.Context(), "nobody")
	var refused *scm.Error
	require.ErrorAs(t, err, &refused)
	require.Equal(t, uint32(scm.NoSuchService), refused.Code)
	err = manager.Create(t.Context(), scm.Service{Name: "hikae-x", Command: `"C:\x.exe"`})
	var fault *rpc.Fault
	require.ErrorAs(t, err, &fault)
	require.Equal(t, uint32(rpc.FaultUnknownProcedure), fault.Status)
	_, err = manager.Status(t.Context(), "NETLOGON")
	require.NoError(t, err, "it goes on")
}
