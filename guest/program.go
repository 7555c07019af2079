package guest

import (
	"bytes"
	"cmp"
	"compress/gzip"
	"crypto/sha256"
	"debug/elf"
	"debug/pe"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"slices"
	"sync"
)

// maxBuild bounds a component's program, in bytes.
const maxBuild = 64 << 20

// Build is the component for one kind of system.
type Build struct {
	OS, Arch string // as Go calls them
	Name     string // of the program, without an ending. Empty: hikae-agent
	Content  []byte
	SHA256   [sha256.Size]byte
}

// File is what the program is called in a guest.
func (b *Build) File() string {
	name := cmp.Or(b.Name, "hikae-agent")
	if b.OS == "windows" {
		name += ".exe"
	}
	return name
}

// Programs has the component for each kind of system.
type Programs interface {
	// Build is the component for a system. Where there is none the error is fs.ErrNotExist. Nobody changes what it returns.
	Build(os, arch string) (*Build, error)
}

// ProgramsIn are those of a folder, or of an embedded one: os.DirFS("bin/agents"), embed.FS. A build lies at
// <os>-<arch>/hikae-agent (hikae-agent.exe for Windows), as it is or with gzip as ….gz. Each is read once and checked for
// being what its place says.
func ProgramsIn(fsys fs.FS) Programs { return ProgramsNamed(fsys, "") }

// ProgramsNamed are those of another program, which lie beside it: <os>-<arch>/<name>.
func ProgramsNamed(fsys fs.FS, name string) Programs {
	return &programs{fsys: fsys, name: name, read: map[string]*Build{}}
}

type programs struct {
	fsys fs.FS
	name string
	mu   sync.Mutex
	read map[string]*Build
}

func (p *programs) Build(os, arch string) (*Build, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	key := os + "-" + arch
	if b := p.read[key]; b != nil {
		return b, nil
	}
	b := &Build{OS: os, Arch: arch, Name: p.name}
	name := path.Join(key, b.File())
	if !fs.ValidPath(name) || path.Dir(name) != key { // both words come from the guest
		return nil, fmt.Errorf("a component for %s on %s: %w", printable(os), printable(arch), fs.ErrNotExist)
	}
	var err error
	if b.Content, err = p.content(name); err != nil {
		return nil, fmt.Errorf("a component for %s on %s: %w", os, arch, err)
	}
	if err := b.check(); err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	b.SHA256 = sha256.Sum256(b.Content)
	p.read[key] = b
	return b, nil
}

// content reads a file, or the packed one beside it.
func (p *programs) content(name string) ([]byte, error) {
	f, err := p.fsys.Open(name)
	if err == nil {
		defer f.Close()
		return readBounded(f)
	}
	packed, failed := p.fsys.Open(name + ".gz")
	if failed != nil {
		return nil, err
	}
	defer packed.Close()
	z, err := gzip.NewReader(packed)
	if err != nil {
		return nil, err
	}
	return readBounded(z)
}

func readBounded(r io.Reader) ([]byte, error) {
	b, err := io.ReadAll(io.LimitReader(r, maxBuild+1))
	if err == nil && len(b) > maxBuild {
		err = fmt.Errorf("longer than %d bytes", maxBuild)
	}
	return b, err
}

var errBuild = errors.New("not a program for that system")

// check finds builds that were put into the wrong place, before a guest does.
func (b *Build) check() error {
	if b.OS == "windows" {
		f, err := pe.NewFile(bytes.NewReader(b.Content))
		if err != nil {
			return fmt.Errorf("%w: %v", errBuild, err)
		}
		machines := map[string]uint16{"amd64": pe.IMAGE_FILE_MACHINE_AMD64, "arm64": pe.IMAGE_FILE_MACHINE_ARM64, "386": pe.IMAGE_FILE_MACHINE_I386}
		if machines[b.Arch] != f.Machine {
			return fmt.Errorf("%w: it is for machine %#x", errBuild, f.Machine)
		}
		return nil
	}
	f, err := elf.NewFile(bytes.NewReader(b.Content))
	if err != nil {
		return fmt.Errorf("%w: %v", errBuild, err)
	}
	machines := map[string][]elf.Machine{"amd64": {elf.EM_X86_64}, "arm64": {elf.EM_AARCH64}, "386": {elf.EM_386},
		"arm": {elf.EM_ARM}, "riscv64": {elf.EM_RISCV}, "ppc64le": {elf.EM_PPC64}, "s390x": {elf.EM_S390}}
	if !slices.Contains(machines[b.Arch], f.Machine) {
		return fmt.Errorf("%w: it is for %v", errBuild, f.Machine)
	}
	return nil
}
