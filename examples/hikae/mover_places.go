package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/hikae/hikae/examples/hikae/internal/outcome"
	"github.com/hikae/hikae/examples/hikae/internal/show"
	"github.com/hikae/hikae/pipe/mover/trust"
)

// maxPlaces bounds how many enrolments are listed.
const maxPlaces = 10_000

// here are the enrolments of this machine at all movers, with their folders, by address and name.
func here(state string) (list []found) {
	addresses, err := os.ReadDir(filepath.Join(state, "movers", "at"))
	if err != nil { // nobody has enrolled this machine yet
		return nil
	}
	for _, a := range addresses {
		for dir, e := range enrolments(filepath.Join(state, "movers", "at", a.Name())) {
			if len(list) < maxPlaces {
				list = append(list, found{dir, e})
			}
		}
	}
	slices.SortFunc(list, func(a, b found) int {
		return cmp.Or(strings.Compare(a.Address, b.Address), strings.Compare(a.Name, b.Name))
	})
	return list
}

// found is an enrolment and the folder that it lies in.
type found struct {
	dir string
	enrolment
}

// unknownPlace says that this machine is not enrolled at a place, and where it is: what was mistyped, a port that was
// forgotten and a state folder that is not the one meant all look alike otherwise.
func (t *tool) unknownPlace(p farPlace) error {
	state, err := t.stateDir()
	if err != nil {
		return err
	}
	if full, err := filepath.Abs(state); err == nil {
		state = full
	}
	e := &outcome.Error{Kind: outcome.KindUsage, Object: p.String(),
		Text: fmt.Sprintf("this machine is not enrolled at %s as %s, says the state folder %s", p.address, p.name, state)}
	var urls []string
	const shown = 5
	list := here(state)
	for _, f := range list[:min(len(list), shown)] {
		urls = append(urls, f.url())
	}
	if len(list) > shown {
		urls = append(urls, fmt.Sprintf("and %d more (hikae mover places)", len(list)-shown))
	}
	if len(urls) > 0 {
		e.Hint = "Enrolled here: " + outcome.Clean(strings.Join(urls, ", ")) + ". "
	}
	e.Hint += fmt.Sprintf("To enrol: on the mover's machine, hikae mover token --repo REPO %s (for a guest interaction proxy: hikae proxy token %[1]s); then here, hikae mover enrol %[2]s --token-file FILE. Another state folder is named by HIKAE_STATE_DIR.", p.name, p.address)
	return e
}

// placeDoc is one enrolment of this machine for scripts.
type placeDoc struct {
	URL     string `json:"url"`
	Address string `json:"address"`
	Name    string `json:"name"`
	Role    string `json:"role"`
	Mode    string `json:"mode"`
	Key     string `json:"key"`    // this machine's own there; empty where it cannot be read
	Server  string `json:"server"` // the mover's
}

type placesDoc struct {
	State  string     `json:"state"`
	Places []placeDoc `json:"places"`
}

func (t *tool) moverPlacesCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "places",
		Short: "List the movers that this machine is enrolled at",
		Long: text(`
List where this machine is enrolled: what HIKAE_STATE_DIR holds. Nobody is asked whether it is let in there still; hikae mover
status does that.`),
		Example: example(`hikae mover places`),
		Args:    want(),
		RunE:    t.act(func(context.Context, []string) (*reply, error) { return t.moverPlaces() }),
	}
}

func (t *tool) moverPlaces() (*reply, error) {
	state, err := t.stateDir()
	if err != nil {
		return nil, err
	}
	if full, err := filepath.Abs(state); err == nil {
		state = full
	}
	doc := placesDoc{State: state, Places: []placeDoc{}}
	for _, f := range here(state) {
		d := placeDoc{URL: f.url(), Address: f.Address, Name: f.Name, Role: f.Role, Mode: f.Mode, Server: f.Server}
		if id, err := trust.LoadIdentity(f.dir); err == nil {
			d.Key = id.Pin().String()
		}
		doc.Places = append(doc.Places, d)
	}
	return &reply{doc: doc, loud: true, text: doc.print, notes: []string{"of the state folder " + state}}, nil
}

func (d placesDoc) print(w *show.Printer) error {
	if len(d.Places) == 0 {
		return w.Printf("this machine is enrolled nowhere\n")
	}
	table := show.NewTable("PLACE", "ROLE", "MODE", "KEY")
	for _, p := range d.Places {
		table.Row(outcome.Clean(p.URL), outcome.Clean(p.Role), outcome.Clean(p.Mode), short(p.Key))
	}
	return table.Print(w)
}

func (t *tool) moverForgetCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "forget mover://HOST[:PORT]/NAME",
		Short: "Remove an enrolment of this machine",
		Long: text(`
Remove the key by which this machine is known to a mover, and what else is kept for it, without asking the mover. Points there
stay, and the machine stays in the mover's book until hikae mover revoke is run there. To come back takes a new token.`),
		Example: example(`hikae mover forget mover://backup.example.org/restore-a`),
		Args:    want("URL"),
		RunE:    t.act(func(ctx context.Context, args []string) (*reply, error) { return t.moverForget(ctx, args[0]) }),
	}
}

func (t *tool) moverForget(ctx context.Context, url string) (*reply, error) {
	p, err := parseFar(url)
	if err != nil {
		return nil, err
	}
	dir, err := t.enrolmentDir(p)
	if err != nil {
		return nil, err
	}
	if _, err := os.Stat(dir); errors.Is(err, fs.ErrNotExist) {
		return nil, t.unknownPlace(p)
	}
	err = trust.LockFolder(ctx, filepath.Dir(dir), func() error {
		if err := os.RemoveAll(dir); err != nil {
			return err
		}
		return trust.SyncFolder(filepath.Dir(dir))
	})
	if err != nil {
		return nil, about(p.String(), "forget "+p.String(), err)
	}
	return &reply{doc: map[string]string{"forgotten": p.String()}, text: func(w *show.Printer) error {
		return w.Printf("this machine has no key for %s any more\n", outcome.Clean(p.String()))
	}, notes: []string{"on the mover's machine it is let in no more after: hikae mover revoke --repo REPO " + p.name}}, nil
}
