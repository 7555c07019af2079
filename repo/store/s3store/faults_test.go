package s3store_test

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae/repo/store"
	"github.com/hikae/hikae/repo/store/s3store"
	"github.com/hikae/hikae/repo/store/s3store/s3test"
	"github.com/hikae/hikae/repo/store/storetest"
)

type act = func(b *between, w http.ResponseWriter, r *http.Request)

// What servers and lines do to a creation, once, twice, and with what was done or not: the object is there afterwards,
// whole, and who made it is told so.
func TestCreateThroughFaults(t *testing.T) {
	t.Parallel()
	srv := s3test.Start(t)
	b := newBetween(t, srv)
	data := bytes.Repeat([]byte("some bytes of an object"), 20_000)
	for name, do := range map[string]act{
		"slow down": answer(503, "SlowDown"), "internal error": answer(500, "InternalError"), "internal error after": after(500, "InternalError"),
		"conflict": answer(409, "ConditionalRequestConflict"), "aborted": answer(409, "OperationAborted"),
		"cut": cut, "lost": lose, "bad gateway": answer(502, ""), "gateway timeout after": after(504, ""), "too many": answer(429, "TooManyRequests"),
		"half an answer": half,
	} {
		for _, kind := range []s3test.Kind{s3test.Plain, s3test.Versioned} {
			for times := 1; times <= 2; times++ {
				if times == 2 && kind == s3test.Versioned && !long() {
					continue
				}
				at := place(t, srv, kind)
				st := open(t, srv, b.at(at), quick)
				b.add(&rule{method: http.MethodPut, has: "object", times: times, do: do})
				require.NoError(t, st.Create(t.Context(), "an/object", data), name)
				b.add()
				got, err := store.ReadAll(t.Context(), st, "an/object", 1<<20)
				require.NoError(t, err, name)
				assert.True(t, bytes.Equal(data, got), name)
				require.ErrorIs(t, st.Create(t.Context(), "an/object", data[1:]), fs.ErrExist, name)
				assert.Equal(t, 1, versionsOf(t, st, "an/object", kind), name)
			}
		}
	}
}

// versionsOf counts; a plain bucket has one.
func versionsOf(t *testing.T, st *s3store.Store, name string, kind s3test.Kind) (n int) {
	if kind == s3test.Plain {
		return 1
	}
	for _, err := range st.Versions(t.Context(), name) {
		require.NoError(t, err)
		n++
	}
	return n
}

// Somebody else's object is not taken for ours, however unclear the answer was.
func TestLostAnswerAndSomebodyElse(t *testing.T) {
	t.Parallel()
	srv := s3test.Start(t)
	b := newBetween(t, srv)
	st := open(t, srv, b.at(place(t, srv, s3test.Plain)), quick)
	require.NoError(t, st.Create(t.Context(), "log/1", []byte("theirs")))
	for _, do := range []act{lose, cut, answer(503, "SlowDown"), answer(409, "ConditionalRequestConflict")} {
		b.add(&rule{method: http.MethodPut, has: "log/1", times: 1, do: do})
		require.ErrorIs(t, st.Create(t.Context(), "log/1", []byte("ours!!")), fs.ErrExist)
	}
	b.add()
	got, err := store.ReadAll(t.Context(), st, "log/1", 100)
	require.NoError(t, err)
	assert.Equal(t, "theirs", string(got))
}

func TestReadThroughFaults(t *testing.T) {
	t.Parallel()
	srv := s3test.Start(t)
	b := newBetween(t, srv)
	data := bytes.Repeat([]byte("0123456789"), 100_000)
	st := open(t, srv, b.at(place(t, srv, s3test.Plain)), quick)
	require.NoError(t, st.Create(t.Context(), "an/object", data))
	for name, do := range map[string]act{"half": half, "cut": cut, "busy": answer(503, "SlowDown"), "broken": answer(500, "InternalError"),
		"whole instead of a range": whole} {
		b.add(&rule{method: http.MethodGet, has: "object", times: 2, do: do}, &rule{method: http.MethodHead, times: 1, do: cut})
		p := make([]byte, 300_000)
		n, err := st.ReadAt(t.Context(), "an/object", p, 150_005)
		require.NoError(t, err, name)
		assert.True(t, bytes.Equal(data[150_005:450_005], p[:n]), name)
		info, err := st.Stat(t.Context(), "an/object")
		require.NoError(t, err, name)
		assert.EqualValues(t, len(data), info.Size)
	}
}

