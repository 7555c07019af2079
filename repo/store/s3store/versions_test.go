package s3store_test

import (
	"bytes"
	"context"
	"fmt"
	"io/fs"
	"net/http"
	"sync"
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

// vandal has a writer's credentials and no manners.
type vandal struct {
	t   *testing.T
	api *minio.Core
	at  s3store.Address
}

func newVandal(t *testing.T, srv *s3test.Server, at s3store.Address) *vandal {
	c, err := srv.Client()
	require.NoError(t, err)
	return &vandal{t, c, at}
}

func (v *vandal) overwrite(name string, data []byte) {
	_, err := v.api.PutObject(v.t.Context(), v.at.Bucket, v.at.Prefix+"/"+name, bytes.NewReader(data), int64(len(data)), "", "", minio.PutObjectOptions{DisableContentSha256: true})
	require.NoError(v.t, err)
}

func (v *vandal) mark(name string) {
	require.NoError(v.t, v.api.RemoveObject(v.t.Context(), v.at.Bucket, v.at.Prefix+"/"+name, minio.RemoveObjectOptions{}))
}

func TestOldestVersionIsTheObject(t *testing.T) {
	t.Parallel()
	srv := s3test.Start(t)
	at := place(t, srv, s3test.Versioned)
	st, evil := open(t, srv, at, quick), newVandal(t, srv, at)
	ctx := t.Context()
	for i, name := range []string{"pack/a", "pack/b", "log/1"} {
		require.NoError(t, st.Create(ctx, name, []byte("genuine "+name)))
		if i != 1 {
			evil.overwrite(name, []byte("forged, and longer than that"))
		}
		evil.mark(name)
		if i == 2 {
			evil.overwrite(name, nil)
		}
	}
	evil.mark("never/there")
	for _, st := range []*s3store.Store{st, open(t, srv, at, quick)} {
		found, err := storetest.Collect(st.List(ctx, ""))
		require.NoError(t, err)
		assert.Equal(t, map[string]int64{"pack/a": 14, "pack/b": 14, "log/1": 13}, found)
		for name := range found {
			got, err := store.ReadAll(ctx, st, name, 100)
			require.NoError(t, err)
			assert.Equal(t, "genuine "+name, string(got))
			require.ErrorIs(t, st.Create(ctx, name, []byte("again")), fs.ErrExist, "behind a mark of deletion too")
		}
		_, err = st.Stat(ctx, "never/there")
		require.ErrorIs(t, err, fs.ErrNotExist)
	}
	require.NoError(t, st.Create(ctx, "never/there", []byte("x")), "a mark over nothing keeps nobody out")
	require.NoError(t, st.Remove(ctx, "pack/a"))
	_, err := st.Stat(ctx, "pack/a")
	require.ErrorIs(t, err, fs.ErrNotExist, "removing takes every version")
}

// Whoever can tell genuine from forged sees every version, the oldest first.
func TestVersionsAreRead(t *testing.T) {
	t.Parallel()
	srv := s3test.Start(t)
	at := place(t, srv, s3test.Versioned)
	st, evil := open(t, srv, at, quick), newVandal(t, srv, at)
	evil.overwrite("log/1", []byte("squatted"))
	require.ErrorIs(t, st.Create(t.Context(), "log/1", []byte("late")), fs.ErrExist)
	evil.overwrite("log/1", []byte("genuine"))
	evil.mark("log/1")
	var got []string
	for v, err := range st.Versions(t.Context(), "log/1") {
		require.NoError(t, err)
		p := make([]byte, v.Size)
		_, err = st.ReadVersionAt(t.Context(), "log/1", v.ID, p, 0)
		require.NoError(t, err)
		got = append(got, string(p))
	}
	assert.Equal(t, []string{"squatted", "genuine"}, got)
}

// An object that another client removed and made again is not read by the version that is remembered.
func TestRememberedVersionThatIsGone(t *testing.T) {
	t.Parallel()
	srv := s3test.Start(t)
	at := place(t, srv, s3test.Versioned)
	one, two := open(t, srv, at, quick), open(t, srv, at, quick)
	require.NoError(t, one.Create(t.Context(), "log/1", []byte("first")))
	_, err := store.ReadAll(t.Context(), two, "log/1", 10)
	require.NoError(t, err)
	require.NoError(t, one.Remove(t.Context(), "log/1"))
	_, err = two.ReadAt(t.Context(), "log/1", make([]byte, 5), 0)
	require.ErrorIs(t, err, fs.ErrNotExist)
	require.NoError(t, one.Create(t.Context(), "log/1", []byte("other")))
	got, err := store.ReadAll(t.Context(), two, "log/1", 10)
	require.NoError(t, err)
	assert.Equal(t, "other", string(got))
}

func TestLock(t *testing.T) {
	t.Parallel()
	srv := s3test.Start(t)
	for _, mode := range []s3store.Mode{s3store.Compliance, s3store.Governance} {
		at := place(t, srv, s3test.Locked)
		st := open(t, srv, at, &s3store.Options{GiveUp: time.Second, Lock: mode})
		ctx := t.Context()
		require.NoError(t, st.Create(ctx, "pack/a", []byte("kept")))
		until, err := st.Locked(ctx, "pack/a")
		require.NoError(t, err)
		assert.True(t, until.IsZero(), "nothing is locked by itself")

		now, err := st.Now(ctx)
		require.NoError(t, err)
		assert.WithinDuration(t, time.Now(), now, 5*time.Second)
		want := now.Add(time.Hour).Add(300 * time.Millisecond)
		require.NoError(t, st.Lock(ctx, "pack/a", want))
		until, err = st.Locked(ctx, "pack/a")
		require.NoError(t, err)
		assert.False(t, until.Before(want), "rounded up")
		assert.WithinDuration(t, want, until, time.Second)

		require.ErrorIs(t, st.Remove(ctx, "pack/a"), store.ErrLocked)
		require.NoError(t, st.Lock(ctx, "pack/a", now.Add(time.Minute)), "a longer lock stays")
		same, err := st.Locked(ctx, "pack/a")
		require.NoError(t, err)
		assert.Equal(t, until, same)
		require.NoError(t, st.Lock(ctx, "pack/a", now.Add(2*time.Hour)))
		longer, err := st.Locked(ctx, "pack/a")
		require.NoError(t, err)
		assert.Equal(t, now.Add(2*time.Hour), longer)

		evil := newVandal(t, srv, at)
		evil.overwrite("pack/a", []byte("gone"))
		evil.mark("pack/a")
		got, err := store.ReadAll(ctx, st, "pack/a", 10)
		require.NoError(t, err)
		assert.Equal(t, "kept", string(got))
		require.ErrorIs(t, st.Remove(ctx, "pack/a"), store.ErrLocked)
		_, err = st.Locked(ctx, "pack/b")
		require.ErrorIs(t, err, fs.ErrNotExist)
		require.ErrorIs(t, st.Lock(ctx, "pack/b", want), fs.ErrNotExist)
	}
}

func TestCanLock(t *testing.T) {
	t.Parallel()
	srv := s3test.Start(t)
	for kind, want := range map[s3test.Kind]bool{s3test.Plain: false, s3test.Versioned: false, s3test.Locked: true} {
		at := place(t, srv, kind)
		st := open(t, srv, at, quick)
		can, err := st.CanLock(t.Context())
		require.NoError(t, err)
		assert.Equal(t, want, can, "kind %d", kind)
		all := newVandal(t, srv, at)
		for o := range all.api.ListObjectsIter(t.Context(), at.Bucket, minio.ListObjectsOptions{Recursive: true, WithVersions: kind != s3test.Plain}) {
			require.NoError(t, o.Err)
			assert.Fail(t, "a trial left "+o.Key)
		}
	}
}

// A bucket that locks everything by itself is refused for writing.
func TestDefaultRetentionIsRefused(t *testing.T) {
	t.Parallel()
	srv := s3test.Start(t)
	at := place(t, srv, s3test.Locked)
	c, err := srv.Client()
	require.NoError(t, err)
	mode, days, unit := minio.Governance, uint(1), minio.Days
	require.NoError(t, c.SetObjectLockConfig(t.Context(), at.Bucket, &mode, &days, &unit))
	st := open(t, srv, at, quick)
	_, err = st.Probe(t.Context())
	require.ErrorIs(t, err, s3store.ErrDefaultRetention)
	_, err = st.CanLock(t.Context())
	require.ErrorIs(t, err, s3store.ErrDefaultRetention)
}

// Many objects are locked at once, and none is said to be that is not.
func TestLockAll(t *testing.T) {
	t.Parallel()
	srv := s3test.Start(t)
	st := open(t, srv, place(t, srv, s3test.Locked), quick)
	var names []string
	for i := range 40 {
		names = append(names, fmt.Sprint("pack/", i))
		require.NoError(t, st.Create(t.Context(), names[i], []byte("x")))
	}
	until := time.Now().Add(time.Hour)
	require.NoError(t, store.LockAll(t.Context(), st, names, until))
	for _, name := range names {
		got, err := st.Locked(t.Context(), name)
		require.NoError(t, err)
		assert.False(t, got.Before(until))
	}
	err := store.LockAll(t.Context(), st, append([]string{"pack/none"}, names...), until.Add(time.Hour))
	require.ErrorIs(t, err, fs.ErrNotExist)
	assert.ErrorContains(t, err, "pack/none")
}

// Large objects go in parts; the condition stands at the completion.
func TestUpload(t *testing.T) {
	t.Parallel()
	srv := s3test.Start(t)
	b := newBetween(t, srv)
	big := bytes.Repeat([]byte("0123456789abcdef"), 21<<20/16)
	opts := &s3store.Options{PartSize: 5 << 20, GiveUp: 5 * time.Second}
	for _, kind := range []s3test.Kind{s3test.Plain, s3test.Versioned} {
		at := place(t, srv, kind)
		st := open(t, srv, b.at(at), opts)
		for name, rules := range map[string][]*rule{
			"calm":      nil,
			"part-cut":  {{method: "PUT", has: "partNumber=2", times: 2, do: cut}},
			"part-busy": {{method: "PUT", has: "partNumber", times: 3, do: answer(503, "SlowDown")}},
			"part-swept": {{method: "PUT", has: "partNumber=3", times: 1, do: func(b *between, w httpWriter, r *httpRequest) {
				list, err := b.client.ListMultipartUploads(r.Context(), at.Bucket, at.Prefix, "", "", "", 1000)
				assert.NoError(t, err)
				for _, u := range list.Uploads {
					assert.NoError(t, b.client.AbortMultipartUpload(r.Context(), at.Bucket, u.Key, u.UploadID))
				}
				b.pass(w, r)
			}}},
			"completion-lost":    {{method: "POST", has: "uploadId=", times: 1, do: lose}},
			"completion-failed":  {{method: "POST", has: "uploadId=", times: 1, do: answer(500, "InternalError")}},
			"completion-refused": {{method: "POST", has: "uploadId=", times: 1, do: answer(409, "ConditionalRequestConflict")}},
		} {
			if kind == s3test.Versioned && name != "completion-lost" && !long() {
				continue
			}
			b.add(rules...)
			require.NoError(t, st.Create(t.Context(), name, big), name)
			assert.Positive(t, b.count("partNumber"), name)
			b.add()
			got, err := store.ReadAll(t.Context(), st, name, 30<<20)
			require.NoError(t, err)
			require.True(t, bytes.Equal(big, got), name)
			if name == "completion-failed" {
				assert.Zero(t, startedOf(t, srv, at, name), "the upload that failed is taken back")
			}
		}
		require.ErrorIs(t, st.Create(t.Context(), "completion-lost", big[1:]), fs.ErrExist)
		_, err := st.Sweep(t.Context(), true) // what a part brought back that was on its way when its upload was aborted
		require.NoError(t, err)
		assert.Zero(t, started(t, srv, at), "no upload is left")

		ctx, cancel := context.WithCancel(t.Context())
		b.add(&rule{method: "PUT", has: "partNumber=4", do: func(b *between, w httpWriter, r *httpRequest) { cancel(); cut(b, w, r) }})
		require.ErrorIs(t, st.Create(ctx, "cancelled", big), context.Canceled)
		b.add()
		_, err = st.Sweep(t.Context(), true)
		require.NoError(t, err)
		assert.Zero(t, started(t, srv, at), "one that was cancelled is taken back, or found")
	}
}

func started(t *testing.T, srv *s3test.Server, at s3store.Address) int {
	return startedOf(t, srv, at, "")
}

func startedOf(t *testing.T, srv *s3test.Server, at s3store.Address, name string) int {
	c, err := srv.Client()
	require.NoError(t, err)
	list, err := c.ListMultipartUploads(t.Context(), at.Bucket, at.Prefix+"/"+name, "", "", "", 1000)
	require.NoError(t, err)
	return len(list.Uploads)
}

// What a dead writer left is found: at once where nobody else writes, else after a day.
func TestSweep(t *testing.T) {
	t.Parallel()
	srv := s3test.Start(t)
	at := place(t, srv, s3test.Plain)
	st := open(t, srv, at, quick)
	c, err := srv.Client()
	require.NoError(t, err)
	for _, name := range []string{"some/where/pack/a", "some/where/pack/b", "else/where/c", "some/where/Not_Ours"} {
		_, err = c.NewMultipartUpload(t.Context(), at.Bucket, name, minio.PutObjectOptions{})
		require.NoError(t, err)
	}
	newVandal(t, srv, at).overwrite(".probe/left", []byte("x"))
	require.NoError(t, st.Create(t.Context(), "pack/kept", []byte("x")))
	swept, err := st.Sweep(t.Context(), false)
	require.NoError(t, err)
	assert.Equal(t, store.Swept{Kept: 2}, swept, "they may be alive")
	swept, err = st.Sweep(t.Context(), true)
	require.NoError(t, err)
	assert.Equal(t, 3, swept.Removed)
	swept, err = st.Sweep(t.Context(), true)
	require.NoError(t, err)
	assert.Zero(t, swept)
	list, err := c.ListMultipartUploads(t.Context(), at.Bucket, "", "", "", "", 1000)
	require.NoError(t, err)
	require.Len(t, list.Uploads, 2, "another program's stay")
	_, err = st.Stat(t.Context(), "pack/kept")
	require.NoError(t, err)
}

func TestParseAddress(t *testing.T) {
	t.Parallel()
	for raw, want := range map[string]s3store.Address{
		"s3://s3.eu-central-1.amazonaws.com/bucket":                  {Host: "s3.eu-central-1.amazonaws.com", Bucket: "bucket"},
		"s3://nas:9000/my-bucket/a/b?region=home&style=path&tls=off": {Host: "nas:9000", Bucket: "my-bucket", Prefix: "a/b", Region: "home", PathStyle: true, Plain: true},
		"s3://[::1]:9000/bucket/x?style=virtual":                     {Host: "[::1]:9000", Bucket: "bucket", Prefix: "x", VirtualStyle: true},
	} {
		got, err := s3store.ParseAddress(raw)
		require.NoError(t, err, raw)
		assert.Equal(t, want, got)
		again, err := s3store.ParseAddress(got.String())
		require.NoError(t, err)
		assert.Equal(t, got, again)
	}
	for _, raw := range []string{"", "s3://", "s3://host", "s3://host/", "s3://AKIA:sEcrEt@host/bucket", "s3://host/b", "s3://host/bucket/UPPER",
		"s3://host/bucket/../x", "s3://host/bucket?style=odd", "s3://host/bucket?secret=sEcrEt", "s3://host/bucket?region=a&region=b",
		"s3://host/bucket#x", "http://host/bucket", "s3://host/bucket?region=a/b", "s3:bucket", "s3://host/buc_ket", "s3://host/bucket/%00"} {
		_, err := s3store.ParseAddress(raw)
		require.ErrorIs(t, err, fs.ErrInvalid, raw)
		assert.NotContains(t, err.Error(), "sEcrEt")
	}
}

// A damaged object is put right in its place, whole; what is locked stays as it is, and nothing appears where nothing was.
func TestMend(t *testing.T) {
	t.Parallel()
	srv := s3test.Start(t)
	for _, kind := range []s3test.Kind{s3test.Plain, s3test.Versioned, s3test.Locked} {
		at := place(t, srv, kind)
		st, evil := open(t, srv, at, quick), newVandal(t, srv, at)
		ctx := t.Context()
		require.ErrorIs(t, st.Mend(ctx, "pack/a", []byte("right")), fs.ErrNotExist)
		require.NoError(t, st.Create(ctx, "pack/a", []byte("wrong")))
		if kind != s3test.Plain {
			evil.overwrite("pack/a", []byte("forged"))
			evil.mark("pack/a")
		}
		require.NoError(t, st.Mend(ctx, "pack/a", []byte("right")))
		for _, st := range []*s3store.Store{st, open(t, srv, at, quick)} {
			got, err := store.ReadAll(ctx, st, "pack/a", 10)
			require.NoError(t, err)
			assert.Equal(t, "right", string(got))
		}
		if kind != s3test.Locked {
			continue
		}
		require.NoError(t, st.Lock(ctx, "pack/a", time.Now().Add(time.Hour)))
		require.ErrorIs(t, st.Mend(ctx, "pack/a", []byte("other")), store.ErrLocked)
		assert.Equal(t, 1, versionsOf(t, st, "pack/a", kind))
	}
}

// Two clients mend one object at once: what either of them put there stays.
func TestMendTwiceAtOnce(t *testing.T) {
	t.Parallel()
	srv := s3test.Start(t)
	at := place(t, srv, s3test.Versioned)
	ctx := t.Context()
	one := open(t, srv, at, quick)
	require.NoError(t, one.Create(ctx, "pack/a", []byte("wrong")))
	b := newBetween(t, srv)
	two := open(t, srv, b.at(at), quick)
	var once sync.Once
	b.add(&rule{method: http.MethodGet, has: "versions", do: func(b *between, w http.ResponseWriter, r *http.Request) {
		if b.count("PUT") > 0 { // it has put its own, and looks what is older
			once.Do(func() { assert.NoError(t, one.Mend(ctx, "pack/a", []byte("right"))) })
		}
		b.pass(w, r)
	}})
	require.Error(t, two.Mend(ctx, "pack/a", []byte("right")), "the other one removed what was older")
	got, err := store.ReadAll(ctx, open(t, srv, at, quick), "pack/a", 10)
	require.NoError(t, err)
	assert.Equal(t, "right", string(got))
}
