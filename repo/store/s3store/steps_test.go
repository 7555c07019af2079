package s3store_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/minio/minio-go/v7"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae/repo/store"
	"github.com/hikae/hikae/repo/store/s3store"
	"github.com/hikae/hikae/repo/store/s3store/s3test"
	"github.com/hikae/hikae/repo/store/storetest"
)

// step is a call whose requests fail one after the other.
type step struct {
	name  string
	kinds []s3test.Kind
	make  func(t *testing.T, st *s3store.Store, evil *vandal, name string) // what is there before; nil: nothing
	call  func(ctx context.Context, st *s3store.Store, name string) error
	check func(t *testing.T, st *s3store.Store, name string) // what is there after it went well

	aside   string // requests of cleaning up and the like, whose failure is not the call's
	unclear string // requests of trials, whose lost answers leave the trial undecided
	opts    *s3store.Options
	slow    bool // the fast tier does it with one kind of bucket, and only where nothing has to be waited for
}

var (
	everyKind      = []s3test.Kind{s3test.Plain, s3test.Versioned}
	versionedFirst = []s3test.Kind{s3test.Versioned, s3test.Plain}
	locked         = []s3test.Kind{s3test.Locked}
)

func made(t *testing.T, st *s3store.Store, evil *vandal, name string) {
	require.NoError(t, st.Create(t.Context(), name, []byte("genuine")))
	if st.KeepsVersions() {
		evil.overwrite(name, []byte("forged"))
		evil.mark(name)
	}
}

// alone makes an object that has one version.
func alone(t *testing.T, st *s3store.Store, _ *vandal, name string) {
	require.NoError(t, st.Create(t.Context(), name, []byte("genuine")))
}

func reads(want string) func(t *testing.T, st *s3store.Store, name string) {
	return func(t *testing.T, st *s3store.Store, name string) {
		got, err := store.ReadAll(t.Context(), st, name, 64<<20)
		require.NoError(t, err)
		require.True(t, bytes.Equal([]byte(want), got), "%d bytes", len(got))
	}
}

func isGone(t *testing.T, st *s3store.Store, name string) {
	_, err := st.Stat(t.Context(), name)
	require.ErrorIs(t, err, fs.ErrNotExist)
}

var inTwoHours = time.Now().Add(2 * time.Hour)

func isLocked(t *testing.T, st *s3store.Store, name string) {
	until, err := st.Locked(t.Context(), name)
	require.NoError(t, err)
	require.False(t, until.Before(inTwoHours), until)
}

var errWrong = errors.New("a wrong answer without an error")

// expect makes a wrong answer an error.
func expect(ok bool, err error) error {
	if err == nil && !ok {
		return errWrong
	}
	return err
}

var steps = []step{
	{name: "create", kinds: everyKind, check: reads("small"),
		call: func(ctx context.Context, st *s3store.Store, name string) error {
			return st.Create(ctx, name, []byte("small"))
		}},
	{name: "create what was made", kinds: everyKind, make: made, check: reads("genuine"), aside: "DELETE",
		call: func(ctx context.Context, st *s3store.Store, name string) error {
			err := st.Create(ctx, name, []byte("late"))
			if errors.Is(err, fs.ErrExist) {
				return nil
			}
			return expect(false, err)
		}},
	{name: "create large", kinds: versionedFirst, check: reads(large), opts: &s3store.Options{PartSize: 5 << 20, GiveUp: 5 * time.Second, Timeout: 5 * time.Second}, slow: true,
		call: func(ctx context.Context, st *s3store.Store, name string) error {
			return st.Create(ctx, name, []byte(large))
		}},
	{name: "read", kinds: everyKind, make: made,
		call: func(ctx context.Context, st *s3store.Store, name string) error {
			p := make([]byte, 4)
			n, err := st.ReadAt(ctx, name, p, 3)
			return expect(n == 4 && string(p) == "uine", err)
		}},
	{name: "read nothing", kinds: everyKind, make: made,
		call: func(ctx context.Context, st *s3store.Store, name string) error {
			n, err := st.ReadAt(ctx, name, nil, 3)
			return expect(n == 0, err)
		}},
	{name: "stat", kinds: everyKind, make: made,
		call: func(ctx context.Context, st *s3store.Store, name string) error {
			info, err := st.Stat(ctx, name)
			return expect(info == store.Info{Name: name, Size: 7}, err)
		}},
	{name: "list", kinds: everyKind, make: made,
		call: func(ctx context.Context, st *s3store.Store, name string) error {
			found, err := storetest.Collect(st.List(ctx, name[:strings.Index(name, "/")+1]))
			return expect(len(found) == 1 && found[name] == 7, err)
		}},
	{name: "versions", kinds: []s3test.Kind{s3test.Versioned}, make: made,
		call: func(ctx context.Context, st *s3store.Store, name string) error {
			n := 0
			for _, err := range st.Versions(ctx, name) {
				if err != nil {
					return err
				}
				n++
			}
			return expect(n == 2, nil)
		}},
	{name: "remove", kinds: everyKind, make: made, check: isGone,
		call: func(ctx context.Context, st *s3store.Store, name string) error { return st.Remove(ctx, name) }},
	{name: "mend", kinds: everyKind, make: made, check: reads("right"),
		call: func(ctx context.Context, st *s3store.Store, name string) error {
			return st.Mend(ctx, name, []byte("right"))
		}},
	{name: "mend what can be locked", kinds: locked, make: made, check: reads("right"),
		call: func(ctx context.Context, st *s3store.Store, name string) error {
			return st.Mend(ctx, name, []byte("right"))
		}},
	{name: "lock", kinds: locked, make: alone, check: isLocked,
		call: func(ctx context.Context, st *s3store.Store, name string) error {
			return st.Lock(ctx, name, inTwoHours)
		}},
	{name: "look at the lock", kinds: locked,
		make: func(t *testing.T, st *s3store.Store, evil *vandal, name string) {
			alone(t, st, evil, name)
			require.NoError(t, st.Lock(t.Context(), name, inTwoHours))
		},
		call: func(ctx context.Context, st *s3store.Store, name string) error {
			until, err := st.Locked(ctx, name)
			return expect(!until.Before(inTwoHours), err)
		}},
	{name: "sweep", kinds: everyKind,
		make: func(t *testing.T, st *s3store.Store, evil *vandal, name string) {
			evil.overwrite(".probe/left", []byte("x"))
			for _, name := range []string{"pack/a", "pack/b"} {
				_, err := evil.api.NewMultipartUpload(t.Context(), evil.at.Bucket, evil.at.Prefix+"/"+name, minio.PutObjectOptions{})
				require.NoError(t, err)
			}
		},
		call: func(ctx context.Context, st *s3store.Store, _ string) error {
			_, err := st.Sweep(ctx, true)
			return err
		},
		check: func(t *testing.T, st *s3store.Store, name string) {
			left, err := st.Sweep(t.Context(), true)
			require.NoError(t, err)
			require.Zero(t, left, "it has swept already")
		}},
	{name: "probe", kinds: versionedFirst, unclear: "PUT",
		call: func(ctx context.Context, st *s3store.Store, _ string) error {
			found, err := st.Probe(ctx)
			return expect(found.ExclusiveCreate && found.FreshReads, err)
		}},
}

