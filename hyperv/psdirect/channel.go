package psdirect

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/hikae/hikae"
	"github.com/hikae/hikae/guest"
	"github.com/hikae/hikae/guest/winrmchannel/pwsh"
)

const (
	callLimit  = 90 * time.Second // one call, where the context has no deadline
	cleanTime  = 5 * time.Second  // of it, for what comes after the program
	maxStream  = 1 << 20
	maxInput   = 16 << 20
	maxFile    = 64 << 20
	maxRead    = 16 << 20
	pieceLine  = 512 << 10 // of packed data in one line, which is one message into the guest
	pieceRead  = 768 << 10 // of a file, that comes back in one call
	maxProgram = 30_000    // characters of a command line; Windows takes 32767
)

// Host runs programs on a Hyper-V host, as an administrator of it: a channel of package guest/winrmchannel does.
type Host interface {
	Run(ctx context.Context, path string, args []string, stdin []byte) (hikae.RunResult, error)
}

// Channel is a way into one guest. It implements [hikae.GuestChannel]; its methods may be called by several goroutines.
type Channel struct {
	host Host
	vm   string
	cred guest.Credential
}

var _ hikae.GuestChannel = (*Channel)(nil)

var machineID = regexp.MustCompile(`^[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}$`)

var (
	errMachine = errors.New("a machine of Hyper-V is named by its id, such as 6d1f2c8e-0b1a-4a55-9a0e-3f2b6c7d8e9f")
	errAccount = errors.New("PowerShell Direct needs a user and a password of the guest")
	errProgram = errors.New("not an absolute path of Windows, or a word with a NUL character")
)

// Open sets a channel up; nothing is asked yet. The machine is named by its id, for names are not unique.
func Open(host Host, vm string, cred guest.Credential) (*Channel, error) {
	switch {
	case !machineID.MatchString(vm):
		return nil, errMachine
	case cred.User == "" || cred.Password == "":
		return nil, &guest.WayError{Kind: guest.PSDirect, Step: "login", Problem: errAccount.Error(), Hint: "check the guest's credential", Err: errAccount}
	}
	return &Channel{host: host, vm: vm, cred: cred}, nil
}

// Close ends nothing: each call has its own session. The host stays the caller's.
func (c *Channel) Close() error { return nil }

// Run implements [hikae.GuestChannel].
func (c *Channel) Run(ctx context.Context, path string, args []string, stdin []byte) (hikae.RunResult, error) {
	r, err := c.run(ctx, path, args, stdin)
	if err != nil {
		return hikae.RunResult{}, fmt.Errorf("run %s: %w", guest.Printable(path, 300), err)
	}
	return r, nil
}

func (c *Channel) run(ctx context.Context, path string, args []string, stdin []byte) (hikae.RunResult, error) {
	line := pwsh.Line(args)
	switch {
	case !absolute(path) || strings.ContainsRune(line, 0):
		return hikae.RunResult{}, errProgram
	case len(path)+len(line) > maxProgram:
		return hikae.RunResult{}, fmt.Errorf("a command line of %d characters, at most %d", len(path)+len(line), maxProgram)
	case len(stdin) > maxInput:
		return hikae.RunResult{}, fmt.Errorf("an input of %d bytes, at most %d", len(stdin), maxInput)
	}
	ctx, cancel := bounded(ctx)
	defer cancel()
	end, _ := ctx.Deadline()
	limit := max(time.Until(end)-cleanTime, time.Until(end)/2).Milliseconds()
	return c.call(ctx, runScript, []string{strconv.FormatInt(max(limit, 1), 10)}, []byte(path), []byte(line), stdin)
}

// absolute says whether a path is one of Windows' with a drive, and can be part of a command.
func absolute(path string) bool {
	drive := len(path) > 3 && path[1] == ':' && (path[2] == '\\' || path[2] == '/') && path[0]|0x20 >= 'a' && path[0]|0x20 <= 'z'
	return drive && !strings.ContainsFunc(path, func(r rune) bool { return r < ' ' || r == 0x7f || r == '"' })
}

func bounded(ctx context.Context) (context.Context, context.CancelFunc) {
	if _, ok := ctx.Deadline(); ok {
		return context.WithCancel(ctx)
	}
	return context.WithTimeout(ctx, callLimit)
}

// call makes one call on the host. What is secret or long goes by the script's input.
func (c *Channel) call(ctx context.Context, script string, words []string, lines ...[]byte) (hikae.RunResult, error) {
	mark := strings.ToLower(rand.Text())
	args, err := pwsh.Args(script, append([]string{c.vm, mark}, words...)...)
	if err != nil {
		return hikae.RunResult{}, err
	}
	var in []byte
	for _, l := range append([][]byte{[]byte(c.cred.User), []byte(c.cred.Password)}, lines...) {
		in = base64.StdEncoding.AppendEncode(in, l)
		in = append(in, '\r', '\n')
	}
	r, err := c.host.Run(ctx, pwsh.Path, args, in)
	if err != nil {
		return hikae.RunResult{}, fmt.Errorf("on the Hyper-V host: %w", err)
	}
	if r.ExitCode != 0 {
		return hikae.RunResult{}, explain(r, mark)
	}
	return answer(r, mark)
}

