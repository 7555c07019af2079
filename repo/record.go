package repo

import (
	"bytes"
	"crypto/ed25519"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/zeebo/blake3"
)

// hash is an unkeyed BLAKE3 hash, in JSON as hexadecimal digits.
type hash [32]byte

func hashBytes(b []byte) hash { return blake3.Sum256(b) }

func (h hash) MarshalText() ([]byte, error)  { return []byte(hex.EncodeToString(h[:])), nil }
func (h *hash) UnmarshalText(b []byte) error { return decodeHex(h[:], b) }

// id16 is a 128-bit id, in JSON as hexadecimal digits.
type id16 [16]byte

func (i id16) String() string                { return hex.EncodeToString(i[:]) }
func (i id16) MarshalText() ([]byte, error)  { return []byte(i.String()), nil }
func (i *id16) UnmarshalText(b []byte) error { return decodeHex(i[:], b) }

// publicKey is an Ed25519 public key, in JSON as hexadecimal digits.
type publicKey [ed25519.PublicKeySize]byte

func (k publicKey) MarshalText() ([]byte, error)  { return []byte(hex.EncodeToString(k[:])), nil }
func (k *publicKey) UnmarshalText(b []byte) error { return decodeHex(k[:], b) }

func publicOf(k ed25519.PrivateKey) (p publicKey) {
	copy(p[:], k.Public().(ed25519.PublicKey))
	return p
}

func decodeHex(dst, src []byte) error {
	if len(src) != 2*len(dst) {
		return fmt.Errorf("%d hexadecimal digits where %d belong", len(src), 2*len(dst))
	}
	_, err := hex.Decode(dst, src)
	return err
}

// recordKind is a kind of log record. FORMAT.md section 6 says what each means.
type recordKind string

const (
	recordKey         recordKind = "key"
	recordLease       recordKind = "lease"
	recordEnd         recordKind = "end"
	recordRevoke      recordKind = "revoke"
	recordCommit      recordKind = "commit"
	recordUnfinished  recordKind = "unfinished"
	recordForget      recordKind = "forget"
	recordHold        recordKind = "hold"
	recordUnhold      recordKind = "unhold"
	recordTombstone   recordKind = "tombstone"
	recordUntombstone recordKind = "untombstone"
	recordSweep       recordKind = "sweep"
	recordSwept       recordKind = "swept"
	recordBad         recordKind = "bad"
	recordAdopt       recordKind = "adopt"
	recordSlots       recordKind = "slots"
	recordGap         recordKind = "gap"
)

// role is what a writer's key may do.
type role string

const (
	roleFull   role = "full"   // everything
	roleAppend role = "append" // lease, end, commit for named VMs
)

// record is one entry of the log. It is stored as JSON; a field that its kind does not use is absent.
type record struct {
	N     uint64     `json:"n"`
	Nonce id16       `json:"nonce"`
	Prev  hash       `json:"prev"` // of record n-1; of the header's document for record 1
	Time  time.Time  `json:"time"` // for people: no decision is taken from it
	Kind  recordKind `json:"kind"`

	Key    *publicKey `json:"key,omitempty"`    // key: who is enrolled
	Role   role       `json:"role,omitempty"`   // key
	VMs    []id16     `json:"vms,omitempty"`    // key with role append: tags of the VMs it may commit
	Lease  uint64     `json:"lease,omitempty"`  // end, revoke, commit, unfinished, tombstone, untombstone, sweep, swept: number of the lease
	Access string     `json:"access,omitempty"` // lease: write, read or prune
	For    *publicKey `json:"for,omitempty"`    // lease of a full key: whose content it writes
	Points []id16     `json:"points,omitempty"` // lease: what it reads or builds on; forget, hold, unhold
	Point  *id16      `json:"point,omitempty"`  // commit, unfinished
	VM     *id16      `json:"vm,omitempty"`     // commit, unfinished: tag of the VM
	Object *hash      `json:"object,omitempty"` // commit, unfinished: hash of the manifest's stream
	Packs  []string   `json:"packs,omitempty"`  // tombstone, untombstone, sweep, swept: names of packs and manifests
	IDs    []hash     `json:"ids,omitempty"`    // bad: ids of blocks known to be damaged
	Fork   *hash      `json:"fork,omitempty"`   // adopt: hash of the last record of the history that is given up
	Mark   uint64     `json:"mark,omitempty"`   // tombstone: number of the last record that was read before it was decided; adopt: of the record that fork names
	Slots  []id16     `json:"slots,omitempty"`  // slots: all that are in force from here on
	Lost   *hash      `json:"lost,omitempty"`   // gap: hash of the last record that it stands for, number mark
	Said   []restated `json:"said,omitempty"`   // gap: what those records said, as far as it shows
	Note   string     `json:"note,omitempty"`   // gap, forget, hold, unhold, revoke, tombstone, untombstone, swept, bad, adopt, slots: for people
}

