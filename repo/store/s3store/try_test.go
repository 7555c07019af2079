package s3store

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/url"
	"testing"
	"time"

	"github.com/minio/minio-go/v7"
	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae/internal/bubble"
	"github.com/hikae/hikae/repo/store"
)

func said(status int, code string) error {
	return minio.ErrorResponse{StatusCode: status, Code: code, Message: "said in a test"}
}

var busy = said(http.StatusServiceUnavailable, "SlowDown")

// apart is a store whose server is not asked for anything.
func apart(t *testing.T, opts Options) *Store {
	at := Address{Host: "s3.example.org", Bucket: "bucket", Plain: true}
	s, err := newStore(at, Static(Credentials{AccessKey: "a", SecretKey: "b"}), &opts)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, s.Close()) })
	return s
}

// A busy server is waited for with growing pauses, for as long as is allowed and no longer.
func TestTryGivesUp(t *testing.T) {
	t.Parallel()
	bubble.Test(t, func(t *testing.T) {
		const giveUp = 10 * time.Minute
		s := apart(t, Options{GiveUp: giveUp})
		begin := time.Now()
		var last time.Time
		var gaps []time.Duration
		err := s.try(t.Context(), func(context.Context) error {
			if !last.IsZero() {
				gaps = append(gaps, time.Since(last))
			}
			last = time.Now()
			return busy
		})
		require.ErrorIs(t, err, ErrAway)
		require.ErrorContains(t, err, "said in a test")
		require.LessOrEqual(t, time.Since(begin), giveUp+maxPause/2)
		require.GreaterOrEqual(t, time.Since(begin), giveUp-maxPause)
		pause := firstPause
		for i, gap := range gaps {
			require.GreaterOrEqual(t, gap, pause/2, i)
			require.Less(t, gap, pause+pause/2, i)
			pause = min(2*pause, maxPause)
		}
		require.Greater(t, len(gaps), 20, "the pauses have an end to their growth")
	})
}

// What a pause would bring beyond the time that is allowed is not waited for; exactly that time is.
func TestTryAtItsLimit(t *testing.T) {
	t.Parallel()
	for took, want := range map[time.Duration]int{time.Minute - firstPause: 2, time.Minute - firstPause + 1: 1} {
		bubble.Test(t, func(t *testing.T) {
			s := apart(t, Options{GiveUp: time.Minute})
			calls := 0
			err := s.try(t.Context(), func(context.Context) error {
				calls++
				time.Sleep(took)
				return busy
			})
			require.ErrorIs(t, err, ErrAway)
			require.Equal(t, want, calls)
		})
	}
}

func TestTryWithoutPatience(t *testing.T) {
	t.Parallel()
	bubble.Test(t, func(t *testing.T) {
		s := apart(t, Options{GiveUp: -1})
		for _, c := range []struct {
			err  error
			want int
			is   error
		}{
			{busy, 1, ErrAway}, {errAgain, maxLooks, ErrAway}, {io.ErrUnexpectedEOF, 1, ErrAway},
			{said(404, "NoSuchKey"), 1, fs.ErrNotExist}, {said(400, "Refused"), 1, said(400, "Refused")}, {errLock, 1, errLock},
		} {
			calls := 0
			err := s.try(t.Context(), func(context.Context) error { calls++; return c.err })
			require.ErrorIs(t, err, c.is)
			require.Equal(t, c.want, calls, c.err)
			require.Equal(t, c.is == ErrAway, errors.Is(err, ErrAway))
		}
		calls := 0
		require.NoError(t, s.try(t.Context(), func(context.Context) error {
			if calls++; calls < maxLooks {
				return errAgain
			}
			return nil
		}))
	})
}

// A call that is ended says by what, also in the middle of a pause, and at once.
func TestTryIsEnded(t *testing.T) {
	t.Parallel()
	why := errors.New("why")
	bubble.Test(t, func(t *testing.T) {
		s := apart(t, Options{})
		ctx, cancel := context.WithCancelCause(t.Context())
		calls := 0
		err := s.try(ctx, func(context.Context) error { calls++; cancel(why); return busy })
		require.Equal(t, why, err)
		require.Equal(t, 1, calls)

		ctx, cancel = context.WithCancelCause(t.Context())
		begin := time.Now()
		time.AfterFunc(firstPause/4, func() { cancel(why) })
		require.Equal(t, why, s.try(ctx, func(context.Context) error { return busy }))
		require.Equal(t, firstPause/4, time.Since(begin))

		ctx, cancel = context.WithCancelCause(t.Context())
		require.NoError(t, s.try(ctx, func(context.Context) error { cancel(why); return nil }), "it went well before")
	})
}

