package s3test_test

import (
	"bytes"
	"testing"

	"github.com/minio/minio-go/v7"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/hikae/hikae/repo/store/s3store/s3test"
)

// The server is what tests take it for: it holds to If-None-Match, keeps versions, and ends with Stop.
func TestServer(t *testing.T) {
	srv := s3test.Start(t)
	c, err := srv.Client()
	require.NoError(t, err)
	for _, kind := range []s3test.Kind{s3test.Plain, s3test.Versioned, s3test.Locked} {
		bucket := srv.Bucket(t, kind)
		put := func(condition bool) (minio.UploadInfo, error) {
			o := minio.PutObjectOptions{DisableContentSha256: true}
			if condition {
				o.SetMatchETagExcept("*")
			}
			return c.PutObject(t.Context(), bucket, "a/b", bytes.NewReader([]byte("x")), 1, "", "", o)
		}
		info, err := put(true)
		require.NoError(t, err)
		assert.Equal(t, kind != s3test.Plain, info.VersionID != "")
		_, err = put(true)
		assert.Equal(t, "PreconditionFailed", minio.ToErrorResponse(err).Code)
		_, err = put(false)
		require.NoError(t, err)
	}
	srv.Stop()
	srv.Stop()
	_, err = c.BucketExists(t.Context(), "any")
	require.Error(t, err)
}
