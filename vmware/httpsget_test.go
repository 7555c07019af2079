package vmware

import (
	"bytes"
	"context"

	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptest"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hikae/hikae/pipe"
	"github.com/hikae/hikae/pipe/pipetest"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

const (
	timeout = 10 * time.Second
	tick    = 5 * time.Millisecond
)

// shelf is a server of one file over TLS, and says no when a test wants it to.
type shelf struct {
	*httptest.Server
	content []byte
	cookie  atomic.Pointer[string]
	hook    func(w http.ResponseWriter, r *http.Request, nth int64) bool // true: it has answered
	asked   atomic.Int64
	sent    atomic.Int64
	busy    atomic.Int64
	most    atomic.Int64
}

func newShelf(t testing.TB, content []byte) *shelf {
	s := &shelf{content: content}
	s.Server = httptest.NewTLSServer(s)
	t.Cleanup(s.Close)
	return s
}

func (s *shelf) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	nth := s.asked.Add(1)
	now := s.busy.Add(1)
	defer s.busy.Add(-1)
	for most := s.most.Load(); now > most && !s.most.CompareAndSwap(most, now); most = s.most.Load() {
	}
	if want := s.cookie.Load(); want != nil {
		if c, err := r.Cookie("vmware_soap_session"); err != nil || c.Value != *want {
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
	}
	if s.hook != nil && s.hook(w, r, nth) {
		return
	}
	if r.Method == http.MethodPut {
		body, err := io.ReadAll(r.Body)
		if err == nil {
			s.content = body
			w.WriteHeader(http.StatusCreated)
		}
		return
	}
	w.Header().Set("ETag", `"1"`)
	http.ServeContent(meter{w, &s.sent}, r, "", time.Unix(1e9, 0), bytes.NewReader(s.content))
}

type meter struct {
	http.ResponseWriter
	n *atomic.Int64
}

func (m meter) Write(p []byte) (int, error) {
	m.n.Add(int64(len(p)))
	return m.ResponseWriter.Write(p)
}

func (s *shelf) HTTP() *http.Client { return s.Client() }

func (s *shelf) open(t *testing.T) pipe.Image {
	t.Helper()
	img, err := s.tryOpen(t.Context())
	require.NoError(t, err)
	return img
}

func (s *shelf) tryOpen(ctx context.Context) (pipe.Image, error) {
	at, err := url.Parse(s.URL + "/folder/web1/web1-flat.vmdk?dcPath=%2FDC0&dsName=store1")
	if err != nil {
		return nil, err
	}
	g := &getter{session: s, line: make(chan struct{}, httpsLines), windows: newWindows()}
	return g.open(ctx, place{store{name: "store1"}, "web1/web1-flat.vmdk"}, at)
}

func contentOf(t testing.TB, seed uint64, size int64) []byte {
	p := make([]byte, size)
	_, err := pipetest.NewPattern(seed, size).ReadAt(context.Background(), p, 0)
	if err != io.EOF {
		require.NoError(t, err)
	}
	return p
}

// TestRanges holds a file over HTTPS to the contract of an image, at sizes around what is asked for at once.
func TestRanges(t *testing.T) {
	for _, size := range []int64{0, 1, 511, openBytes - 1, openBytes, openBytes + 1, windowBytes - 1, windowBytes, windowBytes + 1, 2*windowBytes + 12345} {
		content := contentOf(t, 1, size)
		s := newShelf(t, content)
		img := s.open(t)
		require.Equal(t, size, img.Size())
		pipetest.TestImage(t, img, pipetest.Bytes(content))
		require.NoError(t, img.Close())
		require.LessOrEqual(t, s.most.Load(), int64(httpsLines))
	}
}

// TestFewRequests: reading on takes few requests, hopping about takes little more than what was asked for.
func TestFewRequests(t *testing.T) {
	const size = 24 << 20
	content := contentOf(t, 2, size)
	s := newShelf(t, content)
	img := s.open(t)
	buf := make([]byte, 1<<20)
	for off := int64(0); off < size; off += int64(len(buf)) {
		_, err := img.ReadAt(t.Context(), buf, off)
		require.NoError(t, err)
		require.True(t, bytes.Equal(s.content[off:off+int64(len(buf))], buf))
	}
	require.LessOrEqual(t, s.asked.Load(), int64(size/windowBytes+3))

	s = newShelf(t, content)
	img = s.open(t)
	var want int64
	for off := int64(3 << 20); off < size; off += 2 * windowBytes {
		n, err := img.ReadAt(t.Context(), buf[:64<<10], off)
		require.NoError(t, err)
		want += int64(n)
	}
	require.Less(t, s.sent.Load(), want+openBytes+1, "no window was worth it")
}

// TestOneWindowForAll: readers that want the same window share one request.
func TestOneWindowForAll(t *testing.T) {
	s := newShelf(t, contentOf(t, 3, 4*windowBytes))
	img := s.open(t)
	buf := make([]byte, 512)
	_, err := img.ReadAt(t.Context(), buf, windowBytes)
	require.NoError(t, err)
	before := s.asked.Load()
	var wg sync.WaitGroup
	for i := range int64(16) {
		wg.Go(func() {
			buf := make([]byte, 4096)
			off := windowBytes + 64<<10*i
			_, err := img.ReadAt(t.Context(), buf, off)
			if err != nil || !bytes.Equal(buf, s.content[off:off+4096]) {
				t.Errorf("at %d: %v", off, err)
			}
		})
	}
	wg.Wait()
	require.Equal(t, before+1, s.asked.Load())
}

// TestBusyServer: a server that is busy is asked again, as late as it wants, and not for ever.
func TestBusyServer(t *testing.T) {
	s := newShelf(t, contentOf(t, 4, 1<<20))
	img := s.open(t)
	var fails atomic.Int64
	s.hook = func(w http.ResponseWriter, _ *http.Request, _ int64) bool {
		switch fails.Add(1) {
		case 1:
			w.WriteHeader(http.StatusServiceUnavailable)
		case 2:
			w.Header().Set("Retry-After", "-5")
			w.WriteHeader(http.StatusServiceUnavailable)
		case 3: // a connection that breaks off within the answer
			w.Header().Set("Content-Range", fmt.Sprintf("bytes 65536-%d/1048576", 65536+511))
			w.Header().Set("Content-Length", "512")
			w.Header().Set("ETag", `"1"`)
			w.Header().Set("Last-Modified", time.Unix(1e9, 0).UTC().Format(http.TimeFormat))
			w.WriteHeader(http.StatusPartialContent)
			_, _ = w.Write(make([]byte, 100))
			panic(http.ErrAbortHandler)
		default:
			return false
		}
		return true
	}
	buf := make([]byte, 512)
	_, err := img.ReadAt(t.Context(), buf, openBytes)
	require.NoError(t, err)
	require.Equal(t, s.content[openBytes:openBytes+512], buf)
	require.Equal(t, int64(4), fails.Load())

	s.hook = func(w http.ResponseWriter, _ *http.Request, _ int64) bool {
		w.Header().Set("Retry-After", "99999999")
		w.WriteHeader(http.StatusServiceUnavailable)
		return true
	}
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	_, err = img.ReadAt(ctx, buf, 2*openBytes)
	require.ErrorIs(t, err, context.DeadlineExceeded)
	_, err = s.tryOpen(ctx)
	require.Error(t, err)
}

// TestRetryAfter: what a server asks for is a number of seconds, and bounded by us.
func TestRetryAfter(t *testing.T) {
	for text, want := range map[string]time.Duration{"": 0, "3": 3 * time.Second, "-1": 0, "soon": 0, "99999999999999": 0} {
		require.Equal(t, want, retryAfter(&http.Response{Header: http.Header{"Retry-After": {text}}}), text)
	}
}

// TestSessionEnds: a session that ended while a disk was read is begun anew, once, and reading goes on (bar 34).
func TestSessionEnds(t *testing.T) {
	s := newShelf(t, contentOf(t, 5, 1<<20))
	at, err := url.Parse(s.URL + "/folder/x")
	require.NoError(t, err)
	client := *s.Client()
	jar := newJar(t)
	client.Jar = jar
	logins := 0
	login := func(context.Context) error {
		logins++
		value := strconv.Itoa(logins)
		s.cookie.Store(&value)
		jar.SetCookies(at, []*http.Cookie{{Name: "vmware_soap_session", Value: value, Path: "/"}})
		return nil
	}
	require.NoError(t, login(t.Context()))
	g := &getter{session: clientOnly{&client}, renew: login, line: make(chan struct{}, 2), windows: newWindows()}
	img, err := g.open(t.Context(), place{store{name: "s"}, "x"}, at)
	require.NoError(t, err)
	other := "somebody else's"
	s.cookie.Store(&other)
	buf := make([]byte, 512)
	_, err = img.ReadAt(t.Context(), buf, openBytes)
	require.NoError(t, err)
	require.Equal(t, 2, logins)
	g.renew = func(context.Context) error { return nil } // a login that does not help
	s.cookie.Store(&other)
	_, err = img.ReadAt(t.Context(), buf, 2*openBytes)
	var status *StatusError
	require.ErrorAs(t, err, &status)
	require.Equal(t, http.StatusUnauthorized, status.Status)
}

type clientOnly struct{ c *http.Client }

func (c clientOnly) HTTP() *http.Client { return c.c }

// TestFileChanges: a file that is not what it was is an error, whatever tells: never bytes of two moments.
func TestFileChanges(t *testing.T) {
	for name, hook := range map[string]func(h http.Header, size *int64){
		"shorter": func(_ http.Header, size *int64) { *size -= 512 },
		"longer":  func(_ http.Header, size *int64) { *size += 512 },
		"etag":    func(h http.Header, _ *int64) { h.Set("ETag", `"2"`) },
		"date":    func(h http.Header, _ *int64) { h.Set("Last-Modified", time.Unix(2e9, 0).UTC().Format(http.TimeFormat)) },
	} {
		s := newShelf(t, contentOf(t, 6, 1<<20))
		img := s.open(t)
		s.hook = func(w http.ResponseWriter, _ *http.Request, _ int64) bool {
			h, size := w.Header(), int64(1<<20)
			h.Set("ETag", `"1"`)
			h.Set("Last-Modified", time.Unix(1e9, 0).UTC().Format(http.TimeFormat))
			hook(h, &size)
			h.Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", openBytes, openBytes+511, size))
			w.WriteHeader(http.StatusPartialContent)
			_, _ = w.Write(make([]byte, 512))
			return true
		}
		_, err := img.ReadAt(t.Context(), make([]byte, 512), openBytes)
		var changed *FileChangedError
		require.ErrorAs(t, err, &changed, name)
		require.Equal(t, "[store1] web1/web1-flat.vmdk", changed.File)
	}
}

// TestShrunkFile: the range is not there any more.
func TestShrunkFile(t *testing.T) {
	s := newShelf(t, contentOf(t, 6, 1<<20))
	img := s.open(t)
	s.content = s.content[:openBytes]
	_, err := img.ReadAt(t.Context(), make([]byte, 512), openBytes)
	var changed *FileChangedError
	require.ErrorAs(t, err, &changed)
}

// TestHostileAnswers: what does not fit what was asked for is no answer, and takes no memory.
func TestHostileAnswers(t *testing.T) {
	for name, c := range map[string]struct {
		status int
		ranges string
		length string
		coding string
	}{
		"other range":   {206, "bytes 0-511/1048576", "512", ""},
		"longer range":  {206, "bytes 65536-66048/1048576", "", ""},
		"shorter range": {206, "bytes 65536-66046/1048576", "", ""},
		"no range":      {206, "", "", ""},
		"past the end":  {206, "bytes 65536-66047/66047", "", ""},
		"huge":          {206, "bytes 65536-9223372036854775807/9223372036854775807", "", ""},
		"negative":      {206, "bytes -1-511/1048576", "", ""},
		"no number":     {206, "bytes a-b/c", "", ""},
		"unknown size":  {206, "bytes 65536-66047/*", "", ""},
		"other length":  {206, "bytes 65536-66047/1048576", "511", ""},
		"all of it":     {200, "", "1048576", ""},
		"all, unknown":  {200, "", "", ""},
		"elsewhere":     {302, "", "0", ""},
		"forbidden":     {403, "", "0", ""},
		"gone":          {404, "", "0", ""},
		"nothing":       {204, "", "", ""},
		"encoded":       {206, "bytes 65536-66047/1048576", "512", "gzip"},
		"encoded twice": {206, "bytes 65536-66047/1048576", "512", "deflate, gzip"},
	} {
		s := newShelf(t, contentOf(t, 7, 1<<20))
		img := s.open(t)
		before := s.asked.Load()
		s.hook = func(w http.ResponseWriter, _ *http.Request, _ int64) bool {
			h := w.Header()
			h.Set("ETag", `"1"`)
			h.Set("Last-Modified", time.Unix(1e9, 0).UTC().Format(http.TimeFormat))
			if c.ranges != "" {
				h.Set("Content-Range", c.ranges)
			}
			if c.length != "" {
				h.Set("Content-Length", c.length)
			}
			if c.coding != "" {
				h.Set("Content-Encoding", c.coding)
			}
			h.Set("Location", "https://127.0.0.1:1/")
			w.WriteHeader(c.status)
			if c.coding != "" {
				_, _ = w.Write(make([]byte, 512)) // all is right but the encoding
			}
			return true
		}
		_, err := img.ReadAt(t.Context(), make([]byte, 512), openBytes)
		require.Error(t, err, name)
		require.Equal(t, before+1, s.asked.Load(), "%s: it is not asked again: %v", name, err)
		require.NotContains(t, err.Error(), "dcPath", name)
		switch c.status {
		case 403:
			require.ErrorIs(t, err, fs.ErrPermission)
		case 404:
			require.ErrorIs(t, err, fs.ErrNotExist)
		}
	}
}

// TestEncodingIsNotAskedFor: what is asked for are the file's own bytes, and an answer that says that it is those is taken.
func TestEncodingIsNotAskedFor(t *testing.T) {
	s := newShelf(t, contentOf(t, 7, 1<<20))
	s.hook = func(w http.ResponseWriter, r *http.Request, _ int64) bool {
		assert.Equal(t, "identity", r.Header.Get("Accept-Encoding"))
		w.Header().Set("Content-Encoding", "identity")
		return false
	}
	_, err := s.open(t).ReadAt(t.Context(), make([]byte, 512), openBytes)
	require.NoError(t, err)

	// An encoding does not make an answer that may be better the next time one that will not.
	busy := 0
	s.hook = func(w http.ResponseWriter, _ *http.Request, _ int64) bool {
		if busy++; busy > 1 {
			return false
		}
		w.Header().Set("Content-Encoding", "gzip")
		w.WriteHeader(http.StatusServiceUnavailable)
		return true
	}
	_, err = s.open(t).ReadAt(t.Context(), make([]byte, 512), openBytes)
	require.NoError(t, err)
}

// TestWholeAnswer: a server that knows no ranges still does for small files.
func TestWholeAnswer(t *testing.T) {
	s := newShelf(t, []byte("# Disk DescriptorFile"))
	s.hook = func(w http.ResponseWriter, _ *http.Request, _ int64) bool {
		_, _ = w.Write(s.content)
		return true
	}
	img := s.open(t)
	require.Equal(t, int64(len(s.content)), img.Size())
	p := make([]byte, len(s.content))
	_, err := img.ReadAt(t.Context(), p, 0)
	require.NoError(t, err)
	require.Equal(t, s.content, p)
}

// TestSilentServer: one that takes a request and says nothing does not hold anybody for longer than the caller wants.
func TestSilentServer(t *testing.T) {
	s := newShelf(t, contentOf(t, 8, 1<<20))
	img := s.open(t)
	s.hook = func(_ http.ResponseWriter, r *http.Request, _ int64) bool {
		<-r.Context().Done()
		return true
	}
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	start := time.Now()
	_, err := img.ReadAt(ctx, make([]byte, 512), openBytes)
	require.ErrorIs(t, err, context.DeadlineExceeded)
	require.Less(t, time.Since(start), timeout)
}

// TestPlaces: a descriptor leads nowhere but to the VM's own datastores.
func TestPlaces(t *testing.T) {
	all := stores{{name: "store1", id: "5f-aa"}, {name: "store 2", id: "5f-bb"}}
	home, err := all.find("[store1] web1/web1-000001.vmdk")
	require.NoError(t, err)
	f := &storeFolder{stores: all, home: home}
	for name, want := range map[string]string{
		"web1.vmdk":                           "[store1] web1/web1.vmdk",
		"../base/base.vmdk":                   "[store1] base/base.vmdk",
		"/vmfs/volumes/5f-bb/base/base.vmdk":  "[store 2] base/base.vmdk",
		"/vmfs/volumes/store 2/base/b.vmdk":   "[store 2] base/b.vmdk",
		"../../etc/passwd":                    "",
		"/etc/passwd":                         "",
		"/vmfs/volumes/5f-cc/base.vmdk":       "",
		"/vmfs/volumes/5f-aa":                 "",
		"/vmfs/volumes/../../etc/passwd":      "",
		"/vmfs/volumes/5f-aa/../5f-bb/b.vmdk": "[store 2] b.vmdk",
		"a\x00b":                              "",
		"..":                                  "",
		strings.Repeat("a", 5000):             "",
	} {
		at, err := f.locate(name)
		if want == "" {
			require.ErrorIs(t, err, fs.ErrPermission, "%q", name)
			continue
		}
		require.NoError(t, err, name)
		require.Equal(t, want, at.String())
	}
	_, err = all.find("[elsewhere] x.vmdk")
	require.ErrorIs(t, err, fs.ErrNotExist)
	_, err = all.find("web1.vmdk")
	require.Error(t, err)
}

// TestNamesInAddresses: what a datastore or a folder is called does not change where a request goes.
func TestNamesInAddresses(t *testing.T) {
	c := &Client{address: &url.URL{Scheme: "https", Host: "vc:8443"}}
	u := fileURL(c, place{store{name: "a&dsName=b", datacenter: "/F/DC%2f1"}, "wéb 1/a#b?c%2f.vmdk"})
	back, err := url.Parse(u.String())
	require.NoError(t, err)
	require.Equal(t, "/folder/wéb 1/a#b?c%2f.vmdk", back.Path)
	require.Equal(t, url.Values{"dcPath": {"/F/DC%2f1"}, "dsName": {"a&dsName=b"}}, back.Query())
	require.Equal(t, "vc:8443", back.Host)
}

func newJar(t *testing.T) http.CookieJar {
	jar, err := cookiejar.New(nil)
	require.NoError(t, err)
	return jar
}
