package install

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/hikae/hikae"
	"github.com/hikae/hikae/guest"
	"github.com/hikae/hikae/guest/install/pack"
	"github.com/hikae/hikae/guest/install/service"
)

// OverOptions change how an installer service is brought in. Nil and zero fields are good defaults.
type OverOptions struct {
	Kit      *KitOptions // of the kit that is made for this guest alone; Signers are needed
	Packages Packages    // the component is installed too. Nil: at the first session
	// Address is where the guest is met afterwards, host or host:port. Empty: it is met by whoever first connects.
	Address string
	// Dir is the service's folder in the guest. Empty: its default.
	Dir string
	// Journal keeps the folder that setup runs from before it is made, as an effect of kind guest.EffectKind: it holds a
	// secret. Nil: it is not kept.
	Journal hikae.Journal
}

const overLimit = 3 * time.Minute

// InstallOver sets an installer service up over a channel that is open, as when a VM is added: the program, a kit for
// this guest alone, and a package go into a private folder of the guest, the program sets itself up from there, and the
// folder goes. With an address the guest is met then, so that the temporary key lives for seconds. Credentials of the
// channel are not kept. The account must be an administrator.
func (c *Controller) InstallOver(ctx context.Context, name string, ch guest.Channel, programs guest.Programs, opts *OverOptions) error {
	o := OverOptions{}
	if opts != nil {
		o = *opts
	}
	ctx, cancel := context.WithTimeout(ctx, overLimit)
	defer cancel()
	if err := checkGuest(name); err != nil {
		return err
	}
	err := c.bring(ctx, name, ch, programs, &o)
	if err == nil && o.Address != "" {
		_, err = c.Enrol(ctx, name, o.Address)
	}
	if err != nil {
		return &guest.StepError{Guest: name, Step: "install", Err: err}
	}
	return nil
}

// parcel is what goes into a guest.
type parcel struct {
	name string
	data []byte
	mode uint32
}

func (c *Controller) bring(ctx context.Context, name string, ch guest.Channel, programs guest.Programs, o *OverOptions) (err error) {
	s := ch.System()
	if !s.Admin {
		return fmt.Errorf("%.80q is no administrator there", s.User)
	}
	if len(s.Temp) == 0 {
		return guest.ErrNoTemp
	}
	list, err := c.parcels(name, &s, programs, o)
	if err != nil {
		return err
	}
	sep := "/"
	if s.OS == "windows" {
		sep = `\`
	}
	p := guest.Program{Name: "hikae-" + strings.ToLower(rand.Text())}
	dir := s.Temp[0] + sep + p.Name
	p.Path = dir + sep + list[0].name
	done, err := intend(ctx, o.Journal, name, ch, p, dir)
	if err != nil {
		return err
	}
	defer func() {
		undo, cancel := context.WithTimeout(context.WithoutCancel(ctx), 20*time.Second)
		defer cancel()
		gone := guest.TakeAway(undo, ch, p)
		if gone == nil {
			gone = done(undo)
		}
		err = errors.Join(err, gone)
	}()
	if err := ch.MakeDir(ctx, dir); err != nil {
		return err
	}
	for _, p := range list {
		if err := ch.Upload(ctx, dir+sep+p.name, p.data, p.mode); err != nil {
			return err
		}
	}
	args := []string{"installer", "setup", "--kit", dir + sep + kitFile, "--start", "auto"}
	if o.Dir != "" {
		args = append(args, "--dir", o.Dir)
	}
	return runSetup(ctx, ch, p.Path, args)
}

// intend writes the folder down before it is made.
func intend(ctx context.Context, j hikae.Journal, name string, ch guest.Channel, p guest.Program, dir string) (done func(context.Context) error, err error) {
	if j == nil {
		return func(context.Context) error { return nil }, nil
	}
	return j.Intend(ctx, hikae.Effect{Kind: guest.EffectKind, VM: name, Facts: map[string]string{
		"way": string(ch.Kind()), "folder": dir, "program": p.Path, "service": p.Name, "os": ch.System().OS}})
}

// parcels are the program, first, the kit, and the package.
func (c *Controller) parcels(name string, s *guest.System, programs guest.Programs, o *OverOptions) ([]parcel, error) {
	b, err := programs.Build(s.OS, s.Arch)
	if err != nil {
		return nil, err
	}
	ko := KitOptions{}
	if o.Kit != nil {
		ko = *o.Kit
	}
	ko.Guest = name
	kit, err := c.NewKit(&ko)
	if err != nil {
		return nil, err
	}
	text, err := kit.Encode()
	if err != nil {
		return nil, err
	}
	list := []parcel{{b.File(), b.Content, 0o700}, {kitFile, text, 0o600}}
	if o.Packages == nil {
		return list, nil
	}
	f, err := o.Packages.Package(s.OS, s.Arch)
	if err != nil {
		return nil, err
	}
	return append(list, parcel{packageFile(&f.Package), append(f.Encode(), f.Program...), 0o600}), nil
}

func packageFile(p *pack.Package) string {
	return fmt.Sprintf("%s-%s-%s-%s%s", p.Name, p.Version, p.OS, p.Arch, pack.Ending)
}

func runSetup(ctx context.Context, ch guest.Channel, program string, args []string) error {
	r, err := guest.RunAdmin(ctx, ch, program, args, nil)
	if err != nil {
		return err
	}
	if r.ExitCode != 0 {
		return fmt.Errorf("setup in the guest ended with %d: %s", r.ExitCode, guest.Printable(strings.TrimSpace(string(r.Stderr)), 600))
	}
	var said struct {
		Dir string `json:"dir"`
	}
	if err := json.Unmarshal(r.Stdout, &said); err != nil || said.Dir == "" {
		return fmt.Errorf("setup in the guest answered %q", guest.Printable(string(r.Stdout), 200))
	}
	return nil
}

// RemoveOver takes an installer service and all that it installed out of a guest over a channel, and looks whether it is
// gone. dir is as in OverOptions.
func (c *Controller) RemoveOver(ctx context.Context, name string, ch guest.Channel, dir string) error {
	ctx, cancel := context.WithTimeout(ctx, overLimit)
	defer cancel()
	s := ch.System()
	program := service.Program(service.DefaultDir())
	args := []string{"installer", "uninstall"}
	if s.OS == "windows" {
		program = `C:\ProgramData\Hikae\Agent\installer\hikae-agent.exe`
	}
	if dir != "" {
		sep, file := "/", "hikae-agent"
		if s.OS == "windows" {
			sep, file = `\`, "hikae-agent.exe"
		}
		program, args = strings.Join([]string{dir, "installer", file}, sep), append(args, "--dir", dir)
	}
	r, err := guest.RunAdmin(ctx, ch, program, args, nil)
	if err == nil && r.ExitCode != 0 {
		err = fmt.Errorf("%w: uninstalling ended with %d: %s", guest.ErrLeftover, r.ExitCode, guest.Printable(strings.TrimSpace(string(r.Stderr)), 600))
	}
	if err != nil {
		return &guest.StepError{Guest: name, Step: "remove", Err: err}
	}
	return c.Forget(ctx, name)
}
