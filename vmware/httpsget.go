package vmware

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/hikae/hikae/pipe"
	"github.com/vmware/govmomi/property"
	"github.com/vmware/govmomi/vim25/mo"
)

const (
	getTries     = 8
	getWait      = 250 * time.Millisecond // doubles with each try
	getMaxWait   = 15 * time.Second       // also where the server asks for more
	getBase      = 30 * time.Second       // an answer may take so long
	getBytesRate = 128 << 10              // and in addition its length at this many bytes a second
	openBytes    = 64 << 10               // asked for when a file is opened: all of a descriptor
)

// StatusError is an answer over HTTP that says no.
type StatusError struct {
	Op     string // GET, PUT
	File   string // "[datastore] folder/file", or a stream's name
	Status int
}

func (e *StatusError) Error() string {
	return fmt.Sprintf("%s %s: the server answers %d %s", e.Op, e.File, e.Status, http.StatusText(e.Status))
}

// Is tells what is not there and what is not allowed in the standard's words.
func (e *StatusError) Is(target error) bool {
	switch e.Status {
	case http.StatusNotFound:
		return target == fs.ErrNotExist
	case http.StatusForbidden:
		return target == fs.ErrPermission
	}
	return false
}

// FileChangedError says that a file of a datastore is not what it was when it was opened: what was read is of no one moment.
type FileChangedError struct {
	File string
	Why  string // its length, its date …
}

func (e *FileChangedError) Error() string {
	return fmt.Sprintf("%s was changed while it was read: %s", e.File, e.Why)
}

// httpSession is what reading files needs of a client.
type httpSession interface {
	HTTP() *http.Client
}

// getter reads ranges of files.
type getter struct {
	session httpSession
	renew   func(context.Context) error // logs in again; nil: by the client
	line    chan struct{}
	windows *windowSet
}

// open looks at a file, and keeps what stands at its start.
func (g *getter) open(ctx context.Context, at place, from *url.URL) (pipe.Image, error) {
	f := &httpsFile{getter: g, name: at.String(), url: from, size: -1}
	head, err := g.get(ctx, f, 0, openBytes)
	if err != nil {
		return nil, err
	}
	f.head = head
	return f, nil
}

// httpsFile is a file of a datastore.
type httpsFile struct {
	*getter
	name string // in errors
	url  *url.URL
	size int64  // -1: not known yet
	tag  string // what the server calls this content, if it does
	date string
	head []byte
}

// Size implements [pipe.Image].
func (f *httpsFile) Size() int64 { return f.size }

// Close implements [pipe.Image]. The server knows nothing of open files.
func (f *httpsFile) Close() error { return nil }

// ReadAt implements [pipe.Image].
func (f *httpsFile) ReadAt(ctx context.Context, p []byte, off int64) (int, error) {
	if off < 0 {
		return 0, &pipe.RangeError{Op: "read " + f.name, Off: off, Len: int64(len(p)), Err: fs.ErrInvalid}
	}
	have := p[:min(int64(len(p)), max(0, f.size-off))]
	n, err := f.read(ctx, have, off)
	if err == nil && n < len(p) {
		err = io.EOF
	}
	return n, err
}

func (f *httpsFile) read(ctx context.Context, p []byte, off int64) (int, error) {
	if err := ctx.Err(); err != nil {
		return 0, err
	}
	if off+int64(len(p)) <= int64(len(f.head)) {
		return copy(p, f.head[off:]), nil
	}
	return f.windows.read(ctx, f, p, off)
}

// get asks for [off, off+n), again and again where that may help. Less comes back only at the end of the file.
func (g *getter) get(ctx context.Context, f *httpsFile, off, n int64) ([]byte, error) {
	var renewed bool
	for try, wait := 1, getWait; ; try++ {
		p, after, err := g.once(ctx, f, off, n)
		if err == nil {
			return p, nil
		}
		var status *StatusError
		lapsed := errors.As(err, &status) && status.Status == http.StatusUnauthorized
		switch {
		case ctx.Err() != nil:
			return nil, ctx.Err()
		case lapsed && !renewed:
			renewed = true
			if err := g.login(ctx); err != nil {
				return nil, fmt.Errorf("%s: log in again: %w", f.name, err)
			}
			continue
		case !worthGet(err) || try >= getTries:
			return nil, fmt.Errorf("%w (tried %d times)", err, try)
		}
		if err := httpsPause(ctx, max(wait-rand.N(wait/2), min(after, getMaxWait))); err != nil {
			return nil, err
		}
		wait = min(2*wait, getMaxWait)
	}
}

// worthGet reports whether the same request may do better.
func worthGet(err error) bool {
	var status *StatusError
	if errors.As(err, &status) {
		switch status.Status {
		case http.StatusInternalServerError, http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout, http.StatusTooManyRequests:
			return true
		}
		return false
	}
	var changed *FileChangedError
	return !errors.As(err, &changed) && !errors.Is(err, errAnswer)
}

// errAnswer is wrapped where a server breaks the rules of HTTP: it will the next time as well.
var errAnswer = errors.New("the answer is none to what was asked")

