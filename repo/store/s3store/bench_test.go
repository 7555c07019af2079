package s3store_test

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/minio/minio-go/v7"
	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"

	"github.com/hikae/hikae/repo"
	"github.com/hikae/hikae/repo/store/s3store"
	"github.com/hikae/hikae/repo/store/s3store/s3test"
)

// The bar: a full backup to a bucket on loopback runs at 70 % or more of what the same server takes in parallel PUTs of
// the same size, by a plain client, in the same minute. Both are done in turns, and the medians are reported. Server and
// client share the machine's cores.
func BenchmarkFullBackup(b *testing.B) {
	const size, pack = 384 << 20, 16 << 20
	srv := s3test.Start(b)
	at := s3store.Address{Host: srv.Host, Bucket: srv.Bucket(b, s3test.Plain), Plain: true}
	img := newImage(5, size)
	client, err := srv.Client()
	require.NoError(b, err)
	puts := func(n int) float64 {
		begin := time.Now()
		var g errgroup.Group
		g.SetLimit(16)
		for i := range size / pack {
			g.Go(func() error {
				piece := img[i*pack : (i+1)*pack]
				_, err := client.Client.PutObject(b.Context(), at.Bucket, fmt.Sprintf("plain/%d/%d", n, i), bytes.NewReader(piece), pack,
					minio.PutObjectOptions{DisableMultipart: true})
				return err
			})
		}
		require.NoError(b, g.Wait())
		return speed(size, begin)
	}
	full := func(n int) float64 {
		at.Prefix = fmt.Sprint("repository", n)
		st := open(b, srv, at, nil)
		r, err := repo.Init(b.Context(), st, secret(), nil, nil)
		require.NoError(b, err)
		defer r.Close()
		begin := time.Now()
		backup(b, r, img)
		return speed(size, begin)
	}
	var plain, ours []float64
	n := 0
	for b.Loop() {
		n++
		plain = append(plain, puts(n))
		ours = append(ours, full(n))
		wipe(b, client, at.Bucket)
	}
	b.ReportMetric(median(plain), "puts-MB/s")
	b.ReportMetric(median(ours), "backup-MB/s")
	b.ReportMetric(100*median(ours)/median(plain), "%")
}

func speed(size int, begin time.Time) float64 {
	return float64(size) / 1e6 / time.Since(begin).Seconds()
}

func median(v []float64) float64 {
	slices.Sort(v)
	return v[len(v)/2]
}

// wipe empties a bucket, so that a long run fits into the place.
func wipe(b *testing.B, client *minio.Core, bucket string) {
	for o := range client.ListObjectsIter(b.Context(), bucket, minio.ListObjectsOptions{Recursive: true}) {
		require.NoError(b, o.Err)
		if !strings.HasSuffix(o.Key, "/") {
			require.NoError(b, client.RemoveObject(b.Context(), bucket, o.Key, minio.RemoveObjectOptions{}))
		}
	}
}
