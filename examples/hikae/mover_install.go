package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/hikae/hikae/examples/hikae/internal/outcome"
	"github.com/hikae/hikae/examples/hikae/internal/service"
)

// moverDescription is the service of a mover with this command line. A service starts in a folder of its own, so that
// every path becomes an absolute one.
func (t *tool) moverDescription(f *moverServeFlags, secret string) (service.Description, error) {
	d := service.Description{Name: moverService, Title: "Hikae mover: brings backups over the network"}
	program, err := os.Executable()
	if err != nil {
		return d, err
	}
	if d.Program, err = filepath.EvalSymlinks(program); err != nil {
		return d, err
	}
	d.Args = []string{"mover", "serve", "--listen", f.listen, "--log", f.log, "--writers", fmt.Sprint(f.writers), "--linger", f.linger.String()}
	for _, describe := range []func(*service.Description) error{f.describeRepo, f.describeSources, f.describeFiles} {
		if err := describe(&d); err != nil {
			return d, err
		}
	}
	if secret != "" {
		if _, err := firstLine(secret); err != nil {
			return d, err
		}
		if err := addSecret(&d, service.Secret{Name: "secret", File: secret, Flag: "--password-file"}); err != nil {
			return d, err
		}
	}
	if file := t.env(smbCredentials); file != "" && isShare(f.repo) {
		if _, err := t.shareCredentials(); err != nil {
			return d, err
		}
		return d, addSecret(&d, service.Secret{Name: "smb", File: file, Variable: smbCredentials})
	}
	return d, nil
}

func (f *moverServeFlags) describeRepo(d *service.Description) error {
	if f.blind {
		d.Args = append(d.Args, "--blind")
	}
	if f.repo == "" {
		return nil
	}
	folder, err := absolute(f.repo)
	if err != nil {
		return err
	}
	d.Args = append(d.Args, "--repo", folder)
	if isURL(folder) {
		return nil
	}
	if _, err := os.Stat(folder); errors.Is(err, fs.ErrNotExist) {
		return about(f.repo, "repository", noRepository(err))
	}
	d.Write = append(d.Write, folder)
	return nil
}

// describeSources names the disks. They are only read, so nothing near them need be writable; devices have to be seen.
func (f *moverServeFlags) describeSources(d *service.Description) error {
	if _, err := parseImages(f.sources); err != nil {
		return err
	}
	for _, s := range f.sources {
		name, file, _ := strings.Cut(s, "=")
		path, format, stated := strings.Cut(file, ",format=")
		path, err := filepath.Abs(path)
		if err != nil {
			return err
		}
		fi, err := os.Stat(path)
		if err != nil {
			return &outcome.Error{Object: path, Text: "--source " + name, Err: err}
		}
		d.Devices = d.Devices || fi.Mode()&fs.ModeDevice != 0
		s = name + "=" + path
		if stated {
			s += ",format=" + format
		}
		d.Args = append(d.Args, "--source", s)
	}
	return nil
}

// describeFiles names the limits and the metrics.
func (f *moverServeFlags) describeFiles(d *service.Description) error {
	for _, o := range []struct {
		flag, value string
		path        bool
	}{{"--limit", f.limit, false}, {"--limit-file", f.limitFile, true}, {"--metrics", f.metrics, false},
		{"--metrics-token-file", f.metricsToken, true}, {"--metrics-file", f.metricsFile, true}} {
		value := o.value
		if value == "" {
			continue
		}
		if o.path {
			var err error
			if value, err = filepath.Abs(value); err != nil {
				return err
			}
		}
		d.Args = append(d.Args, o.flag, value)
		if o.flag == "--metrics-file" {
			d.Write = append(d.Write, filepath.Dir(value))
		}
	}
	return nil
}

// addSecret adds a file.
func addSecret(d *service.Description, s service.Secret) (err error) {
	if s.File, err = filepath.Abs(s.File); err == nil {
		d.Secrets = append(d.Secrets, s)
	}
	return err
}
