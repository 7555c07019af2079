package proxy

import "errors"

var (
	// ErrNoProxy says that no proxy of the job can read a datastore from the source's site.
	ErrNoProxy = errors.New("no proxy for a datastore")
	// ErrNoTarget says that a repository on a machine's disk does not name the machine.
	ErrNoTarget = errors.New("no machine for the target-side mover")
	// ErrNoGateway says that a repository in a folder of another machine names no gateway.
	ErrNoGateway = errors.New("no gateway")
	// ErrAcrossWAN says that a share would be written to across a WAN.
	ErrAcrossWAN = errors.New("a share would be written to across the WAN")
	// ErrUnknownMachine says that a setting names a machine that is not there, or two that contradict each other.
	ErrUnknownMachine = errors.New("unknown machine")
	// ErrUnknownKind says that a repository is of no kind that there is.
	ErrUnknownKind = errors.New("unknown kind of repository")
	// ErrNothing says that there is nothing to place.
	ErrNothing = errors.New("nothing to place")
)

// SettingError says which setting keeps a session from being placed, and what to do about it. What is wrong in kind is
// found by errors.Is.
type SettingError struct {
	Setting string `json:"setting"` // as in a session's JSON: repository.gateway
	Problem string `json:"problem"`
	Hint    string `json:"hint"`
	kind    error
}

func setting(kind error, where, problem, hint string) error {
	return &SettingError{Setting: where, Problem: problem, Hint: hint, kind: kind}
}

func (e *SettingError) Error() string { return e.Setting + ": " + e.Problem + "; " + e.Hint }
func (e *SettingError) Unwrap() error { return e.kind }
