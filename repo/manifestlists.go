package repo

import (
	"bytes"
	"encoding/json"
	"fmt"
)

// A manifest is what a writer of role append says, and it is believed no further than its bounds: a list is refused at the first entry
// beyond them, since eight megabytes of "{}," would be gigabytes of disks by the time that somebody counts them.

type manifestDisks []manifestDisk

func (l *manifestDisks) UnmarshalJSON(b []byte) (err error) {
	*l, err = decodeList[manifestDisk](b, maxDisks)
	return err
}

type manifestBlobs []manifestBlob

func (l *manifestBlobs) UnmarshalJSON(b []byte) (err error) {
	*l, err = decodeList[manifestBlob](b, maxBlobs)
	return err
}

type manifestChunks []hash

func (l *manifestChunks) UnmarshalJSON(b []byte) (err error) {
	*l, err = decodeList[hash](b, maxChunks)
	return err
}

// maxChunks is of the longest blob, in the smallest blocks.
const maxChunks = maxBlobSize / minBlockSize

// decodeList reads a list of at most so many entries, as strictly as decodeJSON. null is a list of none.
func decodeList[T any](b []byte, most int) (list []T, err error) {
	dec := json.NewDecoder(bytes.NewReader(b))
	dec.DisallowUnknownFields()
	switch start, err := dec.Token(); {
	case err != nil:
		return nil, err
	case start == nil:
		return nil, nil
	case start != json.Delim('['):
		return nil, fmt.Errorf("%v where a list begins", start)
	}
	list = []T{}
	for dec.More() {
		if len(list) == most {
			return nil, fmt.Errorf("a list of more than %d entries", most)
		}
		var entry T
		if err := dec.Decode(&entry); err != nil {
			return nil, err
		}
		list = append(list, entry)
	}
	_, err = dec.Token()
	return list, err
}
