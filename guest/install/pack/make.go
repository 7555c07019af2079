package pack

import (
	"bufio"
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"io"
	"os"
	"strings"
)

// Ending is what files of packages end in.
const Ending = ".hikaepkg"

// Make signs a program. The header's size and sum are taken from it.
func Make(program []byte, h Header, key ed25519.PrivateKey) ([]byte, error) {
	h.Size, h.SHA256 = int64(len(program)), sha256.Sum256(program)
	signature, err := h.Sign(key)
	if err != nil {
		return nil, err
	}
	p := Package{Header: h, Signature: signature}
	return append(p.Encode(), program...), nil
}

// File is a package in a file, as whoever sends it has it.
type File struct {
	Package
	Program []byte
}

// ReadFile reads a package, and sees that its program is whole. The signature is for whoever installs it to verify.
func ReadFile(path string) (*File, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if fi, err := f.Stat(); err != nil || !fi.Mode().IsRegular() || fi.Size() > MaxSize+maxHeader {
		return nil, fmt.Errorf("%s: %w: %w", path, ErrForm, orIrregular(err))
	}
	out, err := ReadFrom(f)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return out, nil
}

func orIrregular(err error) error {
	if err == nil {
		err = fmt.Errorf("it is no regular file of at most %d bytes", MaxSize+maxHeader)
	}
	return err
}

// ReadFrom reads a whole package, as [ReadFile] does. What follows it is an [ErrContent].
func ReadFrom(r io.Reader) (*File, error) {
	b := bufio.NewReader(r)
	p, err := Read(b)
	if err != nil {
		return nil, err
	}
	var program bytes.Buffer
	if _, err := io.Copy(&program, io.LimitReader(b, p.Size+1)); err != nil {
		return nil, err
	}
	if int64(program.Len()) != p.Size || sha256.Sum256(program.Bytes()) != p.SHA256 {
		return nil, fmt.Errorf("%w: %s %s", ErrContent, p.Name, p.Version)
	}
	return &File{Package: *p, Program: program.Bytes()}, nil
}

const keyPrefix = "ed25519:"

// KeyText is how a signer's public key is written.
func KeyText(key ed25519.PublicKey) string {
	return keyPrefix + base64.StdEncoding.EncodeToString(key)
}

// ParseKey reads what KeyText writes. The error is an [ErrForm].
func ParseKey(text string) (ed25519.PublicKey, error) {
	code, ok := strings.CutPrefix(text, keyPrefix)
	raw, err := base64.StdEncoding.DecodeString(code)
	if !ok || err != nil || len(raw) != ed25519.PublicKeySize || KeyText(raw) != text {
		return nil, fmt.Errorf("%w: %.80q is no key", ErrForm, text)
	}
	return raw, nil
}
