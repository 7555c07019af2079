package listener

import (
	"bytes"
	"crypto/rand"
	"encoding/asn1"
	"encoding/binary"
	"errors"
	"time"

	gofork "github.com/jcmturner/gofork/encoding/asn1"
	"github.com/jcmturner/gokrb5/v8/asn1tools"
	"github.com/jcmturner/gokrb5/v8/crypto"
	"github.com/jcmturner/gokrb5/v8/messages"
	"github.com/jcmturner/gokrb5/v8/types"
)

// Service is a machine that Kerberos knows, by the key that its tickets are sealed with.
type Service struct {
	Key types.EncryptionKey
}

// krbServer is the acceptor's side of one context: RFC 4121. It hands out a key of its own.
type krbServer struct {
	key     types.EncryptionKey
	in, out uint64
}

var errTicket = errors.New("logon refused")

// accept judges a token, and answers with the proof that we could read it: RFC 4120 3.2.3 to 3.2.4.
func (s *Service) accept(b []byte) (k *krbServer, answer []byte, err error) {
	defer func() {
		if recover() != nil {
			k, answer, err = nil, nil, errTicket
		}
	}()
	var outer asn1.RawValue
	if _, err := asn1.Unmarshal(b, &outer); err != nil || outer.Tag != 0 || outer.Class != asn1.ClassApplication {
		return nil, nil, errTicket
	}
	oid := []byte{6, 9, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x12, 1, 2, 2}
	rest, ok := bytes.CutPrefix(outer.Bytes, append(oid, 1, 0))
	if !ok {
		return nil, nil, errTicket
	}
	var req messages.APReq
	if err := req.Unmarshal(rest); err != nil {
		return nil, nil, err
	}
	if err := req.Ticket.Decrypt(s.Key); err != nil {
		return nil, nil, err
	}
	session := req.Ticket.DecryptedEncPart.Key
	if err := req.DecryptAuthenticator(session); err != nil {
		return nil, nil, err
	}
	auth := req.Authenticator
	flags := binary.LittleEndian.Uint32(auth.Cksum.Checksum[20:])
	if flags&(2|16|32) != 2|16|32 || time.Since(auth.CTime).Abs() > 5*time.Minute {
		return nil, nil, errTicket
	}
	k = &krbServer{in: uint64(auth.SeqNumber), out: 77, key: types.EncryptionKey{KeyType: session.KeyType, KeyValue: make([]byte, len(session.KeyValue))}}
	rand.Read(k.key.KeyValue)
	answer, err = k.proof(auth, session)
	return k, append([]byte(nil), answer...), err
}

func (k *krbServer) proof(auth types.Authenticator, session types.EncryptionKey) ([]byte, error) {
	part, err := gofork.Marshal(messages.EncAPRepPart{CTime: auth.CTime, Cusec: auth.Cusec, Subkey: k.key, SequenceNumber: int64(k.out)})
	if err != nil {
		return nil, err
	}
	sealed, err := crypto.GetEncryptedData(asn1tools.AddASNAppTag(part, 27), session, 12, 0)
	if err != nil {
		return nil, err
	}
	rep, err := gofork.Marshal(messages.APRep{PVNO: 5, MsgType: 15, EncPart: sealed})
	if err != nil {
		return nil, err
	}
	token := []byte{6, 9, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x12, 1, 2, 2, 2, 0}
	return asn1tools.AddASNAppTag(append(token, asn1tools.AddASNAppTag(rep, 15)...), 0), nil
}

func (k *krbServer) size() int { return 60 }

func (k *krbServer) protocol() string { return "application/HTTP-Kerberos-session-encrypted" }

// open undoes the rotation by 28 bytes that both sides use, decrypts, and compares the head inside with that outside.
func (k *krbServer) open(signature, sealed []byte) ([]byte, error) {
	want := append([]byte{5, 4, 2 | 4, 0xff, 0, 0, 0, 28}, binary.BigEndian.AppendUint64(nil, k.in)...)
	if !bytes.Equal(signature[:16], want) {
		return nil, errParts
	}
	cipher := append(append(bytes.Clone(signature[44:]), sealed...), signature[16:44]...)
	et, err := crypto.GetEtype(k.key.KeyType)
	if err != nil {
		return nil, err
	}
	plain, err := et.DecryptMessage(k.key.KeyValue, cipher, 24)
	if err != nil {
		return nil, err
	}
	want[7] = 0
	message, ok := bytes.CutSuffix(plain, want)
	if !ok {
		return nil, errParts
	}
	k.in++
	return message, nil
}

func (k *krbServer) seal(message []byte) (signature, sealed []byte) {
	head := append([]byte{5, 4, 1 | 2 | 4, 0xff, 0, 0, 0, 0}, binary.BigEndian.AppendUint64(nil, k.out)...)
	k.out++
	et, err := crypto.GetEtype(k.key.KeyType)
	if err != nil {
		panic(err) // it decrypted with it before
	}
	_, cipher, err := et.EncryptMessage(k.key.KeyValue, append(bytes.Clone(message), head...), 22)
	if err != nil {
		panic(err)
	}
	head[7] = 28
	end := len(cipher) - 28
	return append(append(head, cipher[end:]...), cipher[:16]...), cipher[16:end]
}
