package replica

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"regexp"
	"strings"
)

var (
	// plainName are names that are their own folder or file.
	plainName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$`)
	pointID   = regexp.MustCompile(`^[0-9a-f]{32}$`)
	vmFolder  = regexp.MustCompile(`^(?:[A-Za-z0-9][A-Za-z0-9._-]{0,63}|@[0-9a-f]{32})$`)
	diskName  = regexp.MustCompile(`^(?:[A-Za-z0-9][A-Za-z0-9._-]{0,63}|@[0-9a-f]{32})$`)
)

// nameFor is the name of a folder or file for a name of any kind. Other kinds of names get one that no plain name has.
func nameFor(name string) string {
	if plainName.MatchString(name) && !strings.HasPrefix(name, siteName) {
		return name
	}
	sum := sha256.Sum256([]byte(name))
	return "@" + hex.EncodeToString(sum[:16])
}

func newID() string {
	var b [16]byte
	_, _ = rand.Read(b[:]) // never fails: the program ends instead
	return hex.EncodeToString(b[:])
}