// Credentials that have expired are asked for anew once by each call, and once by calls that were signed before that.
func TestTryRenews(t *testing.T) {
	t.Parallel()
	bubble.Test(t, func(t *testing.T) {
		asked := 0
		at := Address{Host: "s3.example.org", Bucket: "bucket", Plain: true}
		s, err := newStore(at, func(context.Context) (Credentials, error) {
			asked++
			return Credentials{AccessKey: "a", SecretKey: "b"}, nil
		}, &Options{})
		require.NoError(t, err)
		defer s.Close()
		use := func() {
			_, err := s.creds.GetWithContext(nil)
			require.NoError(t, err)
		}
		for name, way := range map[string]func(context.Context, func(context.Context) error) error{"try": s.try, "once": s.once} {
			use()
			time.Sleep(time.Second)
			calls, before := 0, asked
			err = way(t.Context(), func(context.Context) error { calls++; use(); return said(400, "ExpiredToken") })
			require.ErrorIs(t, err, ErrCredentials, name)
			require.Equal(t, 2, calls, name)
			require.Equal(t, before+1, asked, name)

			time.Sleep(time.Second)
			calls = 0
			require.NoError(t, way(t.Context(), func(context.Context) error {
				if calls++; calls == 1 {
					return said(400, "ExpiredToken")
				}
				return nil
			}), name)
		}
		use()
		time.Sleep(time.Second)
		signed, before := time.Now(), asked
		time.Sleep(time.Second)
		for range 3 { // three requests that were signed together
			s.renew(signed)
			use()
		}
		require.Equal(t, before+1, asked)
	})
}

