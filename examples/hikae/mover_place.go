package main

import (
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strings"

	"github.com/hikae/hikae/examples/hikae/internal/outcome"
	"github.com/hikae/hikae/pipe/mover/trust"
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
		return outcome.Usage("For instance mover://backup.example.org/site-a, where site-a is the name of this machine's enrolment.", "%s: %s", outcome.Redact(text), why)
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

// meantMover reports that a place was most likely meant to be a mover's URL and is none: movr://, MOVER://, mover:/host.
func meantMover(place string) bool {
	scheme, rest, ok := strings.Cut(place, ":")
	if !ok || !strings.HasPrefix(rest, "/") || strings.HasPrefix(place, moverScheme) {
		return false
	}
	scheme = strings.ToLower(scheme)
	return scheme == "mover" || strings.HasPrefix(rest, "//") && near(scheme, "mover")
}

// near reports that one letter too many, too few, other or swapped with its neighbour makes a of b.
func near(a, b string) bool {
	if len(a) > len(b) {
		a, b = b, a
	}
	if len(b)-len(a) > 1 {
		return false
	}
	i := 0
	for i < len(a) && a[i] == b[i] {
		i++
	}
	if len(a) < len(b) {
		return a[i:] == b[i+1:]
	}
	if i == len(a) || a[i+1:] == b[i+1:] {
		return true
	}
	return i+1 < len(a) && a[i] == b[i+1] && a[i+1] == b[i] && a[i+2:] == b[i+2:]
}

func notMover(place string) error {
	_, rest, _ := strings.Cut(place, ":")
	return outcome.Usage(fmt.Sprintf("Did you mean %s%s?", moverScheme, strings.TrimLeft(outcome.Redact(rest), "/")), "%s is not a place", outcome.Redact(place))
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
	// Token is the pin of the token by which it came, so that the token can be brought again after a kill.
	Token string `json:"token,omitempty"`
}

const enrolmentFile = "mover.json"

// enrolmentDir is the folder of one enrolment.
func (t *tool) enrolmentDir(p farPlace) (string, error) {
	state, err := t.stateDir()
	if err != nil {
		return "", err
	}
	return filepath.Join(addressDir(state, p.address), folderName(p.name)), nil
}

// addressDir is the folder of all enrolments at an address.
func addressDir(state, address string) string {
	return filepath.Join(state, "movers", "at", folderName(address))
}

// maxFolderName is the longest name that folderName writes, in bytes: file systems have 255, and some of it is for others.
const maxFolderName = 200

// folderName writes a name so that it is a folder's on any system. What would be too long ends in its hash.
func folderName(name string) string {
	var b strings.Builder
	device := isDevice(name)
	for i, c := range []byte(name) {
		switch {
		case i == 0 && (device || c == '.'), i == len(name)-1 && c == '.':
			fmt.Fprintf(&b, "_%02x", c)
		case c >= 'a' && c <= 'z', c >= '0' && c <= '9', c == '-', c == '.':
			b.WriteByte(c)
		default:
			fmt.Fprintf(&b, "_%02x", c)
		}
	}
	if b.Len() <= maxFolderName {
		return b.String()
	}
	sum := sha256.Sum256([]byte(name))
	return fmt.Sprintf("%s_-%x", b.String()[:maxFolderName-34], sum[:16])
}

// isDevice reports whether Windows takes a file of that name for a device, in any folder and with any extension (Naming
// Files, Paths, and Namespaces, on learn.microsoft.com).
func isDevice(name string) bool {
	base, _, _ := strings.Cut(name, ".")
	switch base {
	case "con", "prn", "aux", "nul":
		return true
	}
	return len(base) == 4 && (base[:3] == "com" || base[:3] == "lpt") && base[3] >= '0' && base[3] <= '9'
}

// enrolled reads an enrolment.
func (t *tool) enrolled(p farPlace) (e enrolment, dir string, err error) {
	if dir, err = t.enrolmentDir(p); err != nil {
		return e, "", err
	}
	e, err = readEnrolment(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return e, dir, t.unknownPlace(p)
	}
	if err != nil {
		return e, dir, about(p.String(), "enrolment at "+p.address, err)
	}
	return e, dir, nil
}

func readEnrolment(dir string) (e enrolment, err error) {
	data, err := readSmall(filepath.Join(dir, enrolmentFile), 64<<10)
	if err == nil {
		err = json.Unmarshal(data, &e)
	}
	return e, err
}

// enrolments are those at an address, by their folders. What cannot be read is none.
func enrolments(at string) iter.Seq2[string, enrolment] {
	return func(yield func(string, enrolment) bool) {
		entries, err := os.ReadDir(at)
		if err != nil {
			return
		}
		for _, entry := range entries {
			name, dir := entry.Name(), filepath.Join(at, entry.Name())
			if strings.HasPrefix(name, tokenFolder) || strings.HasPrefix(name, oldFolder) {
				continue
			}
			if e, err := readEnrolment(dir); err == nil && !yield(dir, e) {
				return
			}
		}
	}
}

// keepEnrolment writes an enrolment down, durably and all at once. The folder is the caller's alone.
func keepEnrolment(dir string, e enrolment) error {
	data, err := json.MarshalIndent(e, "", "  ")
	if err != nil {
		return err
	}
	return trust.WriteFile(dir, enrolmentFile, append(data, '\n'))
}
