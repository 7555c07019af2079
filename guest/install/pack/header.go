package pack

import (
	"bufio"
	"bytes"
	"crypto/ed25519"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"regexp"
	"strconv"
	"strings"
)

// Bounds.
const (
	MaxSize   = 64 << 20 // bytes of a program
	maxHeader = 2 << 10  // bytes of a header
	maxKeys   = 16       // that may sign
)

// What is wrong with a package.
var (
	// ErrForm: it is not written as packages are.
	ErrForm = errors.New("this is no package")
	// ErrSignature: none of the trusted keys has signed it, or it was changed afterwards.
	ErrSignature = errors.New("the package is not signed by a trusted key")
	// ErrContent: the program is not the one that was signed.
	ErrContent = errors.New("the package's content is not what was signed")
	// ErrRollback: a higher version was installed before, and the signer did not allow to go back.
	ErrRollback = errors.New("the package is older than what was installed")
	// ErrSystem: it is for another operating system or processor.
	ErrSystem = errors.New("the package is for another system")
)

// Header says what a package holds.
type Header struct {
	Name      string // of the component: [a-z0-9-]
	Version   string // major.minor.patch
	OS, Arch  string // as Go calls them
	Size      int64  // bytes of the program
	SHA256    [32]byte
	Downgrade bool // the signer allows it to take the place of a higher version
}

const magic = "hikae-package 1\n"

var word = regexp.MustCompile(`^[a-z0-9][a-z0-9-]{0,62}$`)

// Check tells whether a header can be one. The error is an [ErrForm].
func (h *Header) Check() error {
	for _, w := range []string{h.Name, h.OS, h.Arch} {
		if !word.MatchString(w) {
			return fmt.Errorf("%w: %.70q is no name", ErrForm, w)
		}
	}
	if _, err := parseVersion(h.Version); err != nil {
		return err
	}
	if h.Size <= 0 || h.Size > MaxSize {
		return fmt.Errorf("%w: a program of %d bytes: 1 to %d", ErrForm, h.Size, MaxSize)
	}
	return nil
}

// Signed are the bytes that a signature is over.
func (h *Header) Signed() []byte {
	downgrade := "no"
	if h.Downgrade {
		downgrade = "yes"
	}
	return fmt.Appendf(nil, "%sname %s\nversion %s\nos %s\narch %s\nsize %d\nsha256 %x\ndowngrade %s\n",
		magic, h.Name, h.Version, h.OS, h.Arch, h.Size, h.SHA256, downgrade)
}

// Sign signs a header.
func (h *Header) Sign(key ed25519.PrivateKey) (signature []byte, err error) {
	if err := h.Check(); err != nil {
		return nil, err
	}
	if len(key) != ed25519.PrivateKeySize {
		return nil, fmt.Errorf("a signer's key of %d bytes: %w", len(key), fs.ErrInvalid)
	}
	return ed25519.Sign(key, h.Signed()), nil
}

// Verify tells whether one of the keys has signed the header. The error is an [ErrForm] or an [ErrSignature].
func (h *Header) Verify(signature []byte, keys []ed25519.PublicKey) error {
	if err := h.Check(); err != nil {
		return err
	}
	if len(signature) != ed25519.SignatureSize {
		return fmt.Errorf("%w: a signature of %d bytes", ErrSignature, len(signature))
	}
	text := h.Signed()
	for _, k := range keys[:min(len(keys), maxKeys)] {
		if len(k) == ed25519.PublicKeySize && ed25519.Verify(k, text, signature) {
			return nil
		}
	}
	return fmt.Errorf("%w: %s %s", ErrSignature, h.Name, h.Version)
}

// Package is a header with its signature.
type Package struct {
	Header
	Signature []byte
}

// Encode is everything before the program.
func (p *Package) Encode() []byte {
	return fmt.Appendf(p.Signed(), "signature %s\n\n", base64.StdEncoding.EncodeToString(p.Signature))
}

// Read reads a package's header. What follows in r is the program; r is read no further than that. Nothing is verified.
func Read(r *bufio.Reader) (*Package, error) {
	var text []byte
	for lines := 0; !bytes.HasSuffix(text, []byte("\n\n")); lines++ {
		line, err := r.ReadSlice('\n')
		text = append(text, line...)
		if err != nil || len(text) > maxHeader || lines > 10 {
			return nil, fmt.Errorf("%w: its header does not end", ErrForm)
		}
	}
	return Decode(text)
}

// Decode decodes what Encode makes, and nothing else.
func Decode(text []byte) (*Package, error) {
	p := &Package{}
	rest, ok := strings.CutPrefix(string(text), magic)
	if !ok || len(text) > maxHeader {
		return nil, fmt.Errorf("%w: it does not begin with %q", ErrForm, strings.TrimSpace(magic))
	}
	for _, f := range []struct {
		name string
		take func(string) error
	}{
		{"name", func(s string) error { p.Name = s; return nil }},
		{"version", func(s string) error { p.Version = s; return nil }},
		{"os", func(s string) error { p.OS = s; return nil }},
		{"arch", func(s string) error { p.Arch = s; return nil }},
		{"size", func(s string) (err error) { p.Size, err = strconv.ParseInt(s, 10, 64); return err }},
		{"sha256", func(s string) error { return p.takeSum(s) }},
		{"downgrade", func(s string) error { p.Downgrade = s == "yes"; return nil }},
		{"signature", func(s string) (err error) { p.Signature, err = base64.StdEncoding.DecodeString(s); return err }},
	} {
		line, after, found := strings.Cut(rest, "\n")
		value, named := strings.CutPrefix(line, f.name+" ")
		if !found || !named || f.take(value) != nil {
			return nil, fmt.Errorf("%w: its line %q is missing or wrong", ErrForm, f.name)
		}
		rest = after
	}
	if err := p.Check(); err != nil {
		return nil, err
	}
	if !bytes.Equal(p.Encode(), text) {
		return nil, fmt.Errorf("%w: it is not written as headers are", ErrForm)
	}
	return p, nil
}

func (h *Header) takeSum(s string) error {
	sum, err := hex.DecodeString(s)
	if err != nil || len(sum) != len(h.SHA256) {
		return ErrForm
	}
	copy(h.SHA256[:], sum)
	return nil
}
