package hooks

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"
)

// Names of the headers of a post.
const (
	SignatureHeader = "Hikae-Signature"
	DeliveryHeader  = "Hikae-Delivery"
)

// Webhook is an address that a call is posted to.
type Webhook struct {
	URL    string
	Secret []byte // that posts are signed with; empty: they are not signed
	Plain  bool   // http:// is allowed
	// Deadline is for all attempts together. Zero: a minute.
	Deadline time.Duration
	// Attempts is how often it is tried in all. Zero: 5.
	Attempts int
	// FirstWait is how long is waited after the first failure; each wait is twice the one before. Zero: 1 s.
	FirstWait time.Duration
	// Transport is how requests go; nil: as http.DefaultTransport does.
	Transport http.RoundTripper
}

const (
	defaultAttempts = 5
	defaultWait     = time.Second
	mostWait        = 30 * time.Second
	maxAnswer       = 2 << 10
	// Tolerance is how far the time of a post may be from the receiver's.
	Tolerance = 5 * time.Minute
)

// StatusError is an answer that was no delivery.
type StatusError struct {
	Status int
	Body   string        // its beginning
	After  time.Duration // how long the other side asked to wait; 0: it did not
}

func (e *StatusError) Error() string {
	text := fmt.Sprintf("the answer was %d %s", e.Status, http.StatusText(e.Status))
	if e.Status >= 300 && e.Status < 400 {
		text += ", and redirects are not followed"
	}
	return text
}

// passing reports whether another try may be answered otherwise.
func (e *StatusError) passing() bool {
	switch e.Status {
	case http.StatusRequestTimeout, http.StatusTooEarly, http.StatusTooManyRequests:
		return true
	}
	return e.Status >= 500
}

// Send posts the call until it is taken, or it makes no sense to go on. It may have been taken more than once, with the same id of
// the delivery, where answers were lost.
func (w *Webhook) Send(ctx context.Context, c Call) (Record, error) {
	begun := time.Now()
	r := Record{Hook: c.Hook, VM: c.VM, What: w.shown()}
	limit := w.Deadline
	if limit <= 0 {
		limit = defaultDeadline
	}
	limited, cancel := context.WithTimeoutCause(ctx, limit, ErrDeadline)
	defer cancel()
	err := w.send(limited, c.JSON(), &r)
	r.Seconds = seconds(begun)
	if err != nil {
		err = fmt.Errorf("hook %s: %s: %w", c.Hook, r.What, err)
		r.Error = cut(err.Error())
	}
	return r, err
}

// shown is the address for people. What follows its path is often a secret.
func (w *Webhook) shown() string {
	u, err := url.Parse(w.URL)
	if err != nil {
		return "an address"
	}
	return u.Scheme + "://" + u.Host + u.Path
}

func (w *Webhook) send(ctx context.Context, body []byte, r *Record) error {
	u, err := url.Parse(w.URL)
	switch {
	case err != nil || u.Host == "" || u.Scheme != "https" && u.Scheme != "http":
		return fmt.Errorf("it is no address that can be posted to: %w", fs.ErrInvalid)
	case u.Scheme == "http" && !w.Plain:
		return fmt.Errorf("http:// is not allowed: everybody on the way could read it: %w", fs.ErrPermission)
	}
	client := &http.Client{Transport: w.Transport, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	defer client.CloseIdleConnections()
	delivery, wait := rand.Text(), w.FirstWait
	if wait <= 0 {
		wait = defaultWait
	}
	most := w.Attempts
	if most <= 0 {
		most = defaultAttempts
	}
	var last error // that was the other side's
	for {
		r.Attempts++
		err := w.post(ctx, client, body, delivery, r)
		if err == nil {
			return nil
		}
		if ctx.Err() != nil {
			return gaveUp(ctx, last)
		}
		last = withoutURL(err)
		status, answered := errors.AsType[*StatusError](err)
		if answered && !status.passing() || r.Attempts >= most {
			return last
		}
		if !pause(ctx, wait, status) {
			return gaveUp(ctx, last)
		}
		wait = min(2*wait, mostWait)
	}
}

// gaveUp is why there was no other attempt, with what the last one met.
func gaveUp(ctx context.Context, last error) error {
	if last == nil {
		return context.Cause(ctx)
	}
	return fmt.Errorf("%w; before: %w", context.Cause(ctx), last)
}

// withoutURL is an error without the whole address, in which secrets may stand.
func withoutURL(err error) error {
	if e, ok := errors.AsType[*url.Error](err); ok {
		return e.Err
	}
	return err
}

// pause waits, as long as the other side asked where it did. It is false where there is no time left.
func pause(ctx context.Context, wait time.Duration, asked *StatusError) bool {
	if asked != nil && asked.After > 0 {
		wait = min(asked.After, mostWait)
	}
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

func (w *Webhook) post(ctx context.Context, client *http.Client, body []byte, delivery string, r *Record) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, w.URL, bytes.NewReader(body))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("User-Agent", "hikae")
	req.Header.Set(DeliveryHeader, delivery)
	if len(w.Secret) > 0 {
		req.Header.Set(SignatureHeader, Sign(body, w.Secret, time.Now()))
	}
	answer, err := client.Do(req)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	text, _ := io.ReadAll(io.LimitReader(answer.Body, maxAnswer)) // it is for people; the status says it all
	r.Exit, r.Output = answer.StatusCode, ""
	if answer.StatusCode >= 200 && answer.StatusCode < 300 {
		return nil
	}
	r.Output = strings.ToValidUTF8(string(text), "\uFFFD")
	e := &StatusError{Status: answer.StatusCode, Body: r.Output}
	if n, err := strconv.Atoi(answer.Header.Get("Retry-After")); err == nil && n > 0 && n < 1<<20 {
		e.After = time.Duration(n) * time.Second
	}
	return e
}

// Sign is the signature of a body at a time.
func Sign(body, secret []byte, at time.Time) string {
	t := strconv.FormatInt(at.Unix(), 10)
	return "t=" + t + ",v1=" + hex.EncodeToString(digest(t, body, secret))
}

func digest(t string, body, secret []byte) []byte {
	h := hmac.New(sha256.New, secret)
	h.Write([]byte(t))
	h.Write([]byte{'.'})
	h.Write(body)
	return h.Sum(nil)
}

// ErrSignature is wrapped where a post is not from who has the secret, or is an old one.
var ErrSignature = errors.New("the signature does not hold")

// Verify is for receivers: it holds a body, as it was received, against the header's signature. Errors wrap [ErrSignature].
func Verify(header string, body, secret []byte, now time.Time) error {
	stamp, sum, ok := strings.Cut(header, ",")
	t, okT := strings.CutPrefix(stamp, "t=")
	hexed, okSum := strings.CutPrefix(sum, "v1=")
	at, err := strconv.ParseInt(t, 10, 64)
	got, errHex := hex.DecodeString(hexed)
	if !ok || !okT || !okSum || err != nil || errHex != nil || len(secret) == 0 {
		return fmt.Errorf("%w: it is not of the form t=SECONDS,v1=HEX, or there is no secret", ErrSignature)
	}
	if !hmac.Equal(got, digest(t, body, secret)) {
		return fmt.Errorf("%w: it is another body, or another secret", ErrSignature)
	}
	if age := now.Sub(time.Unix(at, 0)); age > Tolerance || age < -Tolerance {
		return fmt.Errorf("%w: it is %s old", ErrSignature, age.Round(time.Second))
	}
	return nil
}
