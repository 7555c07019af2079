package lockd

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"strconv"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/hikae/hikae/repo/store/dirstore/lockd/lockline"
)

const (
	maxClients = 64
	idleWait   = 30 * time.Second
)

// Serve answers on the socket in the repository's folder, and lets go what is due, until ctx ends. ready, where it is not
// nil, is called once the socket is there.
func (k *Keeper) Serve(ctx context.Context, ready func()) error {
	l, err := k.listen()
	if err != nil {
		return fmt.Errorf("listen: %w", err)
	}
	defer func() { _ = unix.Unlinkat(k.fd(), lockline.Socket, 0) }()
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	defer context.AfterFunc(ctx, func() { _ = l.Close() })()
	var wg sync.WaitGroup
	defer wg.Wait()
	defer stop(nil)
	wg.Go(func() { stop(k.ticks(ctx)) })
	if ready != nil {
		ready()
	}
	room := make(chan struct{}, maxClients)
	for {
		conn, err := l.AcceptUnix()
		if err != nil {
			if cause := context.Cause(ctx); cause != nil && !errors.Is(cause, context.Canceled) {
				return cause
			}
			if ctx.Err() != nil {
				return nil
			}
			return err
		}
		select {
		case room <- struct{}{}:
		case <-ctx.Done():
			_ = conn.Close()
			continue
		}
		wg.Go(func() {
			defer func() { <-room }()
			k.converse(ctx, conn)
		})
	}
}

// listen puts the socket where a user's file of that name, or a dead helper's socket, may be.
func (k *Keeper) listen() (*net.UnixListener, error) {
	if err := unix.Unlinkat(k.fd(), lockline.Socket, 0); err != nil && err != unix.ENOENT {
		return nil, err
	}
	name := "/proc/self/fd/" + strconv.Itoa(k.fd()) + "/" + lockline.Socket
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: name, Net: "unix"})
	if err != nil {
		return nil, err
	}
	l.SetUnlinkOnClose(false)
	if err := errors.Join(unix.Fchownat(k.fd(), lockline.Socket, -1, k.gid, unix.AT_SYMLINK_NOFOLLOW), unix.Fchmodat(k.fd(), lockline.Socket, 0o660, 0)); err != nil {
		return nil, errors.Join(err, l.Close())
	}
	return l, nil
}

// ticks returns what makes the helper end.
func (k *Keeper) ticks(ctx context.Context) error {
	every := time.NewTicker(k.opts.Every)
	defer every.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-every.C:
			if err := k.tick(); err != nil {
				return err
			}
		}
	}
}

func (k *Keeper) converse(ctx context.Context, conn *net.UnixConn) {
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })()
	cred, err := lockline.Peer(conn)
	if err != nil || int(cred.Uid) != k.uid {
		_ = conn.SetDeadline(time.Now().Add(time.Second))
		_, _ = conn.Write([]byte(lockline.Answer(0, fmt.Errorf("this helper answers to user %d: %w", k.uid, fs.ErrPermission)) + "\n"))
		return
	}
	rd := bufio.NewReaderSize(conn, lockline.MaxLine)
	for ctx.Err() == nil {
		_ = conn.SetDeadline(time.Now().Add(idleWait))
		line, err := lockline.ReadLine(rd)
		if err != nil {
			return
		}
		if _, err := conn.Write([]byte(lockline.Answer(k.answer(line)) + "\n")); err != nil {
			return
		}
	}
}

func (k *Keeper) answer(line string) (int64, error) {
	q, err := lockline.ParseRequest(line)
	switch {
	case err != nil:
		return 0, err
	case q.Verb == "now":
		return k.Now(), nil
	case q.Verb == "lock":
		return k.Lock(q.Name, q.Until)
	}
	return k.Locked(q.Name)
}
