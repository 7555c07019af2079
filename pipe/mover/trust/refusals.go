package trust

import "errors"

// Refusals counts the connections and enrolments that a book refused in this process.
type Refusals struct {
	Unknown, Revoked, Expired, TokenUsed, Malformed, Damaged uint64
}

// Refusals are this value's counts so far.
func (b *Book) Refusals() Refusals {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.refusals
}

func (b *Book) count(err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.countLocked(err)
}

func (b *Book) countLocked(err error) {
	r := &b.refusals
	switch {
	case err == nil:
	case errors.Is(err, ErrBook):
		r.Damaged++
	case errors.Is(err, ErrRevoked):
		r.Revoked++
	case errors.Is(err, ErrTokenUsed):
		r.TokenUsed++
	case errors.Is(err, ErrExpired), errors.Is(err, ErrNotYetValid):
		r.Expired++
	case errors.Is(err, ErrUnknownPeer):
		r.Unknown++
	default:
		r.Malformed++
	}
}
