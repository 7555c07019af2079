package smbchannel

import (
	"io/fs"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestInShare(t *testing.T) {
	rel, err := inShare(`C:\Windows`, `c:\WINDOWS\hikae-a\b.exe`)
	require.NoError(t, err)
	require.Equal(t, `hikae-a\b.exe`, rel)
	for _, bad := range []string{
		"", `C:\Windows`, `C:\Windows\`, `C:\Windowsx\a`, `C:\Windows\a\..\b`, `C:\Windows\.`, `C:\Windows\a:b`, `C:\Windows\a*`,
		`C:\Windows\a\\b`, `C:\Windows\nul`, `C:\Windows\COM1.log`, `C:\Windows\a `, `C:\Windows\%x%`, "C:\\Windows\\a\x00", `\\?\C:\Windows\a`,
		`C:\Windows\` + strings.Repeat("a", maxPath),
	} {
		_, err := inShare(`C:\Windows`, bad)
		require.ErrorIs(t, err, fs.ErrInvalid, bad)
	}
}

func TestOurs(t *testing.T) {
	for path, want := range map[string]bool{
		`hikae-a`: true, `HIKAE-a\b`: true, `hikae-`: false, `hikae`: false, `System32`: false, `Temp\hikae-a`: false, ``: false,
	} {
		require.Equal(t, want, ours(path), path)
	}
}

func TestCommandLine(t *testing.T) {
	require.Equal(t, `"C:\a b\x.exe" pipe "two words" "q\"q" "ends\\ " plain\ ""`,
		commandLine(`C:\a b\x.exe`, []string{"pipe", "two words", `q"q`, `ends\\ `, `plain\`, ""}))
	require.Equal(t, `"a b\\"`, quote(`a b\`))
}

// Whatever a guest says of the folder behind ADMIN$ and of its own name is held to what they can be.
func TestValidRoot(t *testing.T) {
	require.NoError(t, validRoot(`C:\Windows`))
	require.NoError(t, validRoot(`D:\a\b`))
	for _, bad := range []string{"", `C:`, `C:\`, `\\other\share`, `C:/Windows`, `C:\Windows\..`, `C:\a"b`, `C:\a%b`, `1:\a`, `C:\` + strings.Repeat("a", 130)} {
		require.Error(t, validRoot(bad), bad)
	}
	require.Equal(t, "WEB1", hostName("WEB\x001\x1b"))
}

func TestPrivate(t *testing.T) {
	for sddl, want := range map[string]bool{
		private:                true,
		"D:P(A;OICI;FA;;;BA)":  true,
		"D:AI(A;OICI;FA;;;SY)": false,
		"D:P(A;OICI;FA;;;SY)(A;OICI;0x1200a9;;;BU)": false,
		"D:P":             false,
		"D:P(A;;FA;;;WD)": false,
		"":                false,
		"O:BAD:P(A;;FA;;;SY)(A;;FA;;;S-1-5-21-1)": false,
	} {
		require.Equal(t, want, checkPrivate(sddl) == nil, sddl)
	}
}

func TestMachine(t *testing.T) {
	for _, bad := range [][]byte{nil, []byte("MZ"), make([]byte, 4096), append([]byte("MZ"), make([]byte, 0x3e)...)} {
		_, err := machine(bad)
		require.Error(t, err)
	}
	far := append([]byte("MZ"), make([]byte, 0x3e)...)
	copy(far[0x3c:], "\xff\xff\xff\xff")
	_, err := machine(far)
	require.Error(t, err)
}