var large = strings.Repeat("0123456789abcdef", 21<<16)

// A refusal that time does not heal is told, whichever request of a call it meets, and is not asked for again.
func TestEveryRefusalIsTold(t *testing.T) {
	t.Parallel()
	srv := s3test.Start(t)
	eachRequest(t, srv, false, answer(http.StatusUnprocessableEntity, "Refused"), func(t *testing.T, s *step, refused, next string, err error) {
		head := strings.HasPrefix(refused, "HEAD ")
		aside := s.aside != "" && strings.HasPrefix(refused, s.aside) || // of the time nothing but the date is read
			head && strings.Contains(refused, "bucket-") && !strings.Contains(refused, "where")
		if aside {
			require.NoError(t, err)
			return
		}
		require.Error(t, err)
		require.NotErrorIs(t, err, errWrong)
		require.NotErrorIs(t, err, s3store.ErrAway)
		require.NotErrorIs(t, err, fs.ErrNotExist)
		if !head { // which has no body
			require.ErrorContains(t, err, "said in a test")
		}
		if s.unclear == "" { // trials are made at once
			require.NotEqual(t, refused, next, "it is asked for again")
		}
	})
}

// A server that is busy once, whichever request it meets, is asked again, and all is as if it had not been.
func TestEveryRequestMeetsABusyServer(t *testing.T) {
	t.Parallel()
	srv := s3test.Start(t)
	eachRequest(t, srv, true, answer(http.StatusServiceUnavailable, "SlowDown"), func(t *testing.T, _ *step, _, _ string, err error) {
		require.NoError(t, err)
	})
}

// An answer that is lost, whichever it is, does not make a call fail or do a thing twice.
func TestEveryAnswerIsLost(t *testing.T) {
	t.Parallel()
	srv := s3test.Start(t)
	eachRequest(t, srv, true, lose, func(t *testing.T, s *step, lost, _ string, err error) {
		if s.unclear != "" && strings.HasPrefix(lost, s.unclear) {
			require.True(t, err == nil || errors.Is(err, errWrong), err)
			return
		}
		require.NoError(t, err)
	})
}

// eachRequest makes every call anew with its first request met, then its second, and so on until one is not reached.
func eachRequest(t *testing.T, srv *s3test.Server, waits bool, do act, told func(t *testing.T, s *step, met, next string, err error)) {
	for i := range steps {
		s := &steps[i]
		for j, kind := range s.kinds {
			if s.slow && !long() && (waits || j > 0) {
				continue
			}
			t.Run(fmt.Sprint(s.name, " ", kind), func(t *testing.T) {
				t.Parallel()
				opts := s.opts
				if opts == nil {
					opts = quick
				}
				at := place(t, srv, kind)
				b := newBetween(t, srv)
				evil, other := newVandal(t, srv, at), open(t, srv, at, quick)
				for n := 0; ; n++ {
					require.Less(t, n, 100, "it comes to no end")
					name := fmt.Sprintf("some%d/a", n)
					if s.make != nil {
						s.make(t, other, evil, name)
					}
					st := open(t, srv, b.at(at), opts) // which knows nothing yet
					b.add(&rule{skip: n, times: 1, do: do})
					err := s.call(t.Context(), st, name)
					lines := b.lines()
					b.add()
					if len(lines) <= n {
						require.NoError(t, err, "without any fault")
						break
					}
					next := ""
					if len(lines) > n+1 {
						next = lines[n+1]
					}
					told(t, s, lines[n], next, err)
					if strings.HasSuffix(lines[n], "?uploads=") { // nobody learned of the upload that may have been begun
						_, err := other.Sweep(t.Context(), true)
						require.NoError(t, err)
					}
					if err == nil && s.check != nil {
						s.check(t, st, name)
						s.check(t, open(t, srv, at, quick), name)
					}
				}
				assert.Zero(t, started(t, srv, at), "no upload is left")
			})
		}
	}
}