const (
	accessWrite = "write"
	accessRead  = "read"
	accessPrune = "prune" // one at a time; writes packs too

	maxRecord = 256 << 10 // bytes of a record's document; a kind that needs more uses several records
	maxNote   = 1 << 10   // bytes of a note
	signedMin = ed25519.SignatureSize + ed25519.PublicKeySize
)

// signed is a signed document: signature, public key, body.
type signed struct {
	key  publicKey
	body []byte
	raw  []byte // all of it, as stored and as hashed
}

// signature domains, by what is signed
const (
	signRecord     = "hikae/1/sign/log"
	signManifest   = "hikae/1/sign/manifest"
	signCheckpoint = "hikae/1/sign/checkpoint"
)

func signedMessage(domain string, repo [16]byte, body []byte) []byte {
	msg := make([]byte, 0, len(domain)+16+len(body))
	msg = append(msg, domain...)
	msg = append(msg, repo[:]...)
	return append(msg, body...)
}

// sign makes a signed document. Domain and repository are signed too: nothing can be taken for something else, or
// from elsewhere.
func sign(key ed25519.PrivateKey, domain string, repo [16]byte, body []byte) []byte {
	public := publicOf(key)
	raw := make([]byte, 0, signedMin+len(body))
	raw = append(raw, ed25519.Sign(key, signedMessage(domain, repo, body))...)
	raw = append(raw, public[:]...)
	return append(raw, body...)
}

var errSignature = errors.New("the signature does not verify")

// openSigned verifies a signed document. Whether its key may say what it says is the caller's question.
func openSigned(raw []byte, domain string, repo [16]byte) (signed, error) {
	if len(raw) < signedMin {
		return signed{}, fmt.Errorf("a signed document of %d bytes", len(raw))
	}
	s := signed{body: raw[signedMin:], raw: raw}
	copy(s.key[:], raw[ed25519.SignatureSize:])
	err := ed25519.VerifyWithOptions(s.key[:], signedMessage(domain, repo, s.body), raw[:ed25519.SignatureSize], &ed25519.Options{})
	if err != nil {
		return signed{}, errSignature
	}
	return s, nil
}

func (r *record) encode() ([]byte, error) {
	return encodeJSON(r)
}

// decodeRecord reads a record's body. For a kind that it does not know it gives number, nonce, chain and kind alone.
func decodeRecord(body []byte) (*record, error) {
	if len(body) > maxRecord {
		return nil, fmt.Errorf("a record of %d bytes", len(body))
	}
	r := new(record)
	if err := decodeJSON(body, r); err == nil {
		return r, nil
	}
	// Perhaps a newer writer's: read what every record has.
	var head struct {
		N     uint64     `json:"n"`
		Nonce id16       `json:"nonce"`
		Prev  hash       `json:"prev"`
		Time  time.Time  `json:"time"`
		Kind  recordKind `json:"kind"`
	}
	if err := json.Unmarshal(body, &head); err != nil {
		return nil, fmt.Errorf("log record: %w", err)
	}
	return &record{N: head.N, Nonce: head.Nonce, Prev: head.Prev, Time: head.Time, Kind: "unknown " + head.Kind}, nil
}

// encodeJSON writes a document's body: UTF-8, fields in the order of FORMAT.md, no white space, nothing escaped
// beyond what JSON asks for.
func encodeJSON(v any) ([]byte, error) {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		return nil, err
	}
	return bytes.TrimSuffix(b.Bytes(), []byte("\n")), nil
}

// decodeJSON reads a document's body strictly: unknown fields and anything after the end are errors.
func decodeJSON(b []byte, v any) error {
	dec := json.NewDecoder(bytes.NewReader(b))
	dec.DisallowUnknownFields()
	if err := dec.Decode(v); err != nil {
		return err
	}
	if dec.More() || dec.InputOffset() != int64(len(b)) {
		return errors.New("bytes after the end of the document")
	}
	return nil
}

// keyFromSeed makes an Ed25519 key from a 32-byte seed.
func keyFromSeed(seed []byte) ed25519.PrivateKey { return ed25519.NewKeyFromSeed(seed) }

// domainTag is a short keyed tag: what the log says of a VM without saying its name.
func domainTag(key [32]byte, s string) (tag id16) {
	h, err := blake3.NewKeyed(key[:])
	if err != nil {
		panic("repo: a key of 32 bytes is refused: " + err.Error())
	}
	_, _ = h.WriteString(s)
	sum := h.Sum(nil)
	copy(tag[:], sum)
	return tag
}
