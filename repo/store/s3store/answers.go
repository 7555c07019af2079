package s3store

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/bits"
	"net/http"
)

// What a server says about objects is read into memory, and a listing goes on for as long as it says that there is more. Both have
// bounds here, below the client library, which has none.

const (
	// maxAnswer bounds what is not an object's content, in bytes: a page of a thousand keys of a thousand bytes, every one of
	// them written as &#x26;, and as much again for what stands around them.
	maxAnswer = 16 << 20
	// maxPages bounds one listing: a thousand million entries.
	maxPages = 1 << 20
)

var errTooLong = fmt.Errorf("an answer of more than %d bytes that is no object", maxAnswer)

// circle notices that what is followed comes back. The marked step is moved ever farther on, at the powers of two, so that a circle
// of any length meets it.
type circle struct {
	seen   uint
	marked string
}

// closed reports whether a step was there before. No step is empty.
func (c *circle) closed(step string) bool {
	if step == c.marked {
		return true
	}
	if c.seen++; bits.OnesCount(c.seen) == 1 {
		c.marked = step
	}
	return false
}

type pagesKey struct{}

// paged is a context for the requests of one listing.
func paged(ctx context.Context) context.Context {
	return context.WithValue(ctx, pagesKey{}, new(circle))
}

// follow notes that a page was answered. A listing that asks for a page again has seen nothing new in between: the entries themselves
// do not show that where pages are empty. Requests of one listing follow one another.
func follow(req *http.Request) error {
	pages, ok := req.Context().Value(pagesKey{}).(*circle)
	if ok && (pages.closed(req.URL.RawQuery) || pages.seen > maxPages) {
		return ErrCircles
	}
	return nil
}

// bound gives an answer's body its bound, unless it is an object's content: that is read into a buffer that the reader has.
func bound(req *http.Request, resp *http.Response) error {
	if content(req, resp) {
		return nil
	}
	resp.Body = &bounded{resp.Body, maxAnswer + 1} // one more, to see whether it ends there
	if resp.StatusCode == http.StatusOK && req.Method == http.MethodGet {
		if err := follow(req); err != nil {
			return errors.Join(err, resp.Body.Close())
		}
	}
	return nil
}

// content: an object is asked for without a query, or with that for its version, and comes with its length.
func content(req *http.Request, resp *http.Response) bool {
	query := req.URL.Query()
	query.Del("versionId")
	return req.Method == http.MethodGet && len(query) == 0 && resp.StatusCode < 300 && resp.ContentLength >= 0
}

type bounded struct {
	io.ReadCloser
	left int64
}

func (b *bounded) Read(p []byte) (int, error) {
	if b.left <= 0 {
		return 0, errTooLong
	}
	n, err := b.ReadCloser.Read(p[:min(int64(len(p)), b.left)])
	b.left -= int64(n)
	return n, err
}
