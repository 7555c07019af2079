package s3store_test

import (
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"

	"github.com/hikae/hikae/repo/store"
	"github.com/hikae/hikae/repo/store/s3store"
	"github.com/hikae/hikae/repo/store/s3store/s3test"
	"github.com/hikae/hikae/repo/store/storetest"
)

// A listing of several pages is whole, also where a page in the middle fails, is cut off, or has foreign things in it.
func TestListOfManyPages(t *testing.T) {
	t.Parallel()
	srv := s3test.Start(t)
	b := newBetween(t, srv)
	at := place(t, srv, s3test.Plain)
	dir := filepath.Join(srv.Dir, at.Bucket, "some", "where", "pack")
	require.NoError(t, os.MkdirAll(dir, 0o700))
	want := map[string]int64{}
	for i := range 2500 { // the server's folder is filled behind its back, which is quicker
		name := fmt.Sprintf("%04d", i)
		if i%100 == 7 {
			name = fmt.Sprintf("%04d FOREIGN", i)
		} else {
			want["pack/"+name] = int64(i % 3)
		}
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), make([]byte, i%3), 0o600))
	}
	st := open(t, srv, b.at(at), quick)
	for _, do := range []act{nil, half, cut, answer(503, "SlowDown")} {
		b.add()
		if do != nil {
			b.add(&rule{method: http.MethodGet, has: "prefix=", skip: 1, times: 1, do: do})
		}
		found, err := storetest.Collect(st.List(t.Context(), "pack/"))
		require.NoError(t, err)
		assert.Equal(t, want, found)
		assert.Less(t, b.count("prefix="), 6, "what was listed is not listed again")
	}
}

// Versions of one object may stand on two pages.
func TestListOfManyVersions(t *testing.T) {
	t.Parallel()
	srv := s3test.Start(t)
	at := place(t, srv, s3test.Versioned)
	st, evil := open(t, srv, at, quick), newVandal(t, srv, at)
	const objects, over = 130, 6
	var g errgroup.Group
	g.SetLimit(16)
	for i := range objects {
		g.Go(func() error {
			name := fmt.Sprintf("log/%04d", i)
			if err := st.Create(t.Context(), name, make([]byte, i)); err != nil {
				return err
			}
			for range over {
				evil.overwrite(name, []byte("forged"))
			}
			evil.mark(name)
			return nil
		})
	}
	require.NoError(t, g.Wait())
	found, err := storetest.Collect(open(t, srv, at, quick).List(t.Context(), ""))
	require.NoError(t, err)
	require.Len(t, found, objects)
	for name, size := range found {
		assert.Equal(t, fmt.Sprintf("log/%04d", size), name)
	}
}

// A server whose pages follow each other in a circle is left, with a name for it.
func TestListInCircles(t *testing.T) {
	t.Parallel()
	srv := s3test.Start(t)
	b := newBetween(t, srv)
	st := open(t, srv, b.at(place(t, srv, s3test.Plain)), &s3store.Options{GiveUp: time.Second})
	b.add(&rule{method: http.MethodGet, has: "prefix=", do: func(_ *between, w http.ResponseWriter, r *http.Request) {
		fmt.Fprint(w, `<?xml version="1.0"?><ListBucketResult><IsTruncated>true</IsTruncated><NextContinuationToken>x</NextContinuationToken>`+
			`<Contents><Key>some/where/a</Key><Size>1</Size></Contents><Contents><Key>some/where/b</Key><Size>1</Size></Contents></ListBucketResult>`)
	}})
	var last error
	n := 0
	for _, err := range st.List(t.Context(), "") {
		last = err
		if n++; n > 100 {
			break
		}
	}
	require.ErrorIs(t, last, s3store.ErrCircles)
}

var _ store.Store = (*s3store.Store)(nil)
