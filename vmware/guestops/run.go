package guestops

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"strconv"
	"strings"
	"time"

	"github.com/hikae/hikae"
	"github.com/hikae/hikae/guest"
	"github.com/hikae/hikae/guest/winrmchannel/pwsh"
	"github.com/vmware/govmomi/vim25/soap"
	"github.com/vmware/govmomi/vim25/types"
)

const (
	maxStream = 1 << 20 // bytes of each stream
	maxInput  = 16 << 20
	maxLine   = 100_000 // bytes of a command line; Linux takes 131072 in one argument
	pollFirst = 20 * time.Millisecond
	pollLast  = 500 * time.Millisecond
)

// Run implements [hikae.GuestChannel]. When the context ends so does the program.
func (c *Channel) Run(ctx context.Context, path string, args []string, stdin []byte) (hikae.RunResult, error) {
	ctx, cancel := bounded(ctx)
	defer cancel()
	r, err := c.run(ctx, path, args, stdin)
	if err != nil {
		return hikae.RunResult{}, fmt.Errorf("run %s: %w", guest.Printable(path, 300), err)
	}
	return r, nil
}

func (c *Channel) run(ctx context.Context, path string, args []string, stdin []byte) (r hikae.RunResult, err error) {
	windows, err := systemOf(path)
	if err != nil && strings.ContainsAny(path, `/\:`) || path == "" {
		return r, errPath
	}
	if len(stdin) > maxInput {
		return r, fmt.Errorf("an input of %d bytes, at most %d", len(stdin), maxInput)
	}
	p := &program{channel: c, windows: windows, words: append([]string{path}, args...)}
	if err := p.makeFolder(ctx); err != nil {
		return r, err
	}
	defer func() { err = errors.Join(err, p.clean(ctx)) }()
	if len(stdin) > 0 {
		if err := c.upload(ctx, p.file("in"), stdin, 0o600); err != nil {
			return r, err
		}
	}
	if err := p.start(ctx, len(stdin) > 0); err != nil {
		return r, err
	}
	if r.ExitCode, err = p.wait(ctx); err != nil {
		return r, err
	}
	return r, p.collect(ctx, &r)
}

// program is one run.
type program struct {
	channel *Channel
	windows bool
	words   []string
	folder  string
	pid     int64
	started bool // or may have been
	refused bool // the host has answered that it did not start it
	ended   bool
}

