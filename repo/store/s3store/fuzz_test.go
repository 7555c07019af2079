package s3store

import (
	"context"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae/repo/store"
)

// An address that is taken is written as one that means the same.
func FuzzParseAddress(f *testing.F) {
	for _, s := range []string{"s3://s3.example.org/bucket/some/where?region=eu-1&style=path&tls=off", "s3://[::1]:9000/bucket", "s3://key:secret@host/bucket", "s3://h/b?tls=off&tls=on"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, raw string) {
		at, err := ParseAddress(raw)
		if err != nil {
			require.NotContains(t, err.Error(), "secret@")
			return
		}
		again, err := ParseAddress(at.String())
		require.NoError(t, err, "%q", at.String())
		require.Equal(t, at, again)
	})
}

func FuzzParseRange(f *testing.F) {
	f.Add("bytes 0-9/100")
	f.Add("bytes 9223372036854775807-1/9223372036854775808")
	f.Fuzz(func(t *testing.T, s string) {
		if first, size, ok := parseRange(s); ok {
			require.True(t, 0 <= first && first <= size)
		}
	})
}

// hostile is a server that gives the same answer to every request.
type hostile struct {
	server *httptest.Server
	body   atomic.Pointer[[]byte]
	status atomic.Int32
}

func newHostile(t testing.TB) *hostile {
	h := new(hostile)
	h.server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Last-Modified", "Mon, 02 Jan 2006 15:04:05 GMT")
		w.Header().Set("ETag", "x")
		w.WriteHeader(int(h.status.Load()))
		_, _ = w.Write(*h.body.Load())
	}))
	t.Cleanup(h.server.Close)
	return h
}

func (h *hostile) open(t testing.TB, versioned bool) *Store {
	at := Address{Host: strings.TrimPrefix(h.server.URL, "http://"), Bucket: "bucket", Plain: true, PathStyle: true}
	s, err := newStore(at, Static(Credentials{AccessKey: "a", SecretKey: "b"}), &Options{GiveUp: time.Millisecond, Timeout: time.Second})
	require.NoError(t, err)
	s.versioned = versioned
	t.Cleanup(func() { require.NoError(t, s.Close()) })
	return s
}

// Listings of objects, versions and started uploads from a server that says anything: they end, and give names that objects can have.
func FuzzListing(f *testing.F) {
	f.Add(200, []byte(`<?xml version="1.0"?><ListBucketResult><IsTruncated>false</IsTruncated><Contents><Key>log/1</Key><Size>-5</Size></Contents></ListBucketResult>`))
	f.Add(200, []byte(`<ListVersionsResult><IsTruncated>true</IsTruncated><NextKeyMarker>a</NextKeyMarker><Version><Key>log/1</Key><VersionId>v</VersionId><Size>99999999999999999999</Size></Version><DeleteMarker><Key>log/1</Key></DeleteMarker></ListVersionsResult>`))
	f.Add(200, []byte(`<ListMultipartUploadsResult><Upload><Key>..</Key><UploadId>u</UploadId></Upload></ListMultipartUploadsResult>`))
	f.Add(200, []byte(`<ListVersionsResult><Version><Key>log/1</Key><VersionId>v</VersionId><Size>-7</Size></Version></ListVersionsResult>`))
	f.Add(503, []byte(`<Error><Code>SlowDown</Code></Error>`))
	f.Add(404, []byte(`<Error><Code>NoSuchKey</Code></Error>`))
	h := newHostile(f)
	plain, versioned := h.open(f, false), h.open(f, true)
	f.Fuzz(func(t *testing.T, status int, body []byte) {
		h.body.Store(&body)
		h.status.Store(int32(200 + uint(status)%400))
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		for _, s := range []*Store{plain, versioned} {
			n := 0
			for info, err := range s.List(ctx, "") {
				if err != nil {
					break
				}
				require.True(t, store.ValidName(info.Name))
				require.GreaterOrEqual(t, info.Size, int64(0))
				if n++; n > 10_000 {
					break
				}
			}
			for v, err := range s.Versions(ctx, "log/1") {
				if err != nil {
					break
				}
				require.LessOrEqual(t, len(v.ID), store.MaxVersionID)
				require.GreaterOrEqual(t, v.Size, int64(0))
			}
			if info, err := s.Stat(ctx, "log/1"); err == nil {
				require.GreaterOrEqual(t, info.Size, int64(0))
			}
			_, _ = s.ReadAt(ctx, "log/1", make([]byte, 16), 3)
			_, _ = s.Sweep(ctx, true)
		}
		require.NoError(t, ctx.Err(), "it does not come to an end")
	})
}

// A server that says for ever that there is more, on pages with nothing new on them, is left.
func TestEmptyPagesInCircles(t *testing.T) {
	t.Parallel()
	h := newHostile(t)
	h.status.Store(http.StatusOK)
	for versioned, bodies := range map[bool][]string{
		false: {`<ListBucketResult><IsTruncated>true</IsTruncated><NextContinuationToken>x</NextContinuationToken></ListBucketResult>`},
		true: {`<ListVersionsResult><IsTruncated>true</IsTruncated><NextKeyMarker>a</NextKeyMarker></ListVersionsResult>`,
			`<ListVersionsResult><IsTruncated>true</IsTruncated><NextKeyMarker>a</NextKeyMarker><Version><Key>a</Key></Version></ListVersionsResult>`},
	} {
		for _, text := range bodies {
			body := []byte(text)
			h.body.Store(&body)
			s := h.open(t, versioned)
			ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
			var last error
			for _, err := range s.List(ctx, "") {
				last = err
			}
			require.ErrorIs(t, last, ErrCircles, text)
			if versioned {
				_, err := s.Stat(ctx, "log/1")
				require.ErrorIs(t, err, ErrCircles, text)
			}
			_, _ = s.Sweep(ctx, true)
			require.NoError(t, ctx.Err(), text)
			cancel()
		}
	}
}

// An answer that never ends is given up at its bound, whatever it is about, before much memory is taken for it.
func TestEndlessAnswers(t *testing.T) {
	sent := new(atomic.Int64)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		status := http.StatusOK
		if r.Method == http.MethodDelete {
			status = http.StatusForbidden
		}
		w.WriteHeader(status)
		if r.Method == http.MethodHead {
			return
		}
		chunk := []byte(strings.Repeat("k", 1<<20))
		_, err := w.Write([]byte(`<ListBucketResult><Contents><Key>`))
		for err == nil && sent.Load() < 1<<30 {
			_, err = w.Write(chunk)
			sent.Add(1 << 20)
		}
	}))
	t.Cleanup(server.Close)
	h := &hostile{server: server}
	s := h.open(t, false)
	for name, call := range map[string]func(context.Context) error{
		"list": func(ctx context.Context) (last error) {
			for _, err := range s.List(ctx, "") {
				last = err
			}
			return last
		},
		"remove": func(ctx context.Context) error { return s.Remove(ctx, "log/1") },
		"read": func(ctx context.Context) error {
			_, err := s.ReadAt(ctx, "log/1", make([]byte, 100), 0)
			return err
		},
	} {
		sent.Store(0)
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		begin := time.Now()
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		err := call(ctx)
		require.NoError(t, ctx.Err(), name)
		cancel()
		runtime.ReadMemStats(&after)
		require.Error(t, err, name)
		require.Less(t, sent.Load(), int64(256<<20), name)
		require.Less(t, after.TotalAlloc-before.TotalAlloc, uint64(300<<20), "%s, in %v", name, time.Since(begin))
	}
}