var errAnswer = errors.New("malformed answer of the Hyper-V host")

// answer takes apart what the host printed. Whatever PowerShell says of its own comes before a mark or after the length.
func answer(r hikae.RunResult, mark string) (out hikae.RunResult, err error) {
	_, rest, ok := bytes.Cut(r.Stdout, []byte(mark+" "))
	head, stdout, ended := bytes.Cut(rest, []byte("\n"))
	fields := strings.Fields(string(head))
	if !ok || !ended || len(fields) != 3 {
		return out, fmt.Errorf("%w: %s", errAnswer, guest.Printable(string(r.Stdout)+string(r.Stderr), 300))
	}
	var n [3]int64
	for i, f := range fields {
		if n[i], err = strconv.ParseInt(f, 10, 64); err != nil || i > 0 && (n[i] < 0 || n[i] > maxStream+1) {
			return out, fmt.Errorf("%w: %.100q", errAnswer, head)
		}
	}
	if n[0] < -1<<31 || n[0] > 1<<32-1 {
		return out, fmt.Errorf("%w: exit code %d", errAnswer, n[0])
	}
	_, stderr, _ := bytes.Cut(r.Stderr, []byte(mark+"\n"))
	out.ExitCode = int(int32(uint32(n[0])))
	var cut [2]bool
	out.Stdout, cut[0] = part(stdout, n[1])
	out.Stderr, cut[1] = part(stderr, n[2])
	out.Truncated = cut[0] || cut[1]
	if out.Truncated && !r.Truncated && n[1] <= maxStream && n[2] <= maxStream {
		return hikae.RunResult{}, fmt.Errorf("%w: it ends early", errAnswer)
	}
	return out, nil
}

func part(b []byte, n int64) (kept []byte, cut bool) {
	kept = b[:min(int64(len(b)), n, maxStream)]
	return kept, int64(len(kept)) < n
}

// Upload implements [hikae.GuestChannel]. A file that is there already is fs.ErrExist. Its rights are those of its folder.
func (c *Channel) Upload(ctx context.Context, path string, data []byte, _ uint32) error {
	err := c.upload(ctx, path, data)
	if err != nil {
		return fmt.Errorf("upload %s: %w", guest.Printable(path, 300), err)
	}
	return nil
}

func (c *Channel) upload(ctx context.Context, path string, data []byte) error {
	switch {
	case !absolute(path):
		return errProgram
	case len(data) > maxFile:
		return fmt.Errorf("%d bytes, at most %d", len(data), maxFile)
	}
	ctx, cancel := bounded(ctx)
	defer cancel()
	sum := sha256.Sum256(data)
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	z.Write(data)
	z.Close()
	lines := [][]byte{[]byte(path), []byte(hex.EncodeToString(sum[:]))}
	for b.Len() > 0 {
		lines = append(lines, b.Next(pieceLine))
	}
	r, err := c.call(ctx, uploadScript, nil, lines...)
	return ended(r, err)
}

// Download implements [hikae.GuestChannel]. At most 16 MiB come.
func (c *Channel) Download(ctx context.Context, path string, max int64) ([]byte, error) {
	b, err := c.download(ctx, path, min(max, maxRead))
	if err != nil {
		return nil, fmt.Errorf("download %s: %w", guest.Printable(path, 300), err)
	}
	return b, nil
}

func (c *Channel) download(ctx context.Context, path string, max int64) (all []byte, err error) {
	if !absolute(path) {
		return nil, errProgram
	}
	ctx, cancel := bounded(ctx)
	defer cancel()
	for {
		words := []string{strconv.Itoa(len(all)), strconv.Itoa(pieceRead), strconv.FormatInt(max, 10)}
		r, err := c.call(ctx, downloadScript, words, []byte(path))
		if err = ended(r, err); err != nil {
			return nil, err
		}
		all = append(all, r.Stdout...)
		switch {
		case r.Truncated:
			return nil, errAnswer
		case int64(len(all)) > max:
			return nil, errLong
		case len(r.Stdout) < pieceRead:
			return all, nil
		}
	}
}

var errLong = errors.New("the file is longer than allowed")

// ended makes an error of how a step in the guest ended.
func ended(r hikae.RunResult, err error) error {
	switch {
	case err != nil:
		return err
	case r.ExitCode == 0:
		return nil
	case r.ExitCode == exitExists:
		return fs.ErrExist
	case r.ExitCode == exitNone:
		return fs.ErrNotExist
	case r.ExitCode == exitLong:
		return errLong
	case r.ExitCode == exitDiffers:
		return errors.New("what arrived is not what was sent")
	}
	return fmt.Errorf("exit code %d", r.ExitCode)
}
