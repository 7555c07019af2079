package lockline

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"strconv"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// askWait bounds one question, for callers without a deadline of their own.
const askWait = 30 * time.Second

// Ask sends one request to the helper of the repository in dir. Errors: errors.ErrUnsupported where no helper listens, and
// those of [Kinds]; fs.ErrPermission where what listens runs as the caller itself and could keep nothing from it.
func Ask(ctx context.Context, dir string, q Request) (int64, error) {
	ctx, stop := context.WithTimeout(ctx, askWait)
	defer stop()
	conn, err := dial(ctx, dir)
	if err != nil {
		return 0, err
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })()
	if _, err := conn.Write([]byte(q.String() + "\n")); err != nil {
		return 0, because(ctx, err)
	}
	line, err := ReadLine(bufio.NewReaderSize(conn, MaxLine))
	if err != nil {
		return 0, because(ctx, err)
	}
	return ParseAnswer(line)
}

// dial goes through the folder's descriptor: a socket's path has at most 107 bytes, and a repository's may have more.
func dial(ctx context.Context, dir string) (*net.UnixConn, error) {
	at, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	defer at.Close()
	c, err := new(net.Dialer).DialContext(ctx, "unix", "/proc/self/fd/"+strconv.Itoa(int(at.Fd()))+"/"+Socket)
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.ECONNREFUSED):
		return nil, fmt.Errorf("no helper locks objects here: %w: %w", errors.ErrUnsupported, err)
	case err != nil:
		return nil, because(ctx, err)
	}
	conn := c.(*net.UnixConn)
	cred, err := Peer(conn)
	if err == nil && int(cred.Uid) == os.Getuid() {
		err = fmt.Errorf("what listens there runs as user %d, as this process does: %w", cred.Uid, fs.ErrPermission)
	}
	if err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	return conn, nil
}

// Peer says who is at the other end of a connection, by the kernel's word.
func Peer(conn *net.UnixConn) (cred *unix.Ucred, err error) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return nil, err
	}
	if e := raw.Control(func(fd uintptr) { cred, err = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED) }); e != nil {
		return nil, e
	}
	return cred, err
}

// because gives the context's end as the cause of what it interrupted.
func because(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return errors.Join(context.Cause(ctx), err)
	}
	return err
}