// What is asked once is not asked again where the server is away, and says so.
func TestOnce(t *testing.T) {
	t.Parallel()
	why := errors.New("why")
	s := apart(t, Options{})
	for _, c := range []struct {
		err, is error
		away    bool
	}{{nil, nil, false}, {busy, ErrAway, true}, {io.ErrUnexpectedEOF, io.ErrUnexpectedEOF, true}, {said(403, "AccessDenied"), fs.ErrPermission, false}} {
		calls := 0
		err := s.once(t.Context(), func(context.Context) error { calls++; return c.err })
		require.Equal(t, 1, calls)
		require.ErrorIs(t, err, c.is)
		require.Equal(t, c.away, errors.Is(err, ErrAway), err)
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	err := s.once(ctx, func(context.Context) error { cancel(why); return busy })
	require.Equal(t, why, err, "not that the server is away")
	require.Equal(t, why, s.once(ctx, func(context.Context) error { panic("it is not asked") }))
}

// A call has a context of its own, that ends with the call, with the store, and with the caller's.
func TestBegin(t *testing.T) {
	t.Parallel()
	s := apart(t, Options{})
	_, done, err := s.begin(t.Context(), false)
	require.ErrorIs(t, err, fs.ErrInvalid)
	done()

	ctx, done, err := s.begin(t.Context(), true)
	require.NoError(t, err)
	require.NoError(t, ctx.Err())
	done()
	require.ErrorIs(t, ctx.Err(), context.Canceled, "nothing is left of it")

	why := errors.New("why")
	over, cancel := context.WithCancelCause(t.Context())
	ctx, done, err = s.begin(over, true)
	require.NoError(t, err)
	defer done()
	cancel(why)
	<-ctx.Done()
	require.Equal(t, why, context.Cause(ctx))
	_, _, err = s.begin(over, true)
	require.Equal(t, why, err)

	ctx, done, err = s.begin(t.Context(), true)
	require.NoError(t, err)
	defer done()
	require.NoError(t, s.Close())
	<-ctx.Done()
	require.ErrorIs(t, context.Cause(ctx), fs.ErrClosed)
	_, _, err = s.begin(t.Context(), true)
	require.ErrorIs(t, err, fs.ErrClosed)
}

// What an answer means decides what is done next: whether it is tried again, and whether it may have been carried out.
func TestAnswersMean(t *testing.T) {
	t.Parallel()
	broken := &url.Error{Op: "Put", URL: "https://s3.example.org/bucket/key?X-Amz-Signature=sEcrEt", Err: io.ErrUnexpectedEOF}
	for _, c := range []struct {
		err            error
		again, unclear bool
		is             error // beside itself
	}{
		{broken, true, true, io.ErrUnexpectedEOF},
		{errStalled, true, true, nil},
		{errAgain, true, true, nil},
		{said(503, "SlowDown"), true, true, nil},
		{said(200, "InternalError"), true, true, nil},
		{said(500, "Odd"), true, true, nil},
		{said(501, "NotImplemented"), false, true, nil},
		{said(499, "Odd"), false, false, nil},
		{said(502, "Odd"), true, true, nil},
		{said(504, "Odd"), true, true, nil},
		{said(408, "Odd"), true, true, nil},
		{said(409, "Odd"), true, true, nil},
		{said(429, "Odd"), true, false, nil},
		{said(404, "NoSuchUpload"), true, true, nil},
		{said(400, "BadDigest"), true, false, nil},
		{said(400, "Odd"), false, false, nil},
		{said(404, "NoSuchKey"), false, false, fs.ErrNotExist},
		{said(404, "NoSuchBucket"), false, false, ErrNoBucket},
		{said(412, "PreconditionFailed"), false, false, fs.ErrExist},
		{said(503, "AccessDenied"), false, true, fs.ErrPermission}, // the code says more than the status
		{said(403, "RequestTimeTooSkewed"), false, false, ErrClock},
		{fmt.Errorf("x: %w", errLock), false, false, errLock},
		{errReadBack, false, false, nil}, {errOvertaken, false, false, nil}, {errMixed, false, false, nil}, {errUploadGone, false, false, nil},
		{ErrCircles, false, false, nil}, {ErrDefaultRetention, false, false, nil}, {store.ErrForeign, false, false, nil}, {fs.ErrClosed, false, false, nil},
		{x509.UnknownAuthorityError{}, false, false, nil}, {x509.HostnameError{Certificate: new(x509.Certificate)}, false, false, nil},
		{x509.CertificateInvalidError{Cert: new(x509.Certificate)}, false, false, nil},
		{&tls.CertificateVerificationError{Err: io.EOF}, false, false, nil}, {tls.RecordHeaderError{}, false, false, nil},
	} {
		s := apart(t, Options{})
		require.Equal(t, c.again, worthwhile(c.err), c.err)
		require.Equal(t, c.unclear, unclear(c.err), c.err)
		got := s.translate(c.err)
		require.NotContains(t, got.Error(), "sEcrEt")
		if c.is == nil {
			require.Equal(t, c.err, got)
			continue
		}
		require.ErrorIs(t, got, c.is)
		require.Equal(t, got, s.translate(got), "it is said once")
	}
	require.False(t, worthwhile(nil))
	s := apart(t, Options{})
	require.NoError(t, s.translate(nil))
	s.line.skew.Store(int64(2*time.Hour + 300*time.Millisecond))
	require.ErrorContains(t, s.translate(said(403, "RequestTimeTooSkewed")), "ahead by 2h0m0s")
	require.NotContains(t, s.translate(said(404, "NoSuchKey")).Error(), "ahead")

	ended, cancel := context.WithCancelCause(t.Context())
	cancel(fs.ErrClosed)
	require.Equal(t, fs.ErrClosed, cause(ended, io.EOF))
	require.NoError(t, cause(ended, nil))
	require.Equal(t, io.EOF, cause(t.Context(), io.EOF))

	require.Equal(t, io.ErrUnexpectedEOF, short(nil))
	require.Equal(t, io.ErrUnexpectedEOF, short(io.EOF))
	require.Equal(t, errStalled, short(errStalled))
}

// An error names the operation and the object once.
func TestFail(t *testing.T) {
	t.Parallel()
	require.NoError(t, fail("read", "a", nil))
	require.EqualError(t, fail("list", "", io.EOF), "list: EOF")
	require.EqualError(t, fail("read", "a", io.EOF), "read a: EOF")
	own := &fs.PathError{Op: "stat", Path: "a", Err: io.EOF}
	require.Equal(t, error(own), fail("read", "a", own))
	require.EqualError(t, fail("read", "b", own), "read b: stat a: EOF")
}