// "Not there" is said only by a server that looked.
func TestAbsenceIsNotGuessed(t *testing.T) {
	t.Parallel()
	srv := s3test.Start(t)
	b := newBetween(t, srv)
	at := place(t, srv, s3test.Plain)
	st := open(t, srv, b.at(at), &s3store.Options{GiveUp: 300 * time.Millisecond})
	for _, do := range []act{answer(503, "SlowDown"), cut, answer(404, "NoSuchBucket"), answer(403, "AccessDenied"), answer(404, "")} {
		b.add(&rule{do: do})
		_, err := st.Stat(t.Context(), "x")
		require.Error(t, err)
		assert.NotErrorIs(t, err, fs.ErrNotExist)
		_, err = st.ReadAt(t.Context(), "x", make([]byte, 1), 0)
		require.Error(t, err)
		assert.NotErrorIs(t, err, fs.ErrNotExist)
		_, err = storetest.Collect(st.List(t.Context(), ""))
		require.Error(t, err)
		assert.NotErrorIs(t, err, fs.ErrNotExist)
		assert.NotErrorIs(t, st.Remove(t.Context(), "x"), fs.ErrNotExist)
	}
}

// A page of a listing that fails is asked for again, and what was yielded is not repeated.
func TestListThroughFaults(t *testing.T) {
	t.Parallel()
	srv := s3test.Start(t)
	b := newBetween(t, srv)
	for _, kind := range []s3test.Kind{s3test.Plain, s3test.Versioned} {
		st := open(t, srv, b.at(place(t, srv, kind)), quick)
		for i := range 30 {
			require.NoError(t, st.Create(t.Context(), strings.Repeat("a", i+1), make([]byte, i)))
		}
		for _, do := range []act{half, cut, answer(503, "SlowDown")} {
			b.add(&rule{method: http.MethodGet, has: "prefix=", times: 2, do: do})
			found, err := storetest.Collect(st.List(t.Context(), ""))
			require.NoError(t, err)
			assert.Len(t, found, 30)
		}
	}
}

// A server that takes the condition and ignores it is found out, and what can be done without it is done.
func TestServerWithoutConditions(t *testing.T) {
	t.Parallel()
	srv := s3test.Start(t)
	b := newBetween(t, srv)
	for name, do := range map[string]act{"ignores": unconditional, "refuses": func(b *between, w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("If-None-Match") != "" {
			answer(501, "NotImplemented")(b, w, r)
			return
		}
		b.pass(w, r)
	}} {
		st := open(t, srv, b.at(place(t, srv, s3test.Plain)), quick)
		b.add(&rule{method: http.MethodPut, do: do})
		found, err := st.Probe(t.Context())
		require.NoError(t, err, name)
		assert.False(t, found.ExclusiveCreate, name)
		assert.False(t, found.Shared(), name)
		require.NoError(t, st.Create(t.Context(), "log/1", []byte("one")), name)
		require.ErrorIs(t, st.Create(t.Context(), "log/1", []byte("two")), fs.ErrExist, name)
		got, err := store.ReadAll(t.Context(), st, "log/1", 10)
		require.NoError(t, err)
		assert.Equal(t, "one", string(got), name)
		left, err := storetest.Collect(st.List(t.Context(), ""))
		require.NoError(t, err)
		assert.Len(t, left, 1)
		b.add()
	}
}

// Only one of several at once is told that it made the name: a server that looks first and writes after is found out.
func TestServerThatRaces(t *testing.T) {
	t.Parallel()
	srv := s3test.Start(t)
	b := newBetween(t, srv)
	st := open(t, srv, b.at(place(t, srv, s3test.Plain)), quick)
	b.add(&rule{method: http.MethodPut, times: 2, do: unconditional})
	found, err := st.Probe(t.Context())
	require.NoError(t, err)
	assert.False(t, found.ExclusiveCreate)
}

func TestClockIsNamed(t *testing.T) {
	t.Parallel()
	srv := s3test.Start(t)
	b := newBetween(t, srv)
	st := open(t, srv, b.at(place(t, srv, s3test.Plain)), quick)
	b.add(&rule{do: func(b *between, w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Date", time.Now().Add(2*time.Hour).UTC().Format(http.TimeFormat))
		answer(403, "RequestTimeTooSkewed")(b, w, r)
	}})
	err := st.Create(t.Context(), "x", []byte("x"))
	require.ErrorIs(t, err, s3store.ErrClock)
	assert.Contains(t, err.Error(), "h") // by how much
	assert.Equal(t, 1, b.count("PUT"), "time does not heal it")
}

