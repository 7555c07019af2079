//go:build unix

package kvm

import (
	"io/fs"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestParseURL(t *testing.T) {
	m, o, err := ParseURL("kvm:///run/vm/qmp.sock?agent=/run/vm/qga.sock&name=web1&scratch=/var/tmp")
	require.NoError(t, err)
	require.Equal(t, Machine{QMP: "/run/vm/qmp.sock", Agent: "/run/vm/qga.sock", Name: "web1"}, m)
	require.Equal(t, "/var/tmp", o.Scratch)
	m, _, err = ParseURL("kvm:///a%20b")
	require.NoError(t, err)
	require.Equal(t, Machine{QMP: "/a b"}, m)
	for _, bad := range []string{
		"", "kvm:", "kvm://", "kvm:///", "kvm://host/run/qmp", "kvm:///q?agent=", "kvm:///q?agent=qga.sock", "kvm:///q?x=1",
		"kvm:///q?name=a&name=b", "kvm:q", "file:///q", "kvm:///q#f", "kvm://u@/q", "kvm:///q?name=%zz", "kvm:///q%00",
	} {
		_, _, err := ParseURL(bad)
		require.ErrorIs(t, err, fs.ErrInvalid, bad)
	}
}
