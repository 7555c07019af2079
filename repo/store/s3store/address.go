package s3store

import (
	"fmt"
	"io/fs"
	"net/url"
	"strings"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/s3utils"

	"github.com/hikae/hikae/repo/store"
)

// Address says where a store is.
type Address struct {
	Host   string // name or address of the server, with :port where it is not that of HTTPS
	Bucket string
	Prefix string // in the bucket: a name as [store.ValidName] has it; empty: the bucket itself
	Region string // empty: that in the host's name, or us-east-1
	// PathStyle: the bucket stands in the path; VirtualStyle: in the host's name. Neither: as the host is known to want it.
	PathStyle, VirtualStyle bool
	// Plain speaks HTTP without TLS. What a repository keeps is sealed all the same; credentials sign and are not sent.
	Plain bool
}

// Limits of an address.
const (
	maxHost   = 260
	maxRegion = 64
)

// ParseAddress reads s3://host[:port]/bucket[/prefix…][?region=…&style=path|virtual&tls=off]. A user or a secret in it is
// refused: addresses are printed.
func ParseAddress(raw string) (Address, error) {
	bad := func(what string) (Address, error) {
		return Address{}, fmt.Errorf("%s; the form is s3://host[:port]/bucket[/prefix][?region=…&style=path|virtual&tls=off], without credentials: %w", what, fs.ErrInvalid)
	}
	u, err := url.Parse(raw)
	if err != nil || u.Scheme != "s3" || u.User != nil || u.Fragment != "" || u.Opaque != "" {
		return bad("not an address") // which is not shown: it may hold a secret
	}
	at := Address{Host: u.Host}
	at.Bucket, at.Prefix, _ = strings.Cut(strings.Trim(u.Path, "/"), "/")
	query, err := url.ParseQuery(u.RawQuery)
	if err != nil {
		return bad("what follows the question mark cannot be read")
	}
	for name, values := range query {
		switch value := values[0]; {
		case len(values) > 1:
			return bad(fmt.Sprintf("%.20q stands there twice", name))
		case name == "region":
			at.Region = value
		case name == "style" && value == "path":
			at.PathStyle = true
		case name == "style" && value == "virtual":
			at.VirtualStyle = true
		case name == "tls" && value == "off":
			at.Plain = true
		case name == "tls" && value == "on":
		default:
			return bad(fmt.Sprintf("%.20q is none of region, style, tls, or has no such value", name))
		}
	}
	return at, at.check()
}

// String is the address as ParseAddress takes it.
func (a Address) String() string {
	q := url.Values{}
	if a.Region != "" {
		q.Set("region", a.Region)
	}
	if a.PathStyle {
		q.Set("style", "path")
	}
	if a.VirtualStyle {
		q.Set("style", "virtual")
	}
	if a.Plain {
		q.Set("tls", "off")
	}
	path := strings.TrimSuffix("/"+a.Bucket+"/"+a.Prefix, "/")
	return (&url.URL{Scheme: "s3", Host: a.Host, Path: path, RawQuery: q.Encode()}).String()
}

func (a Address) check() error {
	switch {
	case a.Host == "" || len(a.Host) > maxHost || strings.ContainsAny(a.Host, "/\\@?# \x00"):
		return fmt.Errorf("no host %.300q: %w", a.Host, fs.ErrInvalid)
	case s3utils.CheckValidBucketNameStrict(a.Bucket) != nil:
		return fmt.Errorf("no bucket %.100q: %w", a.Bucket, fs.ErrInvalid)
	case a.Prefix != "" && !store.ValidName(a.Prefix):
		return fmt.Errorf("no prefix %.300q: it has up to %d bytes in eight parts of a-z, 0-9, dot and hyphen: %w", a.Prefix, store.MaxName, fs.ErrInvalid)
	case len(a.Region) > maxRegion || strings.Trim(a.Region, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_") != "":
		return fmt.Errorf("no region %.80q: %w", a.Region, fs.ErrInvalid)
	case a.PathStyle && a.VirtualStyle:
		return fmt.Errorf("both styles at once: %w", fs.ErrInvalid)
	}
	return nil
}

// base is what every key begins with.
func (a Address) base() string {
	if a.Prefix == "" {
		return ""
	}
	return a.Prefix + "/"
}

// region is what requests are signed for. Nobody is asked for it: that takes a right of its own.
func (a Address) region() string {
	if a.Region != "" {
		return a.Region
	}
	if named := s3utils.GetRegionFromURL(url.URL{Host: a.Host}); named != "" {
		return named
	}
	return "us-east-1"
}

func (a Address) lookup() minio.BucketLookupType {
	switch {
	case a.PathStyle:
		return minio.BucketLookupPath
	case a.VirtualStyle:
		return minio.BucketLookupDNS
	}
	return minio.BucketLookupAuto
}
