package s3store

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"hash/crc32"
	"io"
	"io/fs"
	"sync"

	"github.com/minio/minio-go/v7"

	"github.com/hikae/hikae/repo/store"
)

// Create stores an object by one conditional PUT, or by a multipart upload with the condition at its completion.
func (s *Store) Create(ctx context.Context, name string, data []byte) error {
	ctx, done, err := s.begin(ctx, store.ValidName(name))
	if err == nil {
		defer done()
		err = s.create(ctx, name, data)
	}
	return fail("create", name, err)
}

func (s *Store) create(ctx context.Context, name string, data []byte) error {
	doubt := false // whether an earlier try was carried out
	return s.try(ctx, func(ctx context.Context) error {
		if doubt || s.blind.Load() {
			switch ours, err := s.holds(ctx, name, data); {
			case err == nil && ours && doubt:
				return nil
			case err == nil:
				return fs.ErrExist
			case !errors.Is(s.translate(err), fs.ErrNotExist):
				return err
			}
		}
		id, err := s.put(ctx, name, data)
		switch {
		case code(err) == "NotImplemented" && !s.blind.Load(): // a server that says so is an honest one
			s.blind.Store(true)
			return errAgain
		case doubt && code(err) == "PreconditionFailed": // it may be our own
			return errAgain
		case err != nil:
			doubt = doubt || unclear(err)
			return err
		}
		first, err := s.isFirst(ctx, name, id, data)
		if err == nil && !first {
			return fs.ErrExist
		}
		doubt = doubt || err != nil
		return err
	})
}

// errAgain makes try call again, a few times.
const errAgain = constError("what is there changes from one look to the next")

// holds reports whether an object has these bytes and no others.
func (s *Store) holds(ctx context.Context, name string, data []byte) (bool, error) {
	v, err := s.find(ctx, name)
	if err != nil {
		return false, err
	}
	if v.Size != int64(len(data)) {
		return false, nil
	}
	got := make([]byte, len(data))
	n, _, err := s.get(ctx, name, v.ID, got, 0)
	return n == len(data) && bytes.Equal(got, data), err
}

// isFirst reports whether the version that was just made is the object. In a bucket that keeps versions the condition of
// a PUT looks at the newest one, which may be a mark of deletion that somebody put over an object. What came too late is
// taken away again as far as this is allowed; nobody reads it.
func (s *Store) isFirst(ctx context.Context, name, id string, data []byte) (bool, error) {
	switch {
	case !s.versioned:
		return true, nil
	case id == "":
		return s.holds(ctx, name, data)
	}
	v, err := s.find(ctx, name)
	if err != nil || v.ID == id {
		return err == nil, err
	}
	_ = s.api.RemoveObject(ctx, s.at.Bucket, s.key(name), minio.RemoveObjectOptions{VersionID: id})
	return false, nil
}

// put makes an object by one try, and returns its version's id.
func (s *Store) put(ctx context.Context, name string, data []byte) (string, error) {
	if len(data) > wholeParts*s.opts.PartSize {
		return s.upload(ctx, name, data)
	}
	b := newBody(data)
	defer b.end()
	info, err := s.api.PutObject(ctx, s.at.Bucket, s.key(name), b, int64(len(data)), "", s.signedHash(data), s.exclusively(map[string]string{
		checksumHeader: checksum(data),
	}))
	return info.VersionID, err
}

// wholeParts is how many parts an object is sent whole up to.
const wholeParts = 4

// exclusively are the options of a request that makes an object.
func (s *Store) exclusively(headers map[string]string) minio.PutObjectOptions {
	o := minio.PutObjectOptions{UserMetadata: headers, DisableContentSha256: true}
	if !s.blind.Load() {
		o.SetMatchETagExcept("*")
	}
	return o
}

// checksumHeader has the server hold what arrived against what was sent.
const checksumHeader = "x-amz-checksum-crc32c"

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

func checksum(data []byte) string {
	return base64.StdEncoding.EncodeToString(binary.BigEndian.AppendUint32(nil, crc32.Checksum(data, castagnoli)))
}

// signedHash is the body's hash for the signature, where no TLS guards the body.
func (s *Store) signedHash(data []byte) string {
	if !s.at.Plain {
		return ""
	}
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:])
}

// body is what a request sends. The transport may still read it when the request has failed already; after end it finds
// nothing, and the bytes are the caller's again.
type body struct {
	mu sync.Mutex
	r  *bytes.Reader
}

func newBody(data []byte) *body { return &body{r: bytes.NewReader(data)} }

func (b *body) Read(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.r == nil {
		return 0, io.ErrClosedPipe
	}
	return b.r.Read(p)
}

func (b *body) end() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.r = nil
}
