package guest

import (
	"bytes"
	"compress/gzip"
	"debug/elf"
	"encoding/binary"
	"io/fs"
	"testing"
	"testing/fstest"

	"github.com/stretchr/testify/require"
)

// elfOf is the smallest file that says which machine it is for.
func elfOf(t *testing.T, machine elf.Machine) []byte {
	t.Helper()
	h := elf.Header64{Ident: [16]byte{0x7f, 'E', 'L', 'F', byte(elf.ELFCLASS64), byte(elf.ELFDATA2LSB), byte(elf.EV_CURRENT)},
		Type: uint16(elf.ET_EXEC), Machine: uint16(machine), Version: uint32(elf.EV_CURRENT), Ehsize: 64}
	var b bytes.Buffer
	require.NoError(t, binary.Write(&b, binary.LittleEndian, h))
	return b.Bytes()
}

func packed(t *testing.T, content []byte) []byte {
	t.Helper()
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	_, err := z.Write(content)
	require.NoError(t, err)
	require.NoError(t, z.Close())
	return b.Bytes()
}

// Builds are found by system, plain or packed; one that is not what its place says is refused before a guest sees it.
func TestProgramsIn(t *testing.T) {
	t.Parallel()
	amd := elfOf(t, elf.EM_X86_64)
	p := ProgramsIn(fstest.MapFS{
		"linux-amd64/hikae-agent":       {Data: amd},
		"linux-arm64/hikae-agent.gz":    {Data: packed(t, elfOf(t, elf.EM_AARCH64))},
		"linux-386/hikae-agent":         {Data: amd},
		"linux-s390x/hikae-agent":       {Data: []byte("#!/bin/sh\n")},
		"linux-riscv64/hikae-agent.gz":  {Data: []byte("not packed")},
		"windows-amd64/hikae-agent.exe": {Data: amd},
		"other/hikae-agent":             {Data: amd},
	})
	b, err := p.Build("linux", "amd64")
	require.NoError(t, err)
	require.Equal(t, amd, b.Content)
	require.Equal(t, "hikae-agent", b.File())
	again, err := p.Build("linux", "amd64")
	require.NoError(t, err)
	require.Same(t, b, again)
	b, err = p.Build("linux", "arm64")
	require.NoError(t, err)
	require.NotZero(t, b.SHA256)

	for _, bad := range [][2]string{{"linux", "386"}, {"linux", "s390x"}, {"windows", "amd64"}} {
		_, err := p.Build(bad[0], bad[1])
		require.ErrorIs(t, err, errBuild, bad)
	}
	_, err = p.Build("linux", "riscv64")
	require.Error(t, err)
	for _, none := range [][2]string{{"plan9", "amd64"}, {"", ""}, {"..", ".."}, {"linux", "amd64/../../other"}, {"/", ""}, {"a\x00", "b"}} {
		_, err := p.Build(none[0], none[1])
		require.ErrorIs(t, err, fs.ErrNotExist, none)
	}
}

// A packed file that grows without end is cut off.
func TestBuildBomb(t *testing.T) {
	t.Parallel()
	p := ProgramsIn(fstest.MapFS{"linux-amd64/hikae-agent.gz": {Data: packed(t, make([]byte, maxBuild+1))}})
	_, err := p.Build("linux", "amd64")
	require.ErrorContains(t, err, "longer than")
}

// Another program lies beside the component, under its own name.
func TestProgramsNamed(t *testing.T) {
	t.Parallel()
	p := ProgramsNamed(fstest.MapFS{"linux-amd64/hikae-agent": {Data: []byte("x")}, "linux-amd64/hikae-other": {Data: elfOf(t, elf.EM_X86_64)}}, "hikae-other")
	b, err := p.Build("linux", "amd64")
	require.NoError(t, err)
	require.Equal(t, "hikae-other", b.File())
	require.Equal(t, "hikae-other.exe", (&Build{OS: "windows", Name: "hikae-other"}).File())
	_, err = p.Build("windows", "amd64")
	require.ErrorIs(t, err, fs.ErrNotExist)
}
