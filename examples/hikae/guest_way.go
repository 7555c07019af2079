package main

import (
	"cmp"
	"context"
	"errors"
	"io/fs"
	"net/url"
	"os"
	"path"
	"path/filepath"
	"strings"

	"github.com/hikae/hikae"
	"github.com/hikae/hikae/examples/hikae/internal/outcome"
	"github.com/hikae/hikae/guest"
	"github.com/hikae/hikae/guest/remote"
	"github.com/hikae/hikae/guest/smbchannel"
	"github.com/hikae/hikae/guest/sshchannel"
	"github.com/hikae/hikae/kvm"
)

const wayHint = "For instance ssh://root@web1, smb://backup@win1 or qga:///run/web1.qga."

// parseWay reads the URL of a way.
func parseWay(text string) (*url.URL, error) {
	u, err := url.Parse(text)
	if err != nil {
		return nil, outcome.Usage(wayHint, "that is no URL of a way into a guest")
	}
	if _, secret := u.User.Password(); secret {
		return nil, outcome.Usage("Put it into HIKAE_GUEST_PASSWORD, or into a file of --credentials.", "a password stands in a URL, where everybody can read it")
	}
	kind := guest.Kind(u.Scheme)
	switch {
	case kind == guest.QGA && u.Host == "" && filepath.IsAbs(u.Path):
	case (kind == guest.SSH || kind == guest.SMB || kind == guest.Direct && u.User == nil) && u.Hostname() != "" && strings.Trim(u.Path, "/") == "" && u.RawQuery == "":
	default:
		return nil, outcome.Usage(wayHint, "%s://%s is no way into a guest", u.Scheme, u.Host) // the rest may be a secret
	}
	return u, nil
}

// guestNameOf is what a guest is called where nobody says.
func (t *tool) guestNameOf(text string) (string, error) {
	u, err := parseWay(text)
	if err != nil {
		return "", err
	}
	if guest.Kind(u.Scheme) == guest.Direct {
		if name, err := t.guestAt(u.Host); name != "" || err != nil {
			return name, err
		}
	}
	if u.Host != "" {
		return u.Hostname(), nil
	}
	return strings.TrimSuffix(path.Base(u.Path), path.Ext(u.Path)), nil
}

// wayInto is one way into a guest.
type wayInto struct {
	kind    guest.Kind
	here    guest.Way
	far     *remote.Way      // the same, as a proxy is told of it; nil: no proxy can go it
	persist guest.Persistent // in place of here, for a persistent component
}

// wayOf sets one way up.
func (t *tool) wayOf(ctx context.Context, f *waysFlags, name, text string) (*wayInto, error) {
	u, err := parseWay(text)
	if err != nil {
		return nil, err
	}
	way := &wayInto{kind: guest.Kind(u.Scheme)}
	switch way.kind {
	case guest.QGA:
		way.here = guest.OverWay(way.kind, func(context.Context) (hikae.GuestChannel, error) { return kvm.OpenGuest(u.Path), nil }, nil)
		return way, nil
	case guest.Direct:
		way.persist, err = t.persistent(name, u.Host)
		return way, err
	}
	cred, err := t.guestCredential(ctx, f, name, way.kind)
	if err != nil {
		return nil, err
	}
	if user := u.User.Username(); user != "" {
		cred.User = user
	}
	if cred.User == "" {
		return nil, outcome.Usage(wayHint, "%s names no user", u.Redacted())
	}
	settings := waySettings{Address: u.Host}
	if way.kind == guest.SMB {
		way.here = smbchannel.New(u.Host, cred, nil)
	} else {
		opts, err := t.sshOptions(f)
		if err != nil {
			return nil, err
		}
		way.here, settings.Fingerprints = sshchannel.New(u.Host, cred, opts), f.fingerprints
	}
	if !cred.Agent { // the keys of an agent stay on its machine
		way.far = &remote.Way{Kind: way.kind, Settings: settings, Credential: cred}
	}
	return way, nil
}

const maxKey = 64 << 10

// guestCredential is what to log in with.
func (t *tool) guestCredential(ctx context.Context, f *waysFlags, name string, kind guest.Kind) (guest.Credential, error) {
	if f.credentials != "" {
		file, err := guest.OpenCredentials(f.credentials)
		if err != nil {
			return guest.Credential{}, &outcome.Error{Kind: outcome.KindSecret, Object: f.credentials, Text: "credentials", Err: err}
		}
		return file.Credential(ctx, name, kind)
	}
	secret := t.env("HIKAE_GUEST_PASSWORD")
	if f.sshKey == "" {
		return guest.Credential{Password: secret, Agent: f.sshAgent && kind == guest.SSH}, nil
	}
	cred := guest.Credential{Agent: f.sshAgent}
	if kind != guest.SSH { // the secret unlocks the key, and is shown to nobody
		return cred, outcome.Usage("Put both into a file of --credentials.", "with --ssh-key HIKAE_GUEST_PASSWORD is the key's passphrase, so there is no password for %s", kind)
	}
	key, err := readSmall(f.sshKey, maxKey)
	if err != nil {
		return cred, &outcome.Error{Object: f.sshKey, Text: "private key " + f.sshKey, Err: err}
	}
	cred.PrivateKey, cred.Passphrase = key, secret
	return cred, nil
}

func (t *tool) sshOptions(f *waysFlags) (*sshchannel.Options, error) {
	opts := &sshchannel.Options{KnownHosts: f.knownHosts, Fingerprints: f.fingerprints}
	if len(opts.KnownHosts) == 0 {
		home := t.env("HOME")
		for _, name := range []string{filepath.Join(cmp.Or(home, "/nowhere"), ".ssh", "known_hosts"), "/etc/ssh/ssh_known_hosts"} {
			if _, err := os.Stat(name); !errors.Is(err, fs.ErrNotExist) {
				opts.KnownHosts = append(opts.KnownHosts, name)
			}
		}
	}
	state, err := t.stateDir()
	if err != nil {
		return nil, err
	}
	first := filepath.Join(state, "guest_hosts")
	if _, err := os.Stat(first); err == nil { // what was taken the first time is held to, whoever asks
		opts.KnownHosts = append(opts.KnownHosts, first)
	}
	if f.trustFirst {
		if err := os.MkdirAll(state, 0o700); err != nil {
			return nil, err
		}
		opts.TrustFirst = first
	}
	return opts, nil
}
