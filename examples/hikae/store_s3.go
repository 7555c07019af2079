package main

import (
	"context"
	"strings"

	"github.com/hikae/hikae/examples/hikae/internal/outcome"
	"github.com/hikae/hikae/repo/store"
	"github.com/hikae/hikae/repo/store/s3store"
)

// s3Scheme is that of a folder in a bucket of an object store.
const s3Scheme = "s3://"

func isBucket(place string) bool { return strings.HasPrefix(place, s3Scheme) }

// openBucket opens a folder in a bucket. What the address leaves open, the variables of AWS's own tools say.
func (t *tool) openBucket(ctx context.Context, place string) (store.Store, error) {
	at, err := parseBucket(place)
	if err != nil {
		return nil, err
	}
	if at.Region == "" {
		at.Region = t.env("AWS_REGION")
	}
	opts := new(s3store.Options)
	if file := t.env("AWS_CA_BUNDLE"); file != "" {
		if opts.CA, err = readSmall(file, maxBundle); err != nil {
			return nil, err
		}
	}
	return s3store.Open(ctx, at, t.s3Credentials(), opts)
}

func parseBucket(place string) (s3store.Address, error) {
	at, err := s3store.ParseAddress(place)
	if err != nil {
		shown, _, _ := strings.Cut(place, "?") // somebody may have put a key behind it
		return at, &outcome.Error{Kind: outcome.KindUsage, Object: shown, Err: err,
			Hint: "For instance s3://s3.eu-central-1.amazonaws.com/BUCKET/hikae; keys come by AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, see: hikae help places."}
	}
	return at, nil
}

// maxBundle bounds a file of certificates.
const maxBundle = 4 << 20

// s3Credentials are those of the environment, else of a profile or the machine's role.
func (t *tool) s3Credentials() s3store.CredentialsFunc {
	if id := t.env("AWS_ACCESS_KEY_ID"); id != "" {
		return s3store.Static(s3store.Credentials{AccessKey: id, SecretKey: t.env("AWS_SECRET_ACCESS_KEY"), SessionToken: t.env("AWS_SESSION_TOKEN")})
	}
	return s3store.Default()
}
