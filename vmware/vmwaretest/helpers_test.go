package vmwaretest

import (
	"net/url"
	"os"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/vmware/govmomi/session"
)

func userInfo(user, password string) *url.Userinfo { return url.UserPassword(user, password) }

func methodsLogout(r *rig) error { return session.NewManager(r.c).Logout(r.ctx) }

func readFile(t *testing.T, path string) []byte {
	t.Helper()
	p, err := os.ReadFile(path)
	require.NoError(t, err)
	return p
}
