package smbstore_test

import (
	"bytes"
	"fmt"
	"io/fs"
	"log/slog"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/hikae/hikae/repo/store/smbstore"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestCredentialsDoNotPrint(t *testing.T) {
	c := smbstore.Credentials{User: "backup", Domain: "CORP", Password: "Secret-1234"}
	var log bytes.Buffer
	slog.New(slog.NewTextHandler(&log, nil)).Info("log on", "as", c, "pointer", &c)
	for _, s := range []string{fmt.Sprint(c), fmt.Sprintf("%+v %#v %s %q", c, c, c, c), fmt.Sprint(&c), log.String()} {
		require.NotContains(t, s, "Secret", s)
		require.Contains(t, s, "backup")
	}
}

func TestParseAddress(t *testing.T) {
	for raw, want := range map[string]smbstore.Address{
		"smb://nas/backup":              {Host: "nas", Share: "backup"},
		"smb://nas:1445/backup/":        {Host: "nas:1445", Share: "backup"},
		"smb://[::1]:445/backup/a/b%20": {},
		"smb://[::1]:445/backup/a/b c":  {Host: "[::1]:445", Share: "backup", Folder: "a/b c"},
	} {
		got, err := smbstore.ParseAddress(raw)
		if want == (smbstore.Address{}) {
			require.ErrorIs(t, err, fs.ErrInvalid, raw)
			continue
		}
		require.NoError(t, err, raw)
		require.Equal(t, want, got)
		again, err := smbstore.ParseAddress(got.String())
		require.NoError(t, err, got)
		require.Equal(t, got, again)
	}
	for _, raw := range []string{
		"", "nas/backup", "smb://", "smb://nas", "smb://nas/", "smb:///backup", "smb://u:Secret@nas/backup", "smb://nas/b/../c",
		"smb://nas/b//c", "smb://nas/b/.", "smb://nas/b/c:stream", `smb://nas/b/c\d`, "smb://nas/b/c*", "smb://nas/b?x=1", "s3://nas/b",
		"smb://nas/" + strings.Repeat("b", 100), "smb://nas/b" + strings.Repeat("/c", 20), "smb://nas/b/%00", "smb://nas/b/%2e%2e/c",
	} {
		_, err := smbstore.ParseAddress(raw)
		require.ErrorIs(t, err, fs.ErrInvalid, raw)
		require.NotContains(t, err.Error(), "Secret")
	}
}

// Whatever is read as an address prints as one that reads the same, and leads nowhere but into its share.
func FuzzParseAddress(f *testing.F) {
	for _, seed := range []string{"smb://nas/backup", "smb://nas:1445/a b/c/d", "smb://[::1]/x/y", "smb://nas/b/../c", `smb://n/b/c\d`, "smb://u:p@h/s"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, raw string) {
		at, err := smbstore.ParseAddress(raw)
		if err != nil {
			require.ErrorIs(t, err, fs.ErrInvalid)
			return
		}
		require.NotContains(t, "/"+at.Share+"/"+at.Folder+"/", "/../")
		require.NotContains(t, at.Share+at.Folder, `\`)
		again, err := smbstore.ParseAddress(at.String())
		require.NoError(t, err, at.String())
		require.Equal(t, at, again)
	})
}
