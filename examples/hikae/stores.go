package main

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"

	"github.com/hikae/hikae/examples/hikae/internal/outcome"
	"github.com/hikae/hikae/repo/store"
	"github.com/hikae/hikae/repo/store/dirstore"
	"github.com/hikae/hikae/repo/store/smbstore"
)

// smbScheme is that of a folder on a share that is spoken to directly.
const smbScheme = "smb://"

func isShare(place string) bool { return strings.HasPrefix(place, smbScheme) }

// isURL tells places elsewhere, which a store speaks to, from folders of this machine.
func isURL(place string) bool { return isShare(place) || isBucket(place) || isStripe(place) }

// openStore opens the store of a repository: a folder, a folder on a share, one in a bucket, or a set of these.
func (t *tool) openStore(ctx context.Context, place string) (store.Store, error) {
	switch {
	case isBucket(place):
		return t.openBucket(ctx, place)
	case isStripe(place):
		return t.openStripe(ctx, place)
	case !isShare(place):
		return dirstore.Open(place)
	}
	at, creds, err := t.share(place)
	if err != nil {
		return nil, err
	}
	return smbstore.Open(ctx, at, creds, nil)
}

// initStore makes the store of a repository. A bucket or a striped set is there already: a person made it.
func (t *tool) initStore(ctx context.Context, place string) (store.Store, error) {
	switch {
	case isBucket(place):
		return t.openBucket(ctx, place)
	case isStripe(place):
		return t.openStripe(ctx, place)
	case !isShare(place):
		return dirstore.Init(place)
	}
	at, creds, err := t.share(place)
	if err != nil {
		return nil, err
	}
	return smbstore.Init(ctx, at, creds, nil)
}

// share is a share's address, and how to log on to it. The credentials are looked up for each connection, so that a
// password that was changed in the file counts.
func (t *tool) share(place string) (smbstore.Address, smbstore.CredentialsFunc, error) {
	at, err := smbstore.ParseAddress(place)
	if err != nil {
		return at, nil, &outcome.Error{Kind: outcome.KindUsage, Object: place, Err: err, Hint: "For instance smb://nas/backup/hikae; user and password come by HIKAE_SMB_CREDENTIALS, see: hikae help places."}
	}
	t.warnOpen(t.env(smbCredentials))
	creds := func(context.Context) (smbstore.Credentials, error) { return t.shareCredentials() }
	_, err = creds(context.Background())
	return at, creds, err
}

// smbCredentials names the variable with the file that says as whom to log on to shares.
const smbCredentials = "HIKAE_SMB_CREDENTIALS"

// warnOpen warns of a file with a secret that every user of this machine may read. On Windows an access list says who may,
// and that of the folder is what people set.
func (t *tool) warnOpen(file string) {
	if file == "" || runtime.GOOS == "windows" {
		return
	}
	if fi, err := os.Stat(file); err == nil && fi.Mode().Perm()&0o007 != 0 {
		fmt.Fprintf(t.stderr, "%s %s\n", t.printer(t.stderr).Yellow("warning:"),
			outcome.Clean(fmt.Sprintf("every user of this machine may read %s (mode %04o): chmod 600 it", file, fi.Mode().Perm())))
	}
}

// shareCredentials are those of HIKAE_SMB_CREDENTIALS, a file as mount.cifs(8) has it, or of HIKAE_SMB_USER and
// HIKAE_SMB_PASSWORD.
func (t *tool) shareCredentials() (c smbstore.Credentials, err error) {
	if file := t.env(smbCredentials); file != "" {
		data, err := readSmall(file, 64<<10)
		if err != nil {
			return c, err
		}
		lines := bufio.NewScanner(bytes.NewReader(data))
		for number := 1; lines.Scan(); number++ {
			key, value, ok := strings.Cut(lines.Text(), "=")
			switch key = strings.TrimSpace(key); {
			case key == "" || key[0] == '#':
			case !ok:
				// the line is not shown: it may be a password
				return c, &outcome.Error{Kind: outcome.KindUsage, Object: file, Text: fmt.Sprintf("%s: line %d is not NAME=VALUE", file, number)}
			case key == "username" || key == "user":
				c.User = value
			case key == "password" || key == "pass":
				c.Password = value
			case key == "domain" || key == "dom" || key == "workgroup":
				c.Domain = value
			}
		}
		if lines.Err() != nil {
			return c, &outcome.Error{Kind: outcome.KindUsage, Object: file, Text: file + " has a line that is too long"}
		}
	} else {
		c.User, c.Password = t.env("HIKAE_SMB_USER"), t.env("HIKAE_SMB_PASSWORD")
		if domain, user, ok := strings.Cut(c.User, `\`); ok {
			c.Domain, c.User = domain, user
		}
	}
	if c.User == "" {
		return c, outcome.Usage("Set HIKAE_SMB_CREDENTIALS to a file with username=, password= and domain=, or HIKAE_SMB_USER and HIKAE_SMB_PASSWORD.",
			"nobody said as whom to log on to the share")
	}
	return c, nil
}

// absolute is a repository's place that means the same from any folder.
func absolute(place string) (string, error) {
	if isURL(place) {
		return place, nil
	}
	return filepath.Abs(place)
}
