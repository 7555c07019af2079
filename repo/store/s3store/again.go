package s3store

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"
)

// Pauses between tries: random, so that many clients do not come back at once.
const (
	firstPause = 50 * time.Millisecond
	maxPause   = 10 * time.Second
)

// maxLooks is how often is looked again at what has just changed, however short a time a busy server is waited for.
const maxLooks = 5

// try calls until it goes well, fails for good, or the server was unable for as long as is allowed. Credentials that have
// expired are asked for anew once.
func (s *Store) try(ctx context.Context, call func(ctx context.Context) error) error {
	begin, fresh, looks := time.Now(), false, 0
	for pause := firstPause; ; pause = min(2*pause, maxPause) {
		asked := time.Now()
		err := cause(ctx, call(ctx))
		if err == nil || ctx.Err() != nil {
			return err
		}
		if expired[code(err)] && !fresh {
			fresh = true
			s.renew(asked)
			continue
		}
		if !worthwhile(err) {
			return s.translate(err)
		}
		if looks++; time.Since(begin)+pause > s.opts.GiveUp && !(errors.Is(err, errAgain) && looks < maxLooks) {
			return fmt.Errorf("%w: %w", ErrAway, s.translate(err))
		}
		if err := sleep(ctx, pause/2+rand.N(pause)); err != nil {
			return err
		}
	}
}

// once calls without waiting for a server that is away.
func (s *Store) once(ctx context.Context, call func(ctx context.Context) error) error {
	ctx, done, err := s.begin(ctx, true)
	if err != nil {
		return err
	}
	defer done()
	asked := time.Now()
	err = cause(ctx, call(ctx))
	if expired[code(err)] {
		s.renew(asked)
		err = cause(ctx, call(ctx))
	}
	if err = s.translate(err); worthwhile(err) && ctx.Err() == nil {
		err = fmt.Errorf("%w: %w", ErrAway, err)
	}
	return err
}

// renew lets the credentials be asked for anew, unless that was done since a request was signed with the old ones.
func (s *Store) renew(since time.Time) {
	s.renewal.Lock()
	defer s.renewal.Unlock()
	if s.renewed.Before(since) {
		s.creds.Expire()
		s.renewed = time.Now()
	}
}

func sleep(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// badCertificate reports whether the server is not who it should be.
func badCertificate(err error) bool {
	var unknown x509.UnknownAuthorityError
	var name x509.HostnameError
	var invalid x509.CertificateInvalidError
	var verify *tls.CertificateVerificationError
	var record tls.RecordHeaderError
	return errors.As(err, &unknown) || errors.As(err, &name) || errors.As(err, &invalid) || errors.As(err, &verify) || errors.As(err, &record)
}