// once asks one time. after is how long the server wants to be left alone.
func (g *getter) once(ctx context.Context, f *httpsFile, off, n int64) (p []byte, after time.Duration, err error) {
	select {
	case g.line <- struct{}{}:
		defer func() { <-g.line }()
	case <-ctx.Done():
		return nil, 0, ctx.Err()
	}
	ctx, cancel := context.WithTimeout(ctx, getBase+time.Duration(n)*time.Second/getBytesRate)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, f.url.String(), nil)
	if err != nil {
		return nil, 0, err
	}
	req.Header.Set("Accept-Encoding", "identity") // a range of an encoded file is no range of the file
	req.Header.Set("Range", fmt.Sprintf("bytes=%d-%d", off, off+n-1))
	res, err := plain(g.session.HTTP()).Do(req)
	if err != nil {
		return nil, 0, fmt.Errorf("GET %s: %w", f.name, unwrapURL(err))
	}
	defer res.Body.Close()
	want, err := f.judge(res, off, n)
	if err != nil {
		_, _ = io.CopyN(io.Discard, res.Body, 4<<10) // the connection is good for more
		return nil, retryAfter(res), err
	}
	p = make([]byte, want)
	if got, err := io.ReadFull(res.Body, p); err != nil {
		return nil, 0, fmt.Errorf("GET %s: it broke off at %d of [%d, %d): %w", f.name, got, off, off+want, noEOF(err))
	}
	return p, 0, nil
}

// judge says how many bytes an answer brings, if it is one to what was asked.
func (f *httpsFile) judge(res *http.Response, off, n int64) (int64, error) {
	var size, want int64
	coding, content := res.Header.Get("Content-Encoding"), res.StatusCode == http.StatusOK || res.StatusCode == http.StatusPartialContent
	if content && (res.Uncompressed || coding != "" && !strings.EqualFold(coding, "identity")) {
		return 0, fmt.Errorf("GET %s: %w: it is encoded (%.40q)", f.name, errAnswer, coding)
	}
	switch res.StatusCode {
	case http.StatusPartialContent:
		first, last, all, ok := parseRange(res.Header.Get("Content-Range"))
		if !ok || first != off || last >= all || last-first+1 > n || last-first+1 < min(n, all-off) {
			return 0, fmt.Errorf("GET %s: %w: the range %q for [%d, %d)", f.name, errAnswer, res.Header.Get("Content-Range"), off, off+n)
		}
		size, want = all, last-first+1
	case http.StatusOK: // all of it, ranges or not
		size = res.ContentLength
		if off != 0 || size < 0 || size > n {
			return 0, fmt.Errorf("GET %s: %w: all of its %d bytes for [%d, %d)", f.name, errAnswer, size, off, off+n)
		}
		want = size
	case http.StatusRequestedRangeNotSatisfiable:
		_, all, _ := strings.Cut(res.Header.Get("Content-Range"), "*/")
		if size, err := strconv.ParseInt(all, 10, 64); f.size < 0 && off == 0 && (all == "" || err == nil && size == 0) {
			f.size = 0
			return 0, nil
		}
		if f.size >= 0 {
			return 0, &FileChangedError{f.name, errShrunk.Error()}
		}
		return 0, &StatusError{http.MethodGet, f.name, res.StatusCode}
	default:
		return 0, &StatusError{http.MethodGet, f.name, res.StatusCode}
	}
	if res.ContentLength >= 0 && res.ContentLength != want {
		return 0, fmt.Errorf("GET %s: %w: %d bytes, the range says %d", f.name, errAnswer, res.ContentLength, want)
	}
	return want, f.same(res, size)
}

// same holds an answer to what the first one said of the file.
func (f *httpsFile) same(res *http.Response, size int64) error {
	tag, date := res.Header.Get("ETag"), res.Header.Get("Last-Modified")
	switch {
	case f.size < 0:
		f.size, f.tag, f.date = size, tag, date
	case size != f.size:
		return &FileChangedError{f.name, fmt.Sprintf("it had %d bytes, and has %d", f.size, size)}
	case tag != f.tag:
		return &FileChangedError{f.name, fmt.Sprintf("the server called it %s, and calls it %s", f.tag, tag)}
	case date != f.date:
		return &FileChangedError{f.name, fmt.Sprintf("it was of %s, and is of %s", f.date, date)}
	}
	return nil
}

// login makes the session good again: any call does that which needs one.
func (g *getter) login(ctx context.Context) error {
	if g.renew != nil {
		return g.renew(ctx)
	}
	c, ok := g.session.(*Client)
	if !ok {
		return errors.ErrUnsupported
	}
	return c.touchSession(ctx)
}

// touchSession makes a call that needs a session, by which a lost one is made anew.
func (c *Client) touchSession(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	var root mo.Folder
	return property.DefaultCollector(c.Vim()).RetrieveOne(ctx, c.Vim().ServiceContent.RootFolder, []string{"name"}, &root)
}

// plain is a client that follows nobody to another place: the session's cookie and the trust are this server's.
func plain(c *http.Client) *http.Client {
	own := *c
	own.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	return &own
}

// parseRange reads "bytes 0-99/1000".
func parseRange(s string) (first, last, size int64, ok bool) {
	span, all, ok1 := strings.Cut(strings.TrimPrefix(s, "bytes "), "/")
	from, to, ok2 := strings.Cut(span, "-")
	first, err1 := strconv.ParseInt(from, 10, 64)
	last, err2 := strconv.ParseInt(to, 10, 64)
	size, err3 := strconv.ParseInt(all, 10, 64)
	ok = ok1 && ok2 && strings.HasPrefix(s, "bytes ") && errors.Join(err1, err2, err3) == nil && first >= 0 && last >= first && size > last
	return first, last, size, ok
}

// retryAfter is how long an answer asks to wait.
func retryAfter(res *http.Response) time.Duration {
	seconds, err := strconv.ParseInt(res.Header.Get("Retry-After"), 10, 32)
	if err != nil || seconds < 0 {
		return 0
	}
	return time.Duration(seconds) * time.Second
}

// unwrapURL takes the address off an error: a ticket may be in it.
func unwrapURL(err error) error {
	var at *url.Error
	if errors.As(err, &at) {
		return at.Err
	}
	return err
}

func noEOF(err error) error {
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}

func httpsPause(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
