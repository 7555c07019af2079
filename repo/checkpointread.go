package repo

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
)

// A checkpoint may be as long as the log that it sums up, and the root key's signature says who wrote it and not that it is sane: eight
// megabytes of "{}," would be gigabytes of leases. So each list is measured before anything is made of it. It must be long enough for as
// many entries as it has, each with all of its fields, and then what is made of it is about as large as its text.

const (
	// maxCheckpointEntry bounds one entry of a list, in bytes: it holds what one record said.
	maxCheckpointEntry = 2 * maxRecord
	// maxAlien bounds the entries of the list of kinds: a kind may be a short text.
	maxAlien = 1 << 20
)

// checkpointReader reads a checkpoint's document from one end to the other, so that no more of the text than one entry is there twice.
type checkpointReader struct {
	*json.Decoder
	text []byte
}

// decodeCheckpoint reads a checkpoint's document as strictly as decodeJSON, and refuses names that are there twice and nulls too.
func decodeCheckpoint(text []byte) (*checkpointDocument, error) {
	r := checkpointReader{json.NewDecoder(bytes.NewReader(text)), text}
	r.DisallowUnknownFields()
	d := new(checkpointDocument)
	if err := r.fields(d); err != nil {
		return nil, err
	}
	if r.More() || r.InputOffset() != int64(len(text)) {
		return nil, errors.New("bytes after the end of the document")
	}
	return d, nil
}

func (r checkpointReader) fields(d *checkpointDocument) error {
	fields := map[string]func() error{
		"k": func() error { return r.Decode(&d.K) }, "n": func() error { return r.Decode(&d.N) },
		"hashes": listInto(r, &d.Hashes), "keys": listInto(r, &d.Keys), "leases": listInto(r, &d.Leases), "points": listInto(r, &d.Points),
		"unfinished": listInto(r, &d.Unfinished), "leaving": listInto(r, &d.Leaving), "held": listInto(r, &d.Held), "tombs": listInto(r, &d.Tombs),
		"bad": listInto(r, &d.Bad), "slots": listInto(r, &d.Slots), "alien": listInto(r, &d.Alien), "audit": listInto(r, &d.Audit),
	}
	if err := r.expect('{'); err != nil {
		return err
	}
	for r.More() {
		name, err := r.Token()
		if err != nil {
			return err
		}
		read := fields[name.(string)] // a name is always a string
		if read == nil {
			return fmt.Errorf("field %.40q is unknown or there twice", name)
		}
		delete(fields, name.(string))
		if err := read(); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	return r.expect('}')
}

func (r checkpointReader) expect(want json.Delim) error {
	got, err := r.Token()
	if err == nil && got != want {
		err = fmt.Errorf("%.40q where %v belongs", fmt.Sprint(got), want)
	}
	return err
}

// listInto reads a list that is as long as its entries say, and not longer.
func listInto[T any](r checkpointReader, to *[]T) func() error {
	return func() error {
		if err := r.expect('['); err != nil {
			return err
		}
		text := r.text[r.InputOffset():]
		entries, size, err := measureList(text)
		if err != nil {
			return err
		}
		if entries > leastMost[T](size) {
			return fmt.Errorf("%d entries in %d bytes", entries, size)
		}
		list := make([]T, 0, entries)
		for len(list) < entries && r.More() {
			list = list[:len(list)+1]
			if err := r.Decode(&list[len(list)-1]); err != nil {
				return err
			}
		}
		*to = list
		return r.expect(']')
	}
}

// leastMost is how many entries a list of size bytes can have at most. The zero value has no field that may be absent, and the others as
// short as they can be.
func leastMost[T any](size int) int {
	var zero T
	b, err := encodeJSON(zero)
	if err != nil {
		panic(err) // numbers and texts
	}
	most := (size + 1) / (len(b) + 1)
	if _, text := any(zero).(string); text {
		most = min(most, maxAlien)
	}
	return most
}

// measureList counts the entries of a list of which text is what follows its bracket, and the bytes up to the closing one. It looks at
// brackets, commas and quotes alone: whether all else is right the decoder says. Errors: what has no end, an entry that is too long, null.
func measureList(text []byte) (entries, size int, err error) {
	depth, begin, quoted := 0, 0, false
	for i := 0; i < len(text); i++ {
		c := text[i]
		if i-begin > maxCheckpointEntry {
			return 0, 0, fmt.Errorf("an entry of more than %d bytes", maxCheckpointEntry)
		}
		if quoted {
			if c == '\\' {
				i++
			}
			quoted = c != '"'
			continue
		}
		switch c {
		case '"':
			quoted = true
		case 'n':
			return 0, 0, errors.New("a null")
		case '[', '{':
			depth++
		case ',':
			if depth == 0 {
				entries, begin = entries+1, i+1
			}
		case ']', '}':
			if depth--; depth < 0 {
				if len(bytes.TrimSpace(text[begin:i])) > 0 {
					entries++
				}
				return entries, i, nil
			}
		}
	}
	return 0, 0, errors.New("a list without an end")
}
