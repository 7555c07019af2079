package service

import (
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
)

func mountSmall(t *testing.T, dir string) {
	require.NoError(t, syscall.Mount("tmpfs", dir, "tmpfs", syscall.MS_NOSUID, "size=256k,mode=0700"))
	t.Cleanup(func() { require.NoError(t, syscall.Unmount(dir, 0)) })
}
