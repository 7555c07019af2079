package object

// Master is a repository's master key, which wraps the data keys of everything but slots.
type Master Key

func (m Master) symmetric() symmetric {
	return symmetric{key: Key(m), typ: WrapMaster, info: "hikae/1/wrap/master"}
}
func (m Master) Wrap(h *Header, key Key) (Wrap, error) { return m.symmetric().wrap(h, key), nil }
func (m Master) Unwrap(h *Header) (Key, error)         { return m.symmetric().unwrap(h) }

// KeyFile is the content of a key file.
type KeyFile Key

func (k KeyFile) symmetric() symmetric {
	return symmetric{key: Key(k), typ: WrapKeyFile, info: "hikae/1/wrap/key"}
}
func (k KeyFile) Wrap(h *Header, key Key) (Wrap, error) { return k.symmetric().wrap(h, key), nil }
func (k KeyFile) Unwrap(h *Header) (Key, error)         { return k.symmetric().unwrap(h) }

// symmetric is what the two have in common: key id (8) | sealed (48).
type symmetric struct {
	key  Key
	typ  uint8
	info string
}

func (s symmetric) wrap(h *Header, key Key) Wrap {
	id := KeyID(s.key)
	body := append(make([]byte, 0, len(id)+sealedKeyLen), id[:]...)
	return Wrap{Type: s.typ, Body: sealKey(body, h, derive(s.key[:], h.salt(), s.info), key)}
}

func (s symmetric) unwrap(h *Header) (Key, error) {
	id, last := KeyID(s.key), error(ErrNoKey)
	for i := range h.Wraps {
		body := h.body(i, s.typ)
		if body == nil || [8]byte(body) != id {
			continue
		}
		key, err := openKey(h, derive(s.key[:], h.salt(), s.info), body[len(id):])
		if err == nil {
			return key, nil
		}
		last = err
	}
	return Key{}, last
}
