package repo

import (
	"context"
	"errors"
	"fmt"
)

// Adopt says, by a person's word, that the state which the store shows is the one to go on with, although this machine has seen a newer one or
// another one: an older state was put back from a backup of the store, or two copies of a repository went on by themselves. What the
// other history had is given up by this machine. The log keeps that it was done, and which record was given up. Where there is
// nothing to adopt, nothing is done. why is for the audit log.
//
// Other machines that have seen what is given up are each told once, and each adopted: what they have seen may differ.
func (r *Repository) Adopt(ctx context.Context, why string) error {
	if r.writer != nil {
		return errWriteOnly
	}
	rollback, ok := errors.AsType[*ErrRollback](r.client.suspect)
	if !ok {
		return r.client.suspect // another repository in this place is not adopted, but opened as replaced
	}
	lost := r.client.mark
	before := r.client.suspect
	r.client.suspect = nil
	key, err := r.signingKey(ctx)
	if err == nil {
		_, err = r.log.append(ctx, key, func() (*record, error) {
			said := fmt.Sprintf("record %d was seen here, %d is the last one there is", rollback.Seen, r.log.n)
			if why != "" {
				said = why + " (" + said + ")"
			}
			return &record{Kind: recordAdopt, Fork: &lost.Hash, Mark: lost.N, Note: note(said)}, nil
		})
	}
	if err != nil {
		r.client.suspect = before
		return err
	}
	return r.client.replaceMark(r.log)
}

// replaceMark remembers the log's head in the place of what was seen of another history.
func (c *client) replaceMark(l *ledger) error {
	n, last := l.head()
	c.mu.Lock()
	defer c.mu.Unlock()
	c.mark = mark{n, last}
	if c.dir == "" {
		return nil
	}
	return c.writeMark(c.mark)
}
