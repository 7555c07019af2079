package vmwaretest

import (
	"net/url"
	"os"
	"os/exec"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/vmware/govmomi/property"
	"github.com/vmware/govmomi/session"
	"github.com/vmware/govmomi/vim25/types"
)

func userInfo(user, password string) *url.Userinfo { return url.UserPassword(user, password) }

func methodsLogout(r *rig) error { return session.NewManager(r.c).Logout(r.ctx) }

func readFile(t *testing.T, path string) []byte {
	t.Helper()
	p, err := os.ReadFile(path)
	require.NoError(t, err)
	return p
}

// qemuOr reads with qemu-img where it is installed, and as given elsewhere.
func qemuOr(other func(*testing.T, string) []byte) func(*testing.T, string) []byte {
	if _, err := exec.LookPath("qemu-img"); err != nil {
		return other
	}
	return converted
}

func (r *rig) retrieve(ref types.ManagedObjectReference, out any) error {
	return property.DefaultCollector(r.c).RetrieveOne(r.ctx, ref, nil, out)
}
