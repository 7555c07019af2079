package guestops

import (
	"errors"
	"io/fs"
	"net/url"
	"os/exec"
	"strings"
	"testing"

	"github.com/hikae/hikae/guest"
	"github.com/hikae/hikae/guest/winrmchannel/pwsh"
	"github.com/stretchr/testify/require"
	"github.com/vmware/govmomi/vim25/soap"
	"github.com/vmware/govmomi/vim25/types"
)

func fault(f types.AnyType) error {
	s := &soap.Fault{String: "words of the host"}
	s.Detail.Fault = f
	return soap.WrapSoapFault(s)
}

// Each answer of the host becomes a step and words that say what to change.
func TestExplain(t *testing.T) {
	for _, c := range []struct {
		err  error
		step string
		is   error
		hint bool
	}{
		{fault(types.InvalidGuestLogin{}), "login", nil, true},
		{fault(types.GuestPermissionDenied{}), "rights", nil, true},
		{fault(types.NoPermission{PrivilegeId: "VirtualMachine.GuestOperations.Execute"}), "rights", nil, true},
		{fault(types.GuestOperationsUnavailable{}), "tools", nil, true},
		{fault(types.GuestComponentsOutOfDate{}), "tools", nil, true},
		{fault(types.OperationDisabledByGuest{}), "tools", nil, true},
		{fault(types.InvalidPowerState{}), "power", nil, true},
		{fault(types.TooManyGuestLogons{}), "login", nil, true},
		{fault(types.NotAuthenticated{}), "connect", nil, true},
		{fault(types.ManagedObjectNotFound{}), "connect", fs.ErrNotExist, false},
		{fault(types.FileNotFound{}), "upload", fs.ErrNotExist, false},
		{fault(types.FileAlreadyExists{}), "upload", fs.ErrExist, false},
		{fault(types.CannotAccessFile{}), "upload", fs.ErrPermission, false},
		{fault(types.NoDiskSpace{}), "upload", nil, true},
		{fault(types.SystemError{}), "upload", nil, false},
		{&url.Error{Op: "Put", URL: "https://x/guestFile?token=ticket", Err: errors.New("reset")}, "upload", nil, true},
	} {
		err := explain("upload", c.err)
		var way *guest.WayError
		require.ErrorAs(t, err, &way)
		require.Equal(t, guest.VSphere, way.Kind)
		require.Equal(t, c.step, way.Step, err)
		require.Equal(t, c.hint, way.Hint != "", err)
		require.NotEmpty(t, way.Problem)
		require.NotContains(t, err.Error(), "ticket")
		if c.is != nil {
			require.ErrorIs(t, err, c.is)
		}
	}
}

// What is quoted for the one shell in between is read back as it was by that shell.
func FuzzShellLine(f *testing.F) {
	for _, s := range []string{"", "a b", "it's", "$(x)", "`x`", "\\", "\n", "'", "''\"", "ü€", "\xff"} {
		f.Add(s, s+"'")
	}
	f.Fuzz(func(t *testing.T, a, b string) {
		line, err := shellLine([]string{"printf", `%s\001`, a, b})
		if strings.ContainsRune(a+b, 0) {
			require.Error(t, err)
			return
		}
		if err != nil {
			return // too long
		}
		out, err := exec.Command("/bin/sh", "-c", line).Output()
		require.NoError(t, err)
		require.Equal(t, a+"\x01"+b+"\x01", string(out))
	})
}

func TestSystemOf(t *testing.T) {
	for path, want := range map[string]bool{"/bin/sh": false, `C:\x`: true, "d:/x": true} {
		got, err := systemOf(path)
		require.NoError(t, err, path)
		require.Equal(t, want, got, path)
	}
	for _, bad := range []string{"", "/", "C:", `C:\`, "1:\\x", `\x`, "x", "/x\x00"} {
		_, err := systemOf(bad)
		require.Error(t, err, bad)
	}
}

// A program for Windows is words that are data under a fixed script.
func TestWindowsScript(t *testing.T) {
	evil := `C:\a'"$(calc).exe`
	args, err := pwsh.Args(runWindows, `C:\Temp\x`, evil, pwsh.Line([]string{"a b", `c"d`}), "1000")
	require.NoError(t, err)
	script := pwsh.Script(runWindows, `C:\Temp\x`, evil, pwsh.Line([]string{"a b", `c"d`}), "1000")
	require.NotContains(t, script, "calc")
	require.NotContains(t, strings.Join(args, " "), "calc")
}
