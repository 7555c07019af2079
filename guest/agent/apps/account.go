//go:build linux

package apps

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"syscall"
)

// account is an account of the guest that a client can run as.
type account struct {
	uid, gid int
	name     string
	home     string
}

// accountOf looks an account up. One that the guest has no name for keeps its number.
func accountOf(uid, gid int) account {
	a := account{uid: uid, gid: gid, home: "/"}
	if u, err := user.LookupId(strconv.Itoa(uid)); err == nil {
		a.name, a.home = u.Username, u.HomeDir
		if g, err := strconv.Atoi(u.Gid); err == nil {
			a.gid = g
		}
	}
	return a
}

// own is who we are.
func own() account { return accountOf(os.Geteuid(), os.Getegid()) }

// accounts are those that a server may be asked as, best first: its own, then ours. Ours is root's with all that lies
// ready for root, so it is used for a server of a service account alone (names): anybody in a guest can run a program that
// is called like a server's, and have passwords sent to it.
func accounts(p process, names ...string) []account {
	us := own()
	if us.uid == p.uid {
		return []account{us}
	}
	its := accountOf(p.uid, p.gid)
	service := its.name != "" && slices.Contains(names, its.name)
	switch {
	case us.uid != 0 && service:
		return []account{us}
	case us.uid != 0:
		return nil
	case service:
		return []account{its, us}
	}
	return []account{its}
}

// ownSocket makes sure that a socket is the server's own, in a folder where nobody else can put another in its place.
func (p process) ownSocket(path string) error {
	info, err := os.Lstat(path)
	if err != nil {
		return err
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok || info.Mode().Type() != fs.ModeSocket || int(st.Uid) != p.uid || !trusted(filepath.Dir(path), p.uid) {
		return fmt.Errorf("its socket %s is not safely its own: nothing is sent there", clean(path, 200))
	}
	return nil
}

// credential is what a process gets to run as an account. Nil: it does so already.
func (a account) credential() *syscall.Credential {
	if a.uid == os.Geteuid() {
		return nil
	}
	return &syscall.Credential{Uid: uint32(a.uid), Gid: uint32(a.gid), Groups: []uint32{}}
}

// env is the whole environment of a client. It holds no secret.
func (a account) env(more ...string) []string {
	return append([]string{"PATH=/usr/bin:/bin", "LC_ALL=C", "HOME=" + a.home, "USER=" + a.name, "LOGNAME=" + a.name,
		"TMPDIR=/nonexistent"}, more...)
}

// login tries ways of getting in, one after the other, until one of them answers to hello.
func login(ctx context.Context, ways []command, hello string) (*client, error) {
	if len(ways) == 0 {
		return nil, errNoClient
	}
	var all error
	for _, w := range ways {
		c, err := start(w)
		if err == nil {
			if _, err = c.ask(ctx, hello); err == nil {
				return c, nil
			}
			c.close()
		}
		if all = errors.Join(all, err); ctx.Err() != nil {
			break
		}
	}
	return nil, fmt.Errorf("login: %w", &loginError{all})
}

// errForeign says that a server is not spoken to.
var errForeign = errors.New("it runs as an account that is neither ours nor a database's: nothing is sent to it")

// errNoClient says that there is no program to speak to a server with.
var errNoClient = errors.New("its command-line client is not installed, or others than root and the server's account can change it")

// loginError has one line for each way that was tried.
type loginError struct{ err error }

func (e *loginError) Error() string { return clean(e.err.Error(), 1024) }
func (e *loginError) Unwrap() error { return e.err }
