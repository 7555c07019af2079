package stripe

import (
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"slices"
)

// Standing says how far a member can be believed.
type Standing string

const (
	Current Standing = "current" // it has all that was ever acknowledged
	Behind  Standing = "behind"  // it missed something, and waits for a rebuild
	Filling Standing = "filling" // it is being rebuilt: it gets all that is new, and is not asked for records
)

// Member is one store of a set. Its place in [State.Members] is its seat, by which records name it.
type Member struct {
	ID       string   `json:"id"`    // 32 hexadecimal digits; a store that takes a lost one's seat gets a new one
	Label    string   `json:"label"` // for people
	Standing Standing `json:"standing"`
}

// State is what all members of a set agree on. Each change has the next generation, and states are never changed.
type State struct {
	Set        string   `json:"set"` // 32 hexadecimal digits
	Generation uint64   `json:"generation"`
	Data       int      `json:"data"`    // k
	Parity     int      `json:"parity"`  // m
	Arbiter    string   `json:"arbiter"` // the id of the member that decides; empty while it is being replaced
	Heir       string   `json:"heir,omitempty"`
	Members    []Member `json:"members"`
}

// Limits of a set. They keep every record below 512 bytes.
const (
	MaxMembers = 64
	maxShards  = 64
	maxLabel   = 200
	maxState   = 64 << 10
)

const (
	stateMagic  = "hikae stripe state 1"
	memberMagic = "hikae stripe member 1"
)

// home is the folder of the set's own objects on each member. No object of the set's user may be in it.
const home = "hikae-stripe"

const memberName, memberCopy, statePrefix, shardPrefix = home + "/member", home + "/member-copy", home + "/state/", home + "/shard/"

func stateName(generation uint64) string { return fmt.Sprintf("%s%016x", statePrefix, generation) }

// identity is what stands in a member's own file.
type identity struct {
	Set    string `json:"set"`
	Member string `json:"member"`
}

// text is a magic line, a line of JSON, and a line with the SHA-256 of both.
func text(magic string, v any) []byte {
	body, err := json.Marshal(v)
	if err != nil {
		panic(err) // strings and numbers
	}
	b := append(append([]byte(magic), '\n'), body...)
	b = append(b, '\n')
	sum := sha256.Sum256(b)
	return append(hex.AppendEncode(b, sum[:]), '\n')
}

// parse reads what text wrote, and nothing else.
func parse(magic string, b []byte, v any) error {
	if len(b) > maxState {
		return fmt.Errorf("%w: %d bytes", ErrDamaged, len(b))
	}
	first, rest, _ := bytes.Cut(b, []byte{'\n'})
	body, _, _ := bytes.Cut(rest, []byte{'\n'})
	if string(first) != magic {
		return fmt.Errorf("%w: not %q", ErrDamaged, magic)
	}
	d := json.NewDecoder(bytes.NewReader(body))
	d.DisallowUnknownFields()
	if err := d.Decode(v); err != nil {
		return fmt.Errorf("%w: %v", ErrDamaged, err)
	}
	if !bytes.Equal(text(magic, v), b) {
		return fmt.Errorf("%w: wrong checksum", ErrDamaged)
	}
	return nil
}

func (s *State) encode() []byte { return text(stateMagic, s) }

func decodeState(b []byte) (*State, error) {
	s := new(State)
	if err := parse(stateMagic, b, s); err != nil {
		return nil, fmt.Errorf("state: %w", err)
	}
	return s, s.valid()
}

func decodeIdentity(b []byte) (identity, error) {
	var id identity
	err := parse(memberMagic, b, &id)
	if err == nil && !(validID(id.Set) && validID(id.Member)) {
		err = fmt.Errorf("%w: no id", ErrDamaged)
	}
	return id, err
}

func (s *State) valid() error {
	if err := geometry(s.Data, s.Parity, len(s.Members)); err != nil {
		return err
	}
	if !validID(s.Set) || s.Generation == 0 {
		return fmt.Errorf("state: %w: no id or generation", ErrDamaged)
	}
	seen := map[string]bool{}
	for _, m := range s.Members {
		known := m.Standing == Current || m.Standing == Behind || m.Standing == Filling
		if !validID(m.ID) || seen[m.ID] || len(m.Label) > maxLabel || !known {
			return fmt.Errorf("state: %w: member %q", ErrDamaged, m.Label)
		}
		seen[m.ID] = true
	}
	if s.Arbiter != "" && !seen[s.Arbiter] || s.Heir != "" && !seen[s.Heir] {
		return fmt.Errorf("state: %w: the arbiter is no member", ErrDamaged)
	}
	return nil
}

// geometry says whether k+m shards over n members make sense.
func geometry(k, m, n int) error {
	switch {
	case k < 1 || m < 1 || k > maxShards || m > maxShards || k+m > maxShards:
		return fmt.Errorf("a striped set of %d+%d shards: from 1+1 to %d in all", k, m, maxShards)
	case n < k+m || n > MaxMembers:
		return fmt.Errorf("a striped set of %d+%d on %d members: it needs %d to %d", k, m, n, k+m, MaxMembers)
	}
	return nil
}

func validID(s string) bool {
	b, err := hex.DecodeString(s)
	return err == nil && len(b) == 16 && hex.EncodeToString(b) == s
}

func newID() string {
	var b [16]byte
	_, _ = rand.Read(b[:]) // never fails: the process ends instead
	return hex.EncodeToString(b[:])
}

// next is the state's successor, still the same.
func (s *State) next() *State {
	n := *s
	n.Generation++
	n.Members = slices.Clone(s.Members)
	return &n
}

func (s *State) seat(id string) int {
	return slices.IndexFunc(s.Members, func(m Member) bool { return m.ID == id })
}

// quorum is how many members every change of the state, and every create, must have reached. Two quorums always meet,
// so a create cannot miss a change, and what is on a quorum outlives the loss of any m members.
func (s *State) quorum() int {
	n := len(s.Members)
	return max(n-s.Parity, n/2+1)
}
