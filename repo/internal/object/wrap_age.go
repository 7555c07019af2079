package object

import (
	"bytes"
	"errors"
	"fmt"
	"io"

	"filippo.io/age"
)

// AgeRecipients wraps for everyone in it: the wrap is one age file (C2SP age.md) whose content is the data key.
type AgeRecipients []age.Recipient

// AgeIdentities opens such wraps.
type AgeIdentities []age.Identity

func (r AgeRecipients) Wrap(_ *Header, key Key) (Wrap, error) {
	var body bytes.Buffer
	w, err := age.Encrypt(&body, r...)
	if err == nil {
		if _, err = w.Write(key[:]); err == nil {
			err = w.Close()
		}
	}
	if err != nil {
		return Wrap{}, fmt.Errorf("age: %w", err)
	}
	return Wrap{Type: WrapAge, Body: body.Bytes()}, nil
}

func (ids AgeIdentities) Unwrap(h *Header) (Key, error) {
	last := error(ErrNoKey)
	if len(ids) == 0 {
		return Key{}, last
	}
	for _, w := range h.Wraps {
		if w.Type != WrapAge || len(w.Body) > MaxWrap {
			continue
		}
		key, err := ids.open(w.Body)
		if err == nil {
			return key, nil
		}
		if noMatch := (*age.NoIdentityMatchError)(nil); !errors.As(err, &noMatch) {
			last = h.corrupt(fixedHeader, "age: "+err.Error())
		}
	}
	return Key{}, last
}

func (ids AgeIdentities) open(body []byte) (Key, error) {
	r, err := age.Decrypt(bytes.NewReader(body), ids...)
	if err != nil {
		return Key{}, err
	}
	content, err := io.ReadAll(io.LimitReader(r, int64(len(Key{}))+1))
	if err != nil {
		return Key{}, err
	}
	if len(content) != len(Key{}) {
		return Key{}, errors.New("content is not a data key")
	}
	return Key(content), nil
}