func (p *program) file(name string) string {
	if p.windows {
		return p.folder + `\` + name
	}
	return p.folder + "/" + name
}

var errFolder = errors.New("the guest named a folder that is no path of its system")

// makeFolder makes what the program's streams lie in. An error leaves none.
func (p *program) makeFolder(ctx context.Context) error {
	if p.windows {
		return p.makeFolderWindows(ctx)
	}
	var failed []error
	for _, temp := range append(p.channel.temp, "/tmp", "/var/tmp") {
		// The name is ours, so that a folder whose making was never answered can be taken away all the same.
		p.folder = temp + "/hikae-run-" + strings.ToLower(rand.Text())
		err := p.channel.files.MakeDirectory(ctx, p.channel.auth, p.folder, false)
		made := err == nil
		if made {
			attributes := &types.GuestPosixFileAttributes{Permissions: 0o700}
			err = p.channel.files.ChangeFileAttributes(ctx, p.channel.auth, p.folder, attributes)
		}
		if err == nil {
			err = p.checkEmpty(ctx)
		}
		if err == nil {
			return nil
		}
		if !errors.Is(err, errNotEmpty) {
			err = explain("temp", err)
		}
		if failed = append(failed, err); made || !aboutFiles(err) {
			return errors.Join(err, p.clean(ctx))
		}
	}
	return errors.Join(failed...)
}

var errNotEmpty = errors.New("somebody has put something into the folder before it was closed to others")

// checkEmpty looks into the folder once it is the account's alone.
func (p *program) checkEmpty(ctx context.Context) error {
	list, err := p.channel.files.ListFiles(ctx, p.channel.auth, p.folder, 0, 10, "")
	if err != nil {
		return err
	}
	for _, f := range list.Files {
		if f.Path != "." && f.Path != ".." && strings.TrimRight(f.Path, "/") != p.folder {
			return errNotEmpty
		}
	}
	return nil
}

// oursWindows reports whether a folder has the name that we asked for: no other is ever deleted.
func oursWindows(folder string) bool {
	base := strings.ToLower(folder[strings.LastIndexAny(folder, `\/`)+1:])
	return strings.HasPrefix(base, "hikae-run-") && strings.LastIndexAny(folder, `\/`) > 2
}

// makeFolderWindows lets the guest choose: the account's own folder for such things is one that others may not enter.
func (p *program) makeFolderWindows(ctx context.Context) error {
	dir, err := p.channel.files.CreateTemporaryDirectory(ctx, p.channel.auth, "hikae-run-", "", "")
	if err != nil {
		return explain("temp", err)
	}
	windows, err := systemOf(dir)
	p.folder = strings.TrimRight(dir, `\`)
	if err != nil || !windows || !oursWindows(p.folder) {
		return fmt.Errorf("%w: %w: folder %s", errFolder, guest.ErrLeftover, guest.Printable(dir, 300))
	}
	return nil
}

// early is how long before our deadline PowerShell ends a program: it counts from when it has started itself, and its clock
// is to be over before ours.
const early = 5 * time.Second

func limitOf(remaining time.Duration) time.Duration {
	return max(remaining-min(early, remaining/2), 0)
}

// start starts the program under a script that keeps what it prints.
func (p *program) start(ctx context.Context, input bool) error {
	var spec types.BaseGuestProgramSpec
	if p.windows {
		limit := time.Hour
		if end, ok := ctx.Deadline(); ok {
			limit = limitOf(time.Until(end))
		}
		args, err := pwsh.Args(runWindows, p.folder, p.words[0], pwsh.Line(p.words[1:]), strconv.FormatInt(limit.Milliseconds(), 10))
		if err != nil {
			return err
		}
		spec = &types.GuestWindowsProgramSpec{StartMinimized: true,
			GuestProgramSpec: types.GuestProgramSpec{ProgramPath: pwsh.Path, Arguments: pwsh.Line(args)}}
	} else {
		line, err := shellLine(append([]string{"-c", runScript, "sh", p.folder, yes(input)}, p.words...))
		if err != nil {
			return err
		}
		spec = &types.GuestProgramSpec{ProgramPath: shell, Arguments: line}
	}
	var err error
	p.started = true
	if p.pid, err = p.channel.processes.StartProgram(ctx, p.channel.auth, spec); err != nil {
		p.refused = soap.IsSoapFault(err)
		return explain("start", err)
	}
	return nil
}

var errGone = errors.New("the guest knows nothing of the program that it has started")

// wait asks until the program has ended.
func (p *program) wait(ctx context.Context) (int, error) {
	for pause := pollFirst; ; pause = min(pause*3/2, pollLast) {
		list, err := p.channel.processes.ListProcesses(ctx, p.channel.auth, []int64{p.pid})
		if err != nil {
			return 0, explain("wait", err)
		}
		if len(list) != 1 || list[0].Pid != p.pid {
			return 0, errGone
		}
		if list[0].EndTime != nil {
			p.ended = true
			return int(list[0].ExitCode), nil
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return 0, ctx.Err()
		}
	}
}

// collect fetches what the program has printed.
func (p *program) collect(ctx context.Context, r *hikae.RunResult) error {
	for _, s := range []struct {
		name string
		to   *[]byte
	}{{"out", &r.Stdout}, {"err", &r.Stderr}} {
		b, err := p.channel.download(ctx, p.file(s.name), maxStream+1)
		if err != nil {
			return err
		}
		if len(b) > maxStream {
			b, r.Truncated = b[:maxStream], true
		}
		*s.to = b
	}
	return nil
}

// clean ends the program, if it has not ended, and takes its folder away, also when the context has ended.
func (p *program) clean(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanLimit)
	defer cancel()
	var running error
	if p.started && !p.ended {
		running = p.kill(ctx)
	}
	err := p.remove(ctx)
	if err != nil { // a program that is ending may just have made a file
		select {
		case <-time.After(pollLast):
		case <-ctx.Done():
		}
		err = p.remove(ctx)
	}
	if err != nil {
		err = fmt.Errorf("%w: folder %s: %w", guest.ErrLeftover, guest.Printable(p.folder, 300), err)
	}
	return errors.Join(running, err)
}

func (p *program) remove(ctx context.Context) error {
	if p.windows && !oursWindows(p.folder) {
		return errFolder
	}
	err := p.channel.files.DeleteDirectory(ctx, p.channel.auth, p.folder, true)
	if err == nil {
		return nil
	}
	if err = explain("remove", err); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// kill ends the program, what it has started, and the script around them. On Windows the script ends the program itself when
// its time is over; where nobody saw the script end, that is said.
func (p *program) kill(ctx context.Context) error {
	if spec := p.killSpec(); spec != nil {
		if pid, err := p.channel.processes.StartProgram(ctx, p.channel.auth, spec); err == nil {
			killer := &program{channel: p.channel, pid: pid}
			killing, cancel := context.WithTimeout(ctx, killLimit)
			killer.wait(killing)
			cancel()
		}
	}
	if p.pid != 0 {
		p.channel.processes.TerminateProcess(ctx, p.channel.auth, p.pid)
	}
	if !p.windows || p.refused {
		return nil
	}
	if p.pid != 0 {
		seeing, cancel := context.WithTimeout(ctx, killLimit)
		defer cancel()
		if p.wait(seeing); p.ended {
			return nil
		}
	}
	return fmt.Errorf("%w: nobody saw the program end", guest.ErrLeftover)
}

const (
	killLimit = 5 * time.Second // that one step of ending a program has
	taskkill  = `C:\Windows\System32\taskkill.exe`
)

// killSpec is the program that ends ours; nil where it is not known which that is.
func (p *program) killSpec() types.BaseGuestProgramSpec {
	if p.windows {
		if p.pid <= 0 {
			return nil
		}
		return &types.GuestWindowsProgramSpec{StartMinimized: true, GuestProgramSpec: types.GuestProgramSpec{
			ProgramPath: taskkill, Arguments: "/PID " + strconv.FormatInt(p.pid, 10) + " /T /F"}}
	}
	line, err := shellLine([]string{"-c", killScript, "sh", p.folder, yes(p.words[0] == "sudo")})
	if err != nil {
		return nil
	}
	return &types.GuestProgramSpec{ProgramPath: shell, Arguments: line}
}
