package stripe

import (
	"errors"
	"fmt"
	"io/fs"
	"strings"
)

var (
	// ErrNoArbiter says that the member which decides who created a name is lost or out of date. Nothing can be created
	// or removed until it is back or [Store.Promote] made another one the arbiter. Reading goes on.
	ErrNoArbiter = errors.New("the arbiter of the striped set is not there")
	// ErrFenced says that the set got another arbiter while this call ran: what it wrote may or may not be there.
	ErrFenced = errors.New("the striped set has another arbiter by now")
	// ErrTooFew says that too many members are lost for an answer. See [LostError].
	ErrTooFew = errors.New("too few members of the striped set answer")
	// ErrMissing says that a member is away or out of date, and that writing without it was not allowed. See
	// [MissingError].
	ErrMissing = errors.New("the striped set is not whole")
	// ErrConflict says that members hold different objects under one name: one of them was put back as it had been
	// earlier, or wrote without the others. A person has to look; see docs/stripe.md.
	ErrConflict = errors.New("members of the striped set contradict each other")
	// ErrNotSet says that no store that answered is a member of a striped set.
	ErrNotSet = errors.New("no striped set")
	// ErrDamaged says that what stands on a member is not what was written there.
	ErrDamaged = errors.New("damaged")

	errHung      = errors.New("no answer in time")
	errAbandoned = errors.New("the call was left behind")
	errNewer     = errors.New("the state was changed by somebody else")
)

// LostError says what could not be read because too few members answered rightly. It is [ErrTooFew].
type LostError struct {
	Object string // or a part of the set: "state"
	Off    int64  // where in the object
	Length int64
	Have   int // members or shards that are right
	Need   int
	Causes []error // what was wrong with the others
	// Members are the labels of those that did not answer, where the set as a whole could not be opened.
	Members []string

	gone bool // a member says that its shard is not there: the object may have been removed, or made anew
}

func (e *LostError) Error() string {
	var why []string
	for _, c := range e.Causes {
		why = append(why, c.Error())
	}
	s := fmt.Sprintf("%v: %s at %d: %d of %d", ErrTooFew, e.Object, e.Off, e.Have, e.Need)
	if len(e.Members) > 0 {
		s += ", without " + strings.Join(e.Members, ", ")
	}
	if len(why) > 0 {
		s += ": " + strings.Join(why, "; ")
	}
	return s
}

func (e *LostError) Is(target error) bool { return target == ErrTooFew }

// MissingError names the members that a set cannot be written without. It is [ErrMissing].
type MissingError struct {
	Members []string // labels
	Causes  []error
}

func (e *MissingError) Error() string {
	s := fmt.Sprintf("%v: %s", ErrMissing, strings.Join(e.Members, ", "))
	if err := errors.Join(e.Causes...); err != nil {
		s += ": " + strings.ReplaceAll(err.Error(), "\n", "; ")
	}
	return s
}

func (e *MissingError) Is(target error) bool { return target == ErrMissing }

func fail(op, name string, err error) error {
	if err == nil {
		return nil
	}
	return &fs.PathError{Op: op, Path: name, Err: err}
}

// of names the member in an error, and hides what it is where it would be taken for an answer about the object.
func of(m *member, err error) error {
	if err == nil {
		return nil
	}
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrExist) || errors.Is(err, fs.ErrInvalid) {
		return fmt.Errorf("member %s: %v", m.label, err)
	}
	return fmt.Errorf("member %s: %w", m.label, err)
}
