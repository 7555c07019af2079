package s3store_test

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/minio/minio-go/v7"
	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae/repo/store/s3store"
	"github.com/hikae/hikae/repo/store/s3store/s3test"
)

// between stands between a store and its server, and does to requests what lines and servers do.
type between struct {
	server *httptest.Server
	behind string
	client *minio.Core // of the server itself

	mu    sync.Mutex
	rules []*rule
	seen  []string // "METHOD /path?query" of every request
}

// rule is what happens to requests.
type rule struct {
	method, has string // of the request's line
	skip, times int    // how many pass first, and how many are met after that; times 0: all
	do          func(b *between, w http.ResponseWriter, r *http.Request)
}

func newBetween(t *testing.T, srv *s3test.Server) *between {
	c, err := srv.Client()
	require.NoError(t, err)
	b := &between{behind: srv.Host, client: c}
	b.server = httptest.NewServer(b)
	t.Cleanup(b.server.Close)
	return b
}

// at is a place on the server, as it is seen through here.
func (b *between) at(a s3store.Address) s3store.Address {
	a.Host = strings.TrimPrefix(b.server.URL, "http://")
	return a
}

func (b *between) add(rules ...*rule) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.rules = rules
	b.seen = nil
}

func (b *between) count(has string) (n int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, line := range b.seen {
		if strings.Contains(line, has) {
			n++
		}
	}
	return n
}

// lines are the requests since rules were last added.
func (b *between) lines() []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Clone(b.seen)
}

func (b *between) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	line := r.Method + " " + r.URL.RequestURI()
	b.mu.Lock()
	b.seen = append(b.seen, line)
	do := (*between).pass
	for _, rule := range b.rules {
		if r.Method != rule.method && rule.method != "" || !strings.Contains(line, rule.has) {
			continue
		}
		if rule.skip > 0 {
			rule.skip--
			continue
		}
		if rule.times >= 0 {
			do = rule.do
		}
		if rule.times--; rule.times == 0 {
			rule.times = -1
		} else if rule.times == -1 && do != nil { // it was 0: for ever
			rule.times = 0
		}
		break
	}
	b.mu.Unlock()
	do(b, w, r)
}

// forward lets the server do it, and gives its answer.
func (b *between) forward(r *http.Request) (*http.Response, error) {
	out := r.Clone(r.Context())
	out.URL = &url.URL{Scheme: "http", Host: b.behind, Opaque: "//" + b.behind + r.URL.EscapedPath(), RawQuery: r.URL.RawQuery}
	out.RequestURI = ""
	if r.ContentLength == 0 {
		out.Body = nil
	}
	return http.DefaultTransport.RoundTrip(out)
}

func (b *between) pass(w http.ResponseWriter, r *http.Request) {
	resp, err := b.forward(r)
	if err != nil {
		w.WriteHeader(http.StatusBadGateway)
		return
	}
	defer resp.Body.Close()
	for k, v := range resp.Header {
		w.Header()[k] = v
	}
	w.WriteHeader(resp.StatusCode)
	_, _ = io.Copy(w, resp.Body)
}

// answer is an error of S3 in the server's place; the server hears nothing.
func answer(status int, code string) func(b *between, w http.ResponseWriter, r *http.Request) {
	return func(_ *between, w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		w.Header().Set("Content-Type", "application/xml")
		w.WriteHeader(status)
		if r.Method != http.MethodHead {
			fmt.Fprintf(w, "<Error><Code>%s</Code><Message>said in a test</Message></Error>", code)
		}
	}
}

// lose lets the server do it, and cuts the connection in place of its answer.
func lose(b *between, w http.ResponseWriter, r *http.Request) {
	if resp, err := b.forward(r); err == nil {
		_, _ = io.Copy(io.Discard, resp.Body)
		resp.Body.Close()
	}
	cut(b, w, r)
}

// after lets the server do it, and gives another answer.
func after(status int, code string) func(b *between, w http.ResponseWriter, r *http.Request) {
	return func(b *between, w http.ResponseWriter, r *http.Request) {
		if resp, err := b.forward(r); err == nil {
			_, _ = io.Copy(io.Discard, resp.Body)
			resp.Body.Close()
		}
		answer(status, code)(b, w, r)
	}
}

// cut closes the connection; the server hears nothing.
func cut(_ *between, w http.ResponseWriter, _ *http.Request) {
	if c, _, err := w.(http.Hijacker).Hijack(); err == nil {
		c.Close()
	}
}

// half gives half of the answer's body.
func half(b *between, w http.ResponseWriter, r *http.Request) {
	resp, err := b.forward(r)
	if err != nil {
		return
	}
	defer resp.Body.Close()
	for k, v := range resp.Header {
		w.Header()[k] = v
	}
	w.Header().Set("Content-Length", strconv.FormatInt(resp.ContentLength, 10))
	w.WriteHeader(resp.StatusCode)
	_, _ = io.CopyN(w, resp.Body, resp.ContentLength/2)
	w.(http.Flusher).Flush()
	cut(b, w, r)
}

// unconditional stores a body as a server does that does not know conditions.
func unconditional(b *between, w http.ResponseWriter, r *http.Request) {
	bucket, key, _ := strings.Cut(strings.Trim(r.URL.Path, "/"), "/")
	_, err := b.client.PutObject(r.Context(), bucket, key, r.Body, r.ContentLength, "", "", minio.PutObjectOptions{DisableContentSha256: true})
	if err != nil {
		w.WriteHeader(http.StatusInternalServerError)
	}
}

// whole answers a question for a range with all there is.
func whole(b *between, w http.ResponseWriter, r *http.Request) {
	bucket, key, _ := strings.Cut(strings.Trim(r.URL.Path, "/"), "/")
	content, info, _, err := b.client.GetObject(r.Context(), bucket, key, minio.GetObjectOptions{})
	if err != nil {
		w.WriteHeader(http.StatusInternalServerError)
		return
	}
	defer content.Close()
	w.Header().Set("Content-Length", strconv.FormatInt(info.Size, 10))
	w.Header().Set("Last-Modified", info.LastModified.UTC().Format(http.TimeFormat))
	_, _ = io.Copy(w, content)
}

// hang answers nothing for as long as the client waits.
func hang(_ *between, _ http.ResponseWriter, r *http.Request) {
	_, _ = io.Copy(io.Discard, r.Body)
	select {
	case <-r.Context().Done():
	case <-time.After(20 * time.Second):
	}
}

type (
	httpWriter  = http.ResponseWriter
	httpRequest = http.Request
)
