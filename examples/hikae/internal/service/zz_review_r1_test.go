package service

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestReviewSecretIsChecked(t *testing.T) {
	d := mover
	d.Secret = "/etc/hikae/pw\nExecStartPre=/bin/sh -c id"
	unit, err := d.Unit()
	require.Error(t, err, "a line feed begins another setting:\n%s", unit)
}

func TestReviewPathsAreWritten(t *testing.T) {
	d := mover
	d.Secret = "/etc/hikae/100%/pw"
	unit, err := d.Unit()
	require.NoError(t, err)
	require.Contains(t, unit, "LoadCredential=secret:/etc/hikae/100%%/pw\n")
	d = mover
	d.Write = []string{"/srv/a$b"}
	unit, err = d.Unit()
	require.NoError(t, err)
	require.NotContains(t, unit, "ReadWritePaths=/srv/a$$b\n", "variables are of command lines alone: systemd makes $$ a $ nowhere else")
}