// Bar 34: temporary credentials that expire in the middle of a job are asked for anew, once.
func TestCredentialsExpire(t *testing.T) {
	t.Parallel()
	srv := s3test.Start(t)
	b := newBetween(t, srv)
	var asked atomic.Int64
	creds := func(context.Context) (s3store.Credentials, error) {
		asked.Add(1)
		return s3store.Credentials{AccessKey: srv.AccessKey, SecretKey: srv.SecretKey}, nil
	}
	st, err := s3store.Open(t.Context(), b.at(place(t, srv, s3test.Plain)), creds, quick)
	require.NoError(t, err)
	defer st.Close()
	b.add(&rule{method: http.MethodPut, times: 1, do: answer(400, "ExpiredToken")})
	require.NoError(t, st.Create(t.Context(), "x", []byte("x")))
	assert.EqualValues(t, 2, asked.Load())

	b.add(&rule{do: answer(400, "ExpiredToken")})
	err = st.Create(t.Context(), "y", []byte("y"))
	require.ErrorIs(t, err, s3store.ErrCredentials)
	assert.EqualValues(t, 3, asked.Load(), "once")
	assert.NotContains(t, err.Error(), srv.SecretKey)
}

// A server that is silent costs a call the time that is allowed, and no more.
func TestSilentServer(t *testing.T) {
	srv := s3test.Start(t)
	b := newBetween(t, srv)
	at := place(t, srv, s3test.Plain)
	st := open(t, srv, b.at(at), &s3store.Options{Timeout: 300 * time.Millisecond, GiveUp: 500 * time.Millisecond})
	b.add(&rule{do: hang})
	begin := time.Now()
	err := st.Create(t.Context(), "x", make([]byte, 1<<20))
	require.ErrorIs(t, err, s3store.ErrAway)
	assert.Less(t, time.Since(begin), 5*time.Second)

	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	_, err = st.Stat(ctx, "x")
	require.ErrorIs(t, err, context.DeadlineExceeded)
	b.server.CloseClientConnections()
}

func TestOpenNamesWhatIsWrong(t *testing.T) {
	t.Parallel()
	srv := s3test.Start(t)
	at := place(t, srv, s3test.Plain)
	none := at
	none.Bucket = "not-there"
	_, err := s3store.Open(t.Context(), none, keys(srv), quick)
	require.ErrorIs(t, err, s3store.ErrNoBucket)
	assert.False(t, errors.Is(err, fs.ErrNotExist))

	secret := "wJalrXUtnFEMIK7MDENGbPxRfiCYEXAMPLEKEY"
	for _, c := range []s3store.Credentials{{AccessKey: "nobody", SecretKey: secret}, {AccessKey: srv.AccessKey, SecretKey: secret}, {}} {
		_, err = s3store.Open(t.Context(), at, s3store.Static(c), quick)
		require.ErrorIs(t, err, s3store.ErrCredentials)
		assert.NotContains(t, err.Error(), secret)
	}
	srv.Stop()
	begin := time.Now()
	_, err = s3store.Open(t.Context(), at, keys(srv), nil)
	require.ErrorIs(t, err, s3store.ErrAway)
	assert.Less(t, time.Since(begin), 5*time.Second, "a server that is away is not waited for")
	assert.NotContains(t, err.Error(), srv.SecretKey)
}

// Answers that say "no", or "not now", to what was carried out: the object is there, and it is ours.
func TestRefusedAndCarriedOut(t *testing.T) {
	t.Parallel()
	srv := s3test.Start(t)
	at := place(t, srv, s3test.Plain)
	b := newBetween(t, srv)
	o := *quick
	o.PartSize = 5 << 20
	st := open(t, srv, b.at(at), &o)
	large := bytes.Repeat([]byte("0123456789abcdef"), 21<<16)
	for _, c := range []struct {
		name, method, has string
		data              []byte
		status            int
		code              string
	}{
		{"pack/a", http.MethodPost, "uploadId=", large, http.StatusOK, "InternalError"}, // S3 says so of a completion that it has begun to answer
		{"pack/b", http.MethodPut, "pack/b", large[:1000], http.StatusInternalServerError, "InternalError"},
		{"pack/c", http.MethodPut, "pack/c", large[:1000], http.StatusConflict, "OperationAborted"},
	} {
		b.add(&rule{method: c.method, has: c.has, times: 1, do: after(c.status, c.code)})
		require.NoError(t, st.Create(t.Context(), c.name, c.data), c.name)
		got, err := store.ReadAll(t.Context(), st, c.name, 32<<20)
		require.NoError(t, err)
		require.True(t, bytes.Equal(c.data, got), c.name)
	}
}
