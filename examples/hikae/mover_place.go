package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strings"

	"github.com/hikae/hikae/examples/hikae/internal/outcome"
)

// moverScheme is that of places behind a mover.
const moverScheme = "mover://"

// moverPort is the mover's port where none is given.
const moverPort = "7420"

// farPlace is what a mover:// URL means: a mover, and the name by which this machine is enrolled there.
type farPlace struct {
	address string // host:port
	name    string
	query   url.Values
}

func parseFar(text string) (farPlace, error) {
	wrong := func(why string) error {
		return outcome.Usage("For instance mover://backup.example.org/site-a, where site-a is the name of this machine's enrolment.", "%s: %s", text, why)
	}
	u, err := url.Parse(text)
	switch {
	case err != nil || u.Scheme+"://" != moverScheme:
		return farPlace{}, wrong("not a mover's URL")
	case u.User != nil:
		return farPlace{}, wrong("a mover knows this machine by its key, not by a user or password")
	case u.Hostname() == "" || u.Fragment != "":
		return farPlace{}, wrong("the host is missing")
	}
	name := strings.Trim(u.Path, "/")
	if name == "" || strings.Contains(name, "/") {
		return farPlace{}, wrong("after the host comes one name")
	}
	return farPlace{address: withPort(u.Host), name: name, query: u.Query()}, nil
}

// withPort adds the mover's port to an address without one.
func withPort(address string) string {
	if _, _, err := net.SplitHostPort(address); err == nil {
		return address
	}
	return net.JoinHostPort(strings.Trim(address, "[]"), moverPort)
}

func (p farPlace) String() string { return moverScheme + p.address + "/" + p.name }

// enrolment is what this machine keeps of one mover that knows it. Its key is in the same folder.
type enrolment struct {
	Address string `json:"address"`
	Name    string `json:"name"`
	Role    string `json:"role"`
	Mode    string `json:"mode"`
	Server  string `json:"server"` // the pin of the mover's key
}

const enrolmentFile = "mover.json"

// enrolmentDir is the folder of one enrolment.
func (t *tool) enrolmentDir(p farPlace) (string, error) {
	state, err := t.stateDir()
	if err != nil {
		return "", err
	}
	return filepath.Join(state, "movers", "at", folderName(p.address), folderName(p.name)), nil
}

// folderName writes a name so that it is a folder's on any system.
func folderName(name string) string {
	var b strings.Builder
	for _, c := range []byte(name) {
		switch {
		case c >= 'a' && c <= 'z', c >= '0' && c <= '9', c == '-', c == '.' && b.Len() > 0:
			b.WriteByte(c)
		default:
			fmt.Fprintf(&b, "_%02x", c)
		}
	}
	return b.String()
}

// enrolled reads an enrolment.
func (t *tool) enrolled(p farPlace) (e enrolment, dir string, err error) {
	if dir, err = t.enrolmentDir(p); err != nil {
		return e, "", err
	}
	data, err := readSmall(filepath.Join(dir, enrolmentFile), 64<<10)
	if errors.Is(err, fs.ErrNotExist) {
		return e, dir, &outcome.Error{Kind: outcome.KindUsage, Object: p.String(),
			Text: fmt.Sprintf("this machine is not enrolled at %s as %s", p.address, p.name),
			Hint: fmt.Sprintf("On the mover's machine: hikae mover token --repo REPO %s. Then here: hikae mover enrol %s --token-file FILE.", p.name, p.address)}
	}
	if err == nil {
		err = json.Unmarshal(data, &e)
	}
	if err != nil {
		return e, dir, about(p.String(), "enrolment at "+p.address, err)
	}
	return e, dir, nil
}

// keepEnrolment writes an enrolment down, durably and all at once.
func keepEnrolment(dir string, e enrolment) error {
	data, err := json.MarshalIndent(e, "", "  ")
	if err != nil {
		return err
	}
	return keepFile(dir, enrolmentFile, append(data, '\n'))
}

// keepFile writes a file for this user alone, durably and all at once.
func keepFile(dir, name string, data []byte) error {
	f, err := os.CreateTemp(dir, ".new-")
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if err = errors.Join(err, f.Sync(), f.Close()); err == nil {
		err = os.Rename(f.Name(), filepath.Join(dir, name))
	}
	if err != nil {
		return errors.Join(err, os.Remove(f.Name()))
	}
	return nil
}
