package s3store

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/url"
	"time"

	"github.com/minio/minio-go/v7"

	"github.com/hikae/hikae/repo/store"
)

var (
	// ErrNoBucket says that the bucket is not there. It is no fs.ErrNotExist: of its objects that says nothing.
	ErrNoBucket = errors.New("the bucket does not exist: make it first")
	// ErrCredentials says that there are no credentials, or none that the server takes: unknown, wrong, or expired and
	// not to be renewed.
	ErrCredentials = errors.New("no credentials that the server accepts")
	// ErrClock says that the server refuses requests because this machine's clock and its own are too far apart.
	ErrClock = errors.New("this machine's clock is wrong: set it by NTP")
	// ErrAway says that the server could not be reached, or was too busy, for the time that was allowed.
	ErrAway = errors.New("the server is away or too busy")
	// ErrDefaultRetention says that the bucket locks every object by itself: heartbeats and unfinished sessions would
	// stay, and nobody could take the locks off.
	ErrDefaultRetention = errors.New("the bucket has a default retention: take it off, locks are set on single objects")
	// ErrCircles says that a listing did not come to its end: the server sends the same over and over.
	ErrCircles = errors.New("the server's listing goes in circles")

	// errNonsense says that the server's answer cannot be about an object: who would make room for what it says would fail.
	errNonsense = errors.New("the server says that an object has a negative size, or none, or an id that is too long")
)

// Codes of S3's answers that mean something to callers, as AWS documents them.
var meanings = map[string]error{
	"NoSuchKey":                   fs.ErrNotExist,
	"NoSuchVersion":               fs.ErrNotExist,
	"NoSuchBucket":                ErrNoBucket,
	"PreconditionFailed":          fs.ErrExist,
	"AccessDenied":                fs.ErrPermission,
	"AllAccessDisabled":           fs.ErrPermission,
	"InvalidAccessKeyId":          ErrCredentials,
	"InvalidToken":                ErrCredentials,
	"InvalidClientTokenId":        ErrCredentials,
	"UnrecognizedClientException": ErrCredentials,
	"XAdminUserNotFound":          ErrCredentials, // of the Versity gateway
	"SignatureDoesNotMatch":       ErrCredentials,
	"ExpiredToken":                ErrCredentials,
	"ExpiredTokenException":       ErrCredentials,
	"TokenRefreshRequired":        ErrCredentials,
	"RequestTimeTooSkewed":        ErrClock,
	"RequestExpired":              ErrClock,
	"ObjectLocked":                store.ErrLocked,
	"InvalidObjectState":          store.ErrForeign, // it lies in an archive, and cannot be read
	"ObjectParentIsFile":          store.ErrForeign, // of servers on a file system: a/b where a is an object
	"ExistingObjectIsDirectory":   store.ErrForeign,
	"KeyTooLongError":             fs.ErrInvalid,
}

// expired are the codes after which credentials are asked for anew, once.
var expired = map[string]bool{"ExpiredToken": true, "ExpiredTokenException": true, "TokenRefreshRequired": true, "InvalidToken": true}

// passing are the codes that another try may not meet.
var passing = map[string]bool{
	"SlowDown": true, "SlowDownRead": true, "SlowDownWrite": true, "ServiceUnavailable": true, "Throttling": true,
	"ThrottlingException": true, "RequestLimitExceeded": true, "BandwidthLimitExceeded": true, "InternalError": true,
	"RequestTimeout": true, "OperationAborted": true, "ConditionalRequestConflict": true, "IncompleteBody": true,
	"BadDigest": true, "XAmzContentSHA256Mismatch": true, "XAmzContentChecksumMismatch": true, "NoSuchUpload": true, "InvalidPart": true,
	"Conflict": true,
}

// code is that of an answer of the server; empty: there was none.
func code(err error) string {
	if r, ok := errors.AsType[minio.ErrorResponse](err); ok {
		return r.Code
	}
	return ""
}

// answered is the HTTP status of an answer; zero: there was none.
func answered(err error) int {
	if r, ok := errors.AsType[minio.ErrorResponse](err); ok {
		return r.StatusCode
	}
	return 0
}

// worthwhile reports whether another try may go well.
func worthwhile(err error) bool {
	switch {
	case err == nil || lasting(err):
		return false
	case code(err) == "":
		return true // the connection failed, or what came was cut off
	case passing[code(err)]:
		return true
	case meanings[code(err)] != nil:
		return false
	}
	switch answered(err) {
	case http.StatusRequestTimeout, http.StatusTooManyRequests, http.StatusInternalServerError, http.StatusBadGateway,
		http.StatusServiceUnavailable, http.StatusGatewayTimeout, http.StatusConflict:
		return true
	}
	return false
}

// lasting are failures on this side of the line, which time does not heal.
func lasting(err error) bool {
	for _, e := range []error{fs.ErrInvalid, fs.ErrExist, fs.ErrNotExist, fs.ErrClosed, ErrCredentials, ErrNoBucket, ErrCircles, store.ErrForeign, store.ErrLocked, fs.ErrPermission, ErrClock, ErrDefaultRetention,
		errLock, errReadBack, errOvertaken, errMixed, errUploadGone} {
		if errors.Is(err, e) {
			return true
		}
	}
	return badCertificate(err)
}

// unclear reports whether a request that failed so may have been carried out.
func unclear(err error) bool {
	return code(err) == "" && !lasting(err) || answered(err) >= http.StatusInternalServerError ||
		answered(err) == http.StatusRequestTimeout || answered(err) == http.StatusConflict || code(err) == "NoSuchUpload" ||
		code(err) == "InternalError" // a completed upload says so in the body of an answer that began with 200
}

// translate adds what an answer means.
func (s *Store) translate(err error) error {
	if err == nil {
		return nil
	}
	if ue, ok := errors.AsType[*url.Error](err); ok {
		err = fmt.Errorf("%s: %w", s.at.Host, ue.Err) // its address says where in the bucket, which the caller names
	}
	meaning := meanings[code(err)]
	switch {
	case meaning == nil || errors.Is(err, meaning):
		return err
	case meaning == ErrClock:
		off := time.Duration(s.line.skew.Load()).Round(time.Second)
		return fmt.Errorf("%w (the server's is ahead by %v): %w", meaning, off, err)
	}
	return fmt.Errorf("%w: %w", meaning, err)
}

// cause prefers why a context ended to what a request says of it.
func cause(ctx context.Context, err error) error {
	if err != nil && ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return err
}

// short is a body that ended too early; the line does not say so where the server closed it in an orderly way.
func short(err error) error {
	if err == nil || err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}
