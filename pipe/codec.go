package pipe

import "fmt"

// Codec says how the bytes of a block are encoded. The numbers are part of the repository format and of the wire
// protocol.
type Codec uint8

const (
	Plain Codec = 0 // as it is
	S2    Codec = 1 // one S2 block (github.com/klauspost/compress/s2, block format)
	Zstd  Codec = 2 // one zstd frame (RFC 8878), without dictionary
)

func (c Codec) String() string {
	switch c {
	case Plain:
		return "plain"
	case S2:
		return "s2"
	case Zstd:
		return "zstd"
	}
	return fmt.Sprintf("codec(%d)", uint8(c))
}

// Compression is how hard to try: it chooses codec and level for writing. Reading needs only the Codec.
type Compression string

const (
	None    Compression = "none"
	Fast    Compression = "fast"    // S2
	Default Compression = "default" // zstd fastest
	Better  Compression = "better"  // zstd default
	Max     Compression = "max"     // zstd better
)

// ParseCompression checks a name given by a user. The empty name is Default.
func ParseCompression(s string) (Compression, error) {
	switch c := Compression(s); c {
	case "":
		return Default, nil
	case None, Fast, Default, Better, Max:
		return c, nil
	}
	return "", fmt.Errorf("compression %q is none of none, fast, default, better, max", s)
}
