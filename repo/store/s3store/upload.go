package s3store

import (
	"context"
	"errors"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/minio/minio-go/v7"
	"golang.org/x/sync/errgroup"

	"github.com/hikae/hikae/repo/store"
)

// partsAtOnce is how many parts of one object are under way.
const partsAtOnce = 4

// upload makes a large object by one try. It leaves no upload behind, as far as the server lets it.
func (s *Store) upload(ctx context.Context, name string, data []byte) (version string, err error) {
	key := s.key(name)
	var id string
	err = s.try(ctx, func(ctx context.Context) error {
		id, err = s.api.NewMultipartUpload(ctx, s.at.Bucket, key, minio.PutObjectOptions{
			UserMetadata: map[string]string{"X-Amz-Checksum-Algorithm": "CRC32C"}})
		return err
	})
	if err != nil {
		return "", err
	}
	s.uploads.Store(id, true)
	defer s.uploads.Delete(id)
	parts, err := s.sendParts(ctx, key, id, data)
	if err == nil {
		var info minio.UploadInfo
		info, err = s.api.CompleteMultipartUpload(ctx, s.at.Bucket, key, id, parts, s.exclusively(nil))
		version = info.VersionID
	}
	if err != nil {
		s.abort(ctx, key, id)
	}
	if errors.Is(err, errUploadGone) {
		err = errAgain
	}
	return version, err
}

// errUploadGone says that somebody aborted an upload under way: a sweep that took its writer for dead.
const errUploadGone = constError("the upload was aborted by another client")

func (s *Store) sendParts(ctx context.Context, key, id string, data []byte) ([]minio.CompletePart, error) {
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(partsAtOnce)
	var mu sync.Mutex
	var parts []minio.CompletePart
	count := 0
	for piece := range slices.Chunk(data, s.opts.PartSize) {
		count++
		number := count
		g.Go(func() error {
			return s.try(ctx, func(ctx context.Context) error {
				sum := checksum(piece)
				b := newBody(piece)
				defer b.end()
				p, err := s.api.PutObjectPart(ctx, s.at.Bucket, key, id, number, b, int64(len(piece)), minio.PutObjectPartOptions{
					Sha256Hex: s.signedHash(piece), DisableContentSha256: true,
					CustomHeader: http.Header{http.CanonicalHeaderKey(checksumHeader): {sum}}})
				if code(err) == "NoSuchUpload" {
					return errUploadGone
				}
				if err != nil {
					return err
				}
				mu.Lock()
				defer mu.Unlock()
				parts = append(parts, minio.CompletePart{PartNumber: number, ETag: p.ETag, ChecksumCRC32C: sum})
				return nil
			})
		})
	}
	err := g.Wait()
	slices.SortFunc(parts, func(a, b minio.CompletePart) int { return a.PartNumber - b.PartNumber })
	return parts, err
}

// abort takes back an upload, even where the call that started it was cancelled. A part that was on its way may bring it
// back, so it is looked whether it is gone. What is left all the same, a sweep finds.
func (s *Store) abort(ctx context.Context, key, id string) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), min(s.opts.Timeout, 10*time.Second))
	defer cancel()
	for range abortTries {
		_ = s.api.AbortMultipartUpload(ctx, s.at.Bucket, key, id)
		_, err := s.api.ListObjectParts(ctx, s.at.Bucket, key, id, 0, 1)
		if code(err) == "NoSuchUpload" || sleep(ctx, firstPause) != nil {
			return
		}
	}
}

const abortTries = 4

// startedUploads gives the uploads below the store's prefix that were neither completed nor aborted.
func (s *Store) startedUploads(ctx context.Context) (list []minio.ObjectMultipartInfo, err error) {
	var keyMarker, idMarker string
	for range maxUploadPages {
		var page minio.ListMultipartUploadsResult
		err := s.try(ctx, func(ctx context.Context) (err error) {
			page, err = s.listUploads(ctx, keyMarker, idMarker)
			return err
		})
		if err != nil {
			return nil, err
		}
		for _, u := range page.Uploads {
			name, ok := strings.CutPrefix(u.Key, s.at.base())
			if ok && (store.ValidName(name) || isProbe(name)) { // in a bucket without a prefix there may be other programs'
				list = append(list, u)
			}
		}
		if !page.IsTruncated {
			return list, nil
		}
		if page.NextKeyMarker == keyMarker && page.NextUploadIDMarker == idMarker {
			return nil, ErrCircles
		}
		keyMarker, idMarker = page.NextKeyMarker, page.NextUploadIDMarker
	}
	return nil, ErrCircles
}

// maxUploadPages bounds a listing of started uploads to a million.
const maxUploadPages = 1000

// listUploads gives the call of the client library, which knows no context, the end of ours.
func (s *Store) listUploads(ctx context.Context, keyMarker, idMarker string) (minio.ListMultipartUploadsResult, error) {
	type answer struct {
		page minio.ListMultipartUploadsResult
		err  error
	}
	got := make(chan answer, 1)
	go func() { // it ends by the line's deadline on progress
		page, err := s.api.ListMultipartUploads(ctx, s.at.Bucket, s.at.base(), keyMarker, idMarker, "", 1000)
		got <- answer{page, err}
	}()
	select {
	case a := <-got:
		return a.page, a.err
	case <-ctx.Done():
		return minio.ListMultipartUploadsResult{}, context.Cause(ctx)
	}
}
