package vmware

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/hikae/hikae/pipe/nbd"
)

const (
	wordsBytes = 4 << 10 // of what a process says last
	kitPoll    = 20 * time.Millisecond
	kitKill    = 5 * time.Second
)

// nbdkit is one process, which serves one disk at a socket in a folder of its own. It ends with us.
type nbdkit struct {
	cmd    *exec.Cmd
	folder string
	socket string
	words  *tail
	secret string
	ended  chan struct{} // closed after Wait has returned
	result error         // what Wait said
}

// startNbdkit starts a process. The secret is its descriptor 3.
func startNbdkit(program, scratch, secret string, args func(socket string) []string) (_ *nbdkit, err error) {
	k := &nbdkit{secret: secret, words: &tail{}, ended: make(chan struct{})}
	if k.folder, err = privateFolder(scratch); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.RemoveAll(k.folder))
		}
	}()
	k.socket = filepath.Join(k.folder, "disk")
	if len(k.socket) > 100 { // 108 is what the system's addresses hold
		return nil, fmt.Errorf("%s is too long a path for a socket", k.socket)
	}
	r, w, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer r.Close()
	k.cmd = exec.Command(program, args(k.socket)...)
	k.cmd.Env, k.cmd.Dir, k.cmd.ExtraFiles = vddkEnv(), string(filepath.Separator), []*os.File{r}
	k.cmd.Stdout, k.cmd.Stderr, k.cmd.WaitDelay = k.words, k.words, kitKill
	if len(secret) > 4<<10 {
		return nil, errors.Join(errors.New("the password is longer than 4096 bytes"), w.Close())
	}
	if _, err = io.WriteString(w, secret+"\n"); err != nil {
		return nil, errors.Join(err, w.Close())
	}
	if err = w.Close(); err != nil {
		return nil, err
	}
	if err = k.cmd.Start(); err != nil {
		return nil, err
	}
	go func() {
		k.result = k.cmd.Wait()
		close(k.ended)
	}()
	return k, nil
}

// dial connects to the disk as soon as somebody answers at the socket. Each connection opens the disk, which takes VDDK long,
// so that there is only one.
func (k *nbdkit) dial(ctx context.Context, opts *nbd.Options) (*nbd.Client, error) {
	uri := "nbd+unix:///?" + url.Values{"socket": {k.socket}}.Encode()
	for {
		c, err := nbd.Dial(ctx, uri, opts)
		if err == nil {
			return c, nil
		}
		early := errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ECONNREFUSED)
		select {
		case <-k.ended:
			return nil, k.explain(fmt.Errorf("it did not start: %w", err))
		case <-ctx.Done():
			return nil, fmt.Errorf("nbdkit does not answer: %s: %w", k.said(), ctx.Err())
		case <-time.After(kitPoll):
		}
		if !early {
			return nil, k.explain(err)
		}
	}
}

// explain adds to an error how the process ended, if it did.
func (k *nbdkit) explain(err error) error {
	if err == nil || err == io.EOF {
		return err
	}
	select {
	case <-k.ended:
		return fmt.Errorf("%w: nbdkit has ended (%v): %s", err, k.result, k.said())
	default:
		return err
	}
}

func (k *nbdkit) said() string { return lastWords(k.words.bytes(), k.secret) }

// stop ends the process, first politely, so that VDDK can leave the host tidy, and removes its folder.
func (k *nbdkit) stop() error {
	if err := k.cmd.Process.Signal(os.Interrupt); err != nil && !errors.Is(err, os.ErrProcessDone) {
		_ = k.cmd.Process.Kill()
	}
	polite := time.NewTimer(vddkStop)
	defer polite.Stop()
	select {
	case <-k.ended:
	case <-polite.C:
		_ = k.cmd.Process.Kill()
		<-k.ended // bounded by the system, and WaitDelay
	}
	return os.RemoveAll(k.folder)
}

// tail keeps the last words of a process.
type tail struct {
	mu  sync.Mutex
	buf []byte
}

func (t *tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.buf = append(t.buf, p[max(0, len(p)-wordsBytes):]...)
	if extra := len(t.buf) - wordsBytes; extra > 0 {
		t.buf = append(t.buf[:0], t.buf[extra:]...)
	}
	return len(p), nil
}

func (t *tail) bytes() []byte {
	t.mu.Lock()
	defer t.mu.Unlock()
	return bytes.Clone(t.buf)
}

// lastWords is what a program said, on one line, without a secret that it may have repeated.
func lastWords(said []byte, secret string) string {
	text := strings.Join(strings.FieldsFunc(string(said), func(r rune) bool { return r == '\n' || r == '\r' }), "; ")
	if secret != "" {
		text = strings.ReplaceAll(text, secret, "…")
	}
	text = strings.Map(func(r rune) rune {
		if isControlRune(r) {
			return -1
		}
		return r
	}, text)
	if text = strings.TrimSpace(text); text == "" {
		return "it said nothing"
	}
	return text
}
