package guest

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"time"

	"github.com/hikae/hikae"
)

// callLimit bounds one small call into a guest whose context has no deadline.
const callLimit = 30 * time.Second

// OverOptions change how a channel is made of another. Nil and zero fields are good defaults.
type OverOptions struct {
	// Piece bounds how many bytes one call of Upload carries, for hypervisors whose messages are bounded. Pieces become one
	// file in the guest. Zero: a file goes in one call.
	Piece int
	// OS is "linux" or "windows" where it is known. Empty: it is found out.
	OS string
	// Temp are folders that are tried for the component before the usual ones.
	Temp []string
}

// Over makes a channel of any way to run programs and to bring files into a guest, such as a hypervisor's. It finds out
// what the guest is by running a small script there, which leaves nothing. It takes g over: closing the channel closes it;
// after an error g is still the caller's. Errors are *WayError; Step is shell, temp or link.
func Over(ctx context.Context, kind Kind, g hikae.GuestChannel, opts *OverOptions) (Channel, error) {
	if opts == nil {
		opts = &OverOptions{}
	}
	ctx, cancel := bounded(ctx, callLimit)
	defer cancel()
	o := &over{GuestChannel: g, kind: kind, piece: opts.Piece}
	if err := o.probe(ctx, opts); err != nil {
		return nil, err
	}
	return o, nil
}

type over struct {
	hikae.GuestChannel
	kind   Kind
	system System
	piece  int
}

func (o *over) Kind() Kind     { return o.kind }
func (o *over) System() System { return o.system }

// Unwrap is what the channel was made of.
func (o *over) Unwrap() hikae.GuestChannel { return o.GuestChannel }

func bounded(ctx context.Context, limit time.Duration) (context.Context, context.CancelFunc) {
	if _, ok := ctx.Deadline(); ok {
		return context.WithCancel(ctx)
	}
	return context.WithTimeout(ctx, limit)
}

// Exit codes of our scripts, apart from those of shells.
const (
	exitExists  = 17
	exitForeign = 18
)

const makeDirScript = `umask 077
mkdir -m 0700 -- "$1" && exit 0
[ -e "$1" ] || [ -L "$1" ] && exit 17
exit 1`

// MakeDir implements [Channel].
func (o *over) MakeDir(ctx context.Context, path string) error {
	if err := o.fit(path); err != nil {
		return &fs.PathError{Op: "make folder", Path: path, Err: err}
	}
	ctx, cancel := bounded(ctx, callLimit)
	defer cancel()
	var r hikae.RunResult
	var err error
	if o.system.OS == "windows" {
		r, err = powershell(ctx, o, makeDirWindows, path)
	} else {
		r, err = o.Run(ctx, shell, []string{"-c", makeDirScript, "sh", path}, nil)
	}
	return outcome("make folder", path, r, err)
}

// Remove implements [Channel]. As an administrator it does, where the channel's account can be one.
func (o *over) Remove(ctx context.Context, path string) error {
	if err := o.fit(path); err != nil {
		return &fs.PathError{Op: "remove", Path: path, Err: err}
	}
	ctx, cancel := bounded(ctx, callLimit)
	defer cancel()
	var r hikae.RunResult
	var err error
	if o.system.OS == "windows" {
		r, err = powershell(ctx, o, removeWindows, path)
	} else {
		r, err = RunAdmin(ctx, o, shell, []string{"-c", `rm -rf -- "$1"`, "sh", path}, nil)
	}
	return outcome("remove", path, r, err)
}

// Upload implements [hikae.GuestChannel].
func (o *over) Upload(ctx context.Context, path string, data []byte, mode uint32) error {
	if err := o.fit(path); err != nil {
		return &fs.PathError{Op: "upload", Path: path, Err: err}
	}
	if o.system.OS == "windows" {
		mode = 0 // rights come from the folder
	}
	if o.piece <= 0 || len(data) <= o.piece {
		return o.GuestChannel.Upload(ctx, path, data, mode)
	}
	return o.uploadPieces(ctx, path, data, mode)
}

// uploadPieces brings pieces beside the file and appends each before the next one comes, so that the guest never holds
// more than one twice.
func (o *over) uploadPieces(ctx context.Context, path string, data []byte, mode uint32) error {
	piece := path + ".piece"
	first := true
	for len(data) > 0 {
		n := min(len(data), o.piece)
		to := piece
		if first {
			to = path
		}
		if err := o.GuestChannel.Upload(ctx, to, data[:n], mode); err != nil {
			return err
		}
		if !first {
			if err := o.appendPiece(ctx, path, piece); err != nil {
				return err
			}
		}
		data, first = data[n:], false
	}
	return nil
}

const appendScript = `cat -- "$2" >>"$1" && rm -f -- "$2"`

func (o *over) appendPiece(ctx context.Context, path, piece string) error {
	var r hikae.RunResult
	var err error
	if o.system.OS == "windows" {
		r, err = powershell(ctx, o, appendWindows, path, piece)
	} else {
		r, err = o.Run(ctx, shell, []string{"-c", appendScript, "sh", path, piece}, nil)
	}
	return outcome("append to", path, r, err)
}

// RunAdmin runs a program with an administrator's rights: by sudo, where that is how the account gets them.
func RunAdmin(ctx context.Context, c Channel, path string, args []string, stdin []byte) (hikae.RunResult, error) {
	if e := c.System().Elevate; len(e) > 0 {
		args = append(append(append([]string{}, e[1:]...), path), args...)
		path = e[0]
	}
	return c.Run(ctx, path, args, stdin)
}

// outcome makes an error of how one of our scripts ended.
func outcome(op, path string, r hikae.RunResult, err error) error {
	switch {
	case err != nil:
	case r.ExitCode == 0:
		return nil
	case r.ExitCode == exitExists:
		err = fs.ErrExist
	case r.ExitCode == exitForeign:
		err = fmt.Errorf("%w: somebody else put something into it", fs.ErrExist)
	default:
		err = fmt.Errorf("exit code %d: %s", r.ExitCode, printable(string(r.Stderr)))
	}
	return &fs.PathError{Op: op, Path: path, Err: err}
}

var errPath = errors.New("not an absolute path below the root, without .. and control characters")

// fit refuses what no path of ours can be, before it reaches a guest: remove must never get to see "/".
func (o *over) fit(path string) error {
	rest, parts := path, "/"
	if o.system.OS == "windows" {
		if len(path) < 4 || path[1] != ':' || path[2] != '\\' && path[2] != '/' {
			return errPath
		}
		rest, parts = path[2:], `/\`
	}
	if !strings.ContainsAny(rest[:min(1, len(rest))], parts) || strings.ContainsFunc(path, func(r rune) bool { return r < ' ' || r == 0x7f }) {
		return errPath
	}
	named := false
	for part := range strings.FieldsFuncSeq(rest, func(r rune) bool { return strings.ContainsRune(parts, r) }) {
		if part == ".." || part == "." {
			return errPath
		}
		named = true
	}
	if !named || strings.ContainsAny(rest[len(rest)-1:], parts) {
		return errPath
	}
	return nil
}
