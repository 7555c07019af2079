package repo

import (
	"encoding/hex"
	"fmt"
	"strconv"
	"strings"
)

// The names of FORMAT.md section 1.

const headerName = "header"

func slotName(id [16]byte) string     { return "slot/" + hex.EncodeToString(id[:]) }
func logName(n uint64) string         { return fmt.Sprintf("log/%016x", n) }
func checkpointName(k uint64) string  { return fmt.Sprintf("checkpoint/%016x", k) }
func beatName(lease, k uint64) string { return fmt.Sprintf("beat/%016x/%016x", lease, k) }
func indexName(o objectRef) string    { return "index/" + o.String() }
func manifestName(lease uint64, id [16]byte) string {
	return fmt.Sprintf("manifest/%016x-%x", lease, id)
}

// copiesOf are the three places of a vital object, the one that decides first.
func copiesOf(name string) [3]string {
	return [3]string{name, "copy1/" + name, "copy2/" + name}
}

// objectRef names a pack or an index object: the lease under which it was written and its id.
type objectRef struct {
	Lease uint64
	ID    [16]byte
}

func (o objectRef) String() string { return fmt.Sprintf("%016x/%x", o.Lease, o.ID) }

// packRef names a pack.
type packRef struct {
	objectRef
	Kind uint8 // object.KindData or object.KindMeta
}

func (p packRef) name() string {
	if p.Kind == kindMeta {
		return "meta/" + p.String()
	}
	return "data/" + p.String()
}

// parseNumber reads a number as it stands in names.
func parseNumber(s string) (uint64, bool) {
	n, err := strconv.ParseUint(s, 16, 64)
	return n, err == nil && len(s) == 16
}

// parseRef reads "<lease>/<id>" with the given separator.
func parseRef(s, sep string) (objectRef, bool) {
	lease, id, ok := strings.Cut(s, sep)
	if !ok || len(lease) != 16 || len(id) != 32 {
		return objectRef{}, false
	}
	var o objectRef
	n, err := strconv.ParseUint(lease, 16, 64)
	if err != nil {
		return objectRef{}, false
	}
	o.Lease = n
	if _, err := hex.Decode(o.ID[:], []byte(id)); err != nil {
		return objectRef{}, false
	}
	return o, true
}

// parsePack reads the name of a pack.
func parsePack(name string) (packRef, bool) {
	dir, rest, ok := strings.Cut(name, "/")
	if !ok {
		return packRef{}, false
	}
	kind, ok := map[string]uint8{"data": kindData, "meta": kindMeta}[dir]
	if !ok {
		return packRef{}, false
	}
	o, ok := parseRef(rest, "/")
	return packRef{o, kind}, ok
}
