package sshchannel

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"slices"
	"strings"
	"sync"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/knownhosts"
)

// HostKeyError says that a server did not prove to be the one that is meant. Nothing was sent to it.
type HostKeyError struct {
	Addr    string
	Got     string   // fingerprint of the key that it has
	Known   []string // fingerprints of those that it should have
	Changed bool     // another key is known for this server: it was set up anew, or somebody is in between
	Revoked bool

	// stranger says that the files have no line for this server, and that it shows a plain key: only then may the key be
	// taken on trust. A certificate that does not hold is not that.
	stranger bool
}

func (e *HostKeyError) Error() string {
	switch {
	case e.Revoked:
		return fmt.Sprintf("%s has the key %s, which was revoked", e.Addr, e.Got)
	case e.Changed:
		return fmt.Sprintf("%s has the key %s, and another one is known for it (%s)", e.Addr, e.Got, strings.Join(e.Known, ", "))
	}
	return fmt.Sprintf("%s has the key %s, which is not known", e.Addr, e.Got)
}

func (e *HostKeyError) hint() string {
	switch {
	case e.Revoked:
		return "give the server a new key"
	case e.Changed:
		return "somebody may be listening in between. If the server was set up anew, replace its line in known_hosts"
	}
	return "compare the fingerprint with the server's own, and add it to known_hosts or to the guest's settings"
}

// hostKeys decides about servers' keys.
type hostKeys struct {
	addr string
	opts *Options
}

// attempts are the lists of algorithms to try, in order. A server shows one key of those that it has, chosen by these: so
// they are held to the kinds that are known for it.
func (k *hostKeys) attempts() ([][]string, error) {
	if len(k.opts.Fingerprints) > 0 {
		return [][]string{{ssh.KeyAlgoED25519}, {ssh.KeyAlgoECDSA256, ssh.KeyAlgoECDSA384, ssh.KeyAlgoECDSA521},
			{ssh.KeyAlgoRSASHA512, ssh.KeyAlgoRSASHA256}}, nil
	}
	known, err := k.known()
	if err != nil {
		return nil, err
	}
	var algorithms []string
	for _, key := range known {
		if isAuthority(key) {
			algorithms = append(slices.DeleteFunc(plainAlgorithms(false), func(a string) bool { return slices.Contains(algorithms, a) }), algorithms...)
			continue
		}
		for _, a := range algorithmsOf(key.Key.Type()) {
			if !slices.Contains(algorithms, a) {
				algorithms = append(algorithms, a)
			}
		}
	}
	if len(algorithms) == 0 {
		algorithms = plainAlgorithms(true)
	}
	return [][]string{algorithms}, nil
}

// plainAlgorithms are all without certificates, or those with.
func plainAlgorithms(plain bool) []string {
	return slices.DeleteFunc(ssh.SupportedAlgorithms().HostKeys, func(a string) bool { return strings.Contains(a, "-cert-") == plain })
}

func algorithmsOf(keyType string) []string {
	if keyType == ssh.KeyAlgoRSA {
		return []string{ssh.KeyAlgoRSASHA512, ssh.KeyAlgoRSASHA256}
	}
	return []string{keyType}
}

// known are the lines that the files have for this server.
func (k *hostKeys) known() ([]knownhosts.KnownKey, error) {
	check, err := k.files()
	if err != nil || check == nil {
		return nil, err
	}
	var unknown *knownhosts.KeyError
	if err := check(k.addr, nowhere, nobody{}); errors.As(err, &unknown) {
		return unknown.Want, nil
	}
	return nil, nil
}

// nowhere stands for an address where none is looked at: names are what is checked.
var nowhere = &net.TCPAddr{IP: net.IPv4zero}

// nobody is a key that no server has.
type nobody struct{}

func (nobody) Type() string                        { return "none" }
func (nobody) Marshal() []byte                     { return nil }
func (nobody) Verify([]byte, *ssh.Signature) error { return errors.New("no key") }

// files is the check against all files; nil where there is none yet.
func (k *hostKeys) files() (ssh.HostKeyCallback, error) {
	names := slices.Clone(k.opts.KnownHosts)
	if first := k.opts.TrustFirst; first != "" && !slices.Contains(names, first) {
		if _, err := os.Stat(first); err == nil {
			names = append(names, first)
		} else if !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
	}
	if len(names) == 0 {
		return nil, nil
	}
	return knownhosts.New(names...)
}

// isAuthority reports whether a known key is that of an authority that signs servers' keys.
func isAuthority(key knownhosts.KnownKey) bool {
	text, err := os.ReadFile(key.Filename)
	lines := bytes.Split(text, []byte("\n"))
	if err != nil || key.Line < 1 || key.Line > len(lines) {
		return false
	}
	return bytes.HasPrefix(bytes.TrimSpace(lines[key.Line-1]), []byte("@cert-authority"))
}

// check implements ssh.HostKeyCallback.
func (k *hostKeys) check(_ string, _ net.Addr, key ssh.PublicKey) error {
	if want := k.opts.Fingerprints; len(want) > 0 {
		if slices.Contains(want, ssh.FingerprintSHA256(key)) {
			return nil
		}
		return &HostKeyError{Addr: k.addr, Got: ssh.FingerprintSHA256(key), Known: want, Changed: true}
	}
	err := k.byFiles(key)
	var unknown *HostKeyError
	if errors.As(err, &unknown) && unknown.stranger && k.opts.TrustFirst != "" {
		return k.learn(key)
	}
	return err
}

func (k *hostKeys) byFiles(key ssh.PublicKey) error {
	bad := &HostKeyError{Addr: k.addr, Got: ssh.FingerprintSHA256(plainKey(key))}
	check, err := k.files()
	if err != nil {
		return err
	}
	if check == nil {
		bad.stranger = isPlain(key)
		return bad
	}
	err = check(k.addr, nowhere, key)
	var unknown *knownhosts.KeyError
	var revoked *knownhosts.RevokedError
	switch {
	case err == nil:
		return nil
	case errors.As(err, &revoked):
		bad.Revoked = true
	case errors.As(err, &unknown):
		bad.Changed = len(unknown.Want) > 0
		bad.stranger = !bad.Changed && isPlain(key)
		for _, w := range unknown.Want {
			bad.Known = append(bad.Known, ssh.FingerprintSHA256(w.Key))
		}
	default: // a certificate that is out of date, for another name, or by another authority
		return fmt.Errorf("%w: %w", bad, err)
	}
	return bad
}

func isPlain(key ssh.PublicKey) bool {
	_, cert := key.(*ssh.Certificate)
	return !cert
}

func plainKey(key ssh.PublicKey) ssh.PublicKey {
	if cert, ok := key.(*ssh.Certificate); ok {
		return cert.Key
	}
	return key
}

// learning keeps two connections from writing down two keys for one server.
var learning sync.Mutex

// learn writes a key down, durably, before it is trusted.
func (k *hostKeys) learn(key ssh.PublicKey) error {
	learning.Lock()
	defer learning.Unlock()
	err := k.byFiles(key) // another connection may have been first
	var unknown *HostKeyError
	if !errors.As(err, &unknown) || !unknown.stranger {
		return err
	}
	f, err := os.OpenFile(k.opts.TrustFirst, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("write down the key of %s: %w", k.addr, err)
	}
	_, err = f.WriteString(knownhosts.Line([]string{k.addr}, plainKey(key)) + "\n")
	return errors.Join(err, f.Sync(), f.Close())
}
