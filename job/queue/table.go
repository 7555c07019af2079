package queue

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"strings"
)

// Table is a small map with compare-and-set. A change is durable on return, and all who look see changes of one key in the same
// order.
type Table interface {
	// Get is the entry of a key. fs.ErrNotExist: there is none.
	Get(ctx context.Context, key string) (Entry, error)
	// Create adds a key. ErrConflict: it is there.
	Create(ctx context.Context, key string, value []byte) (revision uint64, err error)
	// Update changes a key that has this revision. ErrConflict: it has another one, or is gone.
	Update(ctx context.Context, key string, value []byte, revision uint64) (uint64, error)
	// Delete removes a key that has this revision. ErrConflict: it has another one. A key that is gone is no error.
	Delete(ctx context.Context, key string, revision uint64) error
	// List yields the entries whose key is prefix, or begins with prefix and a dot; all where prefix is empty.
	List(ctx context.Context, prefix string) iter.Seq2[Entry, error]
	// Watch yields what List does, and then each change, until the context ends. Where changes follow quickly on each other, only the
	// last one of a key may be seen. It ends with the context's error.
	Watch(ctx context.Context, prefix string) iter.Seq2[Entry, error]
}

// Entry is a key's value.
type Entry struct {
	Key      string
	Value    []byte
	Revision uint64 // grows with each change of the key
	Gone     bool   // of Watch: the key was removed
}

// ErrConflict says that somebody else changed the entry first.
var ErrConflict = errors.New("the entry was changed meanwhile")

const maxKey = 1 << 10 // bytes

// Key makes a key of words, whatever they consist of: different words make different keys.
func Key(words ...string) string {
	out := make([]string, len(words))
	for i, w := range words {
		out[i] = escape(w)
	}
	return strings.Join(out, ".")
}

// Words are the words that a key was made of.
func Words(key string) ([]string, error) {
	words := strings.Split(key, ".")
	for i, w := range words {
		plain, err := unescape(w)
		if err != nil {
			return nil, fmt.Errorf("key %q: %w", key, err)
		}
		words[i] = plain
	}
	return words, nil
}

const hexDigits = "0123456789abcdef"

// escape leaves letters, digits, - and _, and writes any other byte as = and two digits. An empty word is a lone =.
func escape(w string) string {
	if w == "" {
		return "="
	}
	var b strings.Builder
	for i := range len(w) {
		if c := w[i]; plainByte(c) {
			b.WriteByte(c)
		} else {
			b.Write([]byte{'=', hexDigits[c>>4], hexDigits[c&15]})
		}
	}
	return b.String()
}

func plainByte(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '-' || c == '_'
}

func unescape(w string) (string, error) {
	if w == "=" {
		return "", nil
	}
	var b strings.Builder
	for i := 0; i < len(w); i++ {
		switch {
		case plainByte(w[i]):
			b.WriteByte(w[i])
		case w[i] == '=' && i+2 < len(w):
			hi, lo := strings.IndexByte(hexDigits, w[i+1]), strings.IndexByte(hexDigits, w[i+2])
			if hi < 0 || lo < 0 {
				return "", ErrInvalid
			}
			b.WriteByte(byte(hi<<4 | lo))
			i += 2
		default:
			return "", ErrInvalid
		}
	}
	if escape(b.String()) != w {
		return "", ErrInvalid
	}
	return b.String(), nil
}

// CheckEntry holds a key and a value to their bounds, for implementations.
func CheckEntry(key string, value []byte) error {
	if key == "" || len(key) > maxKey {
		return fmt.Errorf("key of %d bytes: %w", len(key), ErrInvalid)
	}
	if _, err := Words(key); err != nil {
		return err
	}
	if len(value) > MaxBody {
		return fmt.Errorf("key %q: a value of %d bytes, at most %d: %w", key, len(value), MaxBody, ErrInvalid)
	}
	return nil
}

// Under reports whether a key is what List and Watch yield for a prefix.
func Under(key, prefix string) bool {
	return prefix == "" || key == prefix || strings.HasPrefix(key, prefix+".")
}
