package object

import (
	"errors"
	"fmt"
)

// Wrapper makes a wrap of a data key for one object, of which h says which.
type Wrapper interface {
	Wrap(h *Header, key Key) (Wrap, error)
}

// Unwrapper finds the wrap that is for it and opens it. Errors: ErrNoKey, or ErrWrongSecret, if no wrap of h is for
// it; a CorruptError if one is and does not open.
type Unwrapper interface {
	Unwrap(h *Header) (Key, error)
}

// Unwrap opens a header with the first key that fits and returns the object's cipher. A key that the header does not
// commit to does not fit. Of several errors the one that says most is returned: UnsupportedError if only wraps of
// unknown types are left, CorruptError over ErrWrongSecret over ErrNoKey.
func Unwrap(h *Header, un ...Unwrapper) (*Cipher, error) {
	worst := error(ErrNoKey)
	if onlyUnknown(h) {
		worst = &UnsupportedError{What: "wrap", Value: int(h.Wraps[0].Type)}
	}
	for _, u := range un {
		key, err := u.Unwrap(h)
		if err == nil {
			var c *Cipher
			if c, err = NewCipher(h, key); err == nil {
				return c, nil
			}
		}
		if weight(err) > weight(worst) {
			worst = err
		}
	}
	return nil, worst
}

func weight(err error) int {
	switch {
	case !errors.Is(err, ErrNoKey):
		return 2
	case errors.Is(err, ErrWrongSecret):
		return 1
	}
	return 0
}

func onlyUnknown(h *Header) bool {
	for _, w := range h.Wraps {
		if w.Type <= WrapAge {
			return false
		}
	}
	return len(h.Wraps) > 0
}

// wrapAll fills h.Wraps.
func wrapAll(h *Header, key Key, wraps []Wrapper) error {
	if len(wraps) < 1 || len(wraps) > MaxWraps {
		return fmt.Errorf("%d wraps for an object; 1 to %d are possible", len(wraps), MaxWraps)
	}
	h.Wraps = h.Wraps[:0]
	for _, wr := range wraps {
		w, err := wr.Wrap(h, key)
		if err != nil {
			return err
		}
		if err := checkWrap(h.Suite, w.Type, len(w.Body), len(wraps)); err != nil {
			return err
		}
		h.Wraps = append(h.Wraps, w)
	}
	return nil
}

// Clear is the wrap of repositories without encryption: the data key itself.
type Clear struct{}

func (Clear) Wrap(_ *Header, key Key) (Wrap, error) {
	return Wrap{Type: WrapClear, Body: key[:]}, nil
}

func (Clear) Unwrap(h *Header) (Key, error) {
	if h.Suite == SuiteClear && len(h.Wraps) == 1 && h.Wraps[0].Type == WrapClear && len(h.Wraps[0].Body) == 32 {
		return Key(h.Wraps[0].Body), nil
	}
	return Key{}, ErrNoKey
}

// sealKey appends the sealed data key to a wrap's body. Each kek seals one data key only, so the nonce is zero.
func sealKey(body []byte, h *Header, kek, key Key) []byte {
	prefix := h.prefix()
	return newGCM(kek).Seal(body, make([]byte, 12), key[:], prefix[:])
}

func openKey(h *Header, kek Key, sealed []byte) (Key, error) {
	prefix := h.prefix()
	out, err := newGCM(kek).Open(nil, make([]byte, 12), sealed, prefix[:])
	if err != nil || len(out) != len(Key{}) {
		return Key{}, h.corrupt(fixedHeader, "the wrapped key does not open")
	}
	return Key(out), nil
}

const sealedKeyLen = 32 + Overhead

// body returns the body of wrap i if it is one of that type, nil otherwise. Bodies of fixed types have their one
// length: ParseHeader saw to that, and here it is seen to for headers made by hand.
func (h *Header) body(i int, typ uint8) []byte {
	w := h.Wraps[i]
	if w.Type != typ || len(w.Body) != wrapLen[typ] {
		return nil
	}
	return w.Body
}
