package store

import "context"

// Mender is an optional ability: Mend puts the right bytes into the place of an object that was damaged where it lies.
// It is the one operation that changes an object, and it never loses both: until the new bytes are durable under another
// name, and were read back, the object stays as it was; then one step takes their name from the old ones to the new.
//
// It is for bytes that the caller has proven to be those that were created. There is no object to mend where nothing has
// the name: that is fs.ErrNotExist, and Create is the way. A store that keeps objects from being changed refuses. After
// any error the object is the old one or the new one, whole.
//
// A store whose own creation of an object replaces what was there in one step can have it; where that step takes two (a
// removal, then a creation) it must not.
type Mender interface {
	Mend(ctx context.Context, name string, data []byte) error
}
