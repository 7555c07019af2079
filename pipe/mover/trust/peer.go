package trust

import (
	"fmt"
	"io/fs"
	"regexp"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"
)

// Role is what a peer may do.
type Role string

// The roles.
const (
	// Append may begin points of its own VMs and see what is needed for increments; it reads no content and deletes
	// nothing.
	Append Role = "append"
	// Full may do everything.
	Full Role = "full"
	// Guest may have work done in guests by a guest interaction proxy, and nothing else: of a repository it sees nothing.
	Guest Role = "guest"
)

// Roles are all there are.
var Roles = []Role{Append, Full, Guest}

// ParseRole reads one of [Roles].
func ParseRole(text string) (Role, error) {
	if r := Role(text); slices.Contains(Roles, r) {
		return r, nil
	}
	return "", fmt.Errorf("%.40q is no role; there are %q: %w", text, Roles, fs.ErrInvalid)
}

// Peer is an entry of the book.
type Peer struct {
	Name string
	Role Role
	// Pin is the key that it was found by.
	Pin Pin
	// Next is the key that it announced and has not used yet, zero without one.
	Next Pin
	// Host is what the machine called itself when it enrolled. It proves nothing.
	Host string
	// Token says that this is a token: it may enrol and nothing else.
	Token bool
	// Since is when it was enrolled, or the token made.
	Since time.Time
	// Expires is a token's end. Peers have none.
	Expires time.Time
	// Serial tells this enrolment from every other in this book, also from a later one under the same name.
	Serial uint64
}

// MaxName is the longest name of a peer, in bytes.
const MaxName = 64

const maxHost = 255

// Names become parts of VM names and of file names, also where case does not count.
var goodName = regexp.MustCompile(`^[A-Za-z0-9]([A-Za-z0-9._-]{0,62}[A-Za-z0-9])?$`)

// CheckName tells whether a peer may be called so: 1 to 64 letters, digits, and inside also ".", "_" and "-".
func CheckName(name string) error {
	if !goodName.MatchString(name) {
		return fmt.Errorf("%.80q is no name for a peer: 1 to %d letters and digits, with . _ - between them: %w", name, MaxName, fs.ErrInvalid)
	}
	return nil
}

func checkHost(host string) error {
	if len(host) > maxHost || !utf8.ValidString(host) || strings.ContainsFunc(host, func(r rune) bool { return !unicode.IsPrint(r) }) {
		return fmt.Errorf("a host's name of %d bytes: at most %d, all printable: %w", len(host), maxHost, fs.ErrInvalid)
	}
	return nil
}

// fold is what two names that must not stand side by side have in common.
func fold(name string) string { return strings.ToLower(name) }
