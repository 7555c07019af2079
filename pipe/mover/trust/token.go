package trust

import (
	"crypto/ed25519"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base32"
	"fmt"
	"log/slog"
	"strings"
)

// Token lets one machine enrol, once. Whoever has it may take its name; it goes from the server to the client by hand,
// and never into a log or the arguments of a command. It prints as nothing; only String tells it.
//
//	hikae-token-1-  base32, lower case, no padding, of:
//	 0  32  the server's pin
//	32  32  seed
//	64   4  the first bytes of the SHA-256 of "hikae-token-1-" and the 64 bytes before: tells a slip in copying
//
// The token's key is the Ed25519 key of the seed HKDF-SHA256(secret = seed, salt = server's pin, info =
// "hikae mover token 1", 32 bytes) (RFC 5869, RFC 8032).
type Token struct {
	// Server is the pin that the server must show.
	Server Pin
	seed   [32]byte
}

const (
	tokenPrefix = "hikae-token-1-"
	tokenInfo   = "hikae mover token 1"
	tokenBytes  = 32 + 32 + 4
)

var tokenCode = base32.NewEncoding("abcdefghijklmnopqrstuvwxyz234567").WithPadding(base32.NoPadding)

func newToken(server Pin) Token {
	t := Token{Server: server}
	rand.Read(t.seed[:])
	return t
}

// String is the token's text, a secret of one line.
func (t Token) String() string {
	body := append(t.Server[:], t.seed[:]...)
	return tokenPrefix + tokenCode.EncodeToString(append(body, tokenSum(body)...))
}

func tokenSum(body []byte) []byte {
	h := sha256.New()
	h.Write([]byte(tokenPrefix))
	h.Write(body)
	return h.Sum(nil)[:4]
}

// ParseToken reads a token's text; white space around it is no matter. An [ErrToken] says that it was not copied whole;
// a whole one that is of no use any more shows only when it is used.
func ParseToken(text string) (Token, error) {
	text = strings.TrimSpace(text)
	code, ok := strings.CutPrefix(text, tokenPrefix)
	if !ok {
		return Token{}, fmt.Errorf("%w: it does not begin with %q", ErrToken, tokenPrefix)
	}
	if want := tokenCode.EncodedLen(tokenBytes); len(code) != want {
		return Token{}, fmt.Errorf("%w: %d characters behind %q, and not %d", ErrToken, len(code), tokenPrefix, want)
	}
	raw, err := tokenCode.DecodeString(code)
	if err != nil || len(raw) != tokenBytes {
		return Token{}, fmt.Errorf("%w: it holds a character that none has", ErrToken)
	}
	if string(tokenSum(raw[:64])) != string(raw[64:]) {
		return Token{}, fmt.Errorf("%w: a character is wrong", ErrToken)
	}
	t := Token{Server: Pin(raw[:32]), seed: [32]byte(raw[32:64])}
	if t.String() != text { // the last character has a bit that says nothing
		return Token{}, fmt.Errorf("%w: its last character is wrong", ErrToken)
	}
	return t, nil
}

// Identity is the key that stands in the book for the token. It is good for one enrolment.
func (t Token) Identity() (*Identity, error) {
	seed, err := hkdf.Key(sha256.New, t.seed[:], t.Server[:], tokenInfo, ed25519.SeedSize)
	if err != nil {
		return nil, err
	}
	return identityOf(ed25519.NewKeyFromSeed(seed))
}

// Format prints no secret, whatever the verb.
func (t Token) Format(f fmt.State, _ rune) { fmt.Fprintf(f, "token for server %s", t.Server.Short()) }

// LogValue tells no secret.
func (t Token) LogValue() slog.Value { return slog.StringValue(fmt.Sprint(t)) }

// MarshalText refuses: a token goes into no document by accident.
func (t Token) MarshalText() ([]byte, error) {
	return nil, fmt.Errorf("a token is a secret and is not written into documents: use String")
}
