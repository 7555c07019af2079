package winrm

import (
	"context"
	"crypto/hmac"
	"encoding/asn1"
	"encoding/binary"
	"errors"
	"fmt"
	"strings"

	"github.com/jcmturner/gokrb5/v8/asn1tools"
	"github.com/jcmturner/gokrb5/v8/crypto"
	"github.com/jcmturner/gokrb5/v8/iana/etypeID"
	"github.com/jcmturner/gokrb5/v8/messages"
	"github.com/jcmturner/gokrb5/v8/types"

	"github.com/hikae/hikae/internal/kerberos"
)

// ticket is what logs on to one machine: from a domain controller, or a test's.
type ticket struct {
	messages.Ticket
	key   types.EncryptionKey
	realm string
	user  types.PrincipalName
}

// fetchTicket asks a domain controller. The library takes no context: what it waits for has limits of its own, and what
// comes too late is let go.
func (l *Link) fetchTicket(ctx context.Context) (ticket, error) {
	n := l.login
	cl, err := kerberos.New(kerberos.Login{User: n.User, Password: n.Password, Realm: n.Realm, Config: n.Config, KDCs: n.KDCs})
	if err != nil {
		return ticket{}, err
	}
	host := l.host
	if l.opts.ServerName != "" {
		host = l.opts.ServerName
	}
	type answer struct {
		t   ticket
		err error
	}
	got := make(chan answer, 1)
	go func() {
		defer cl.Destroy()
		err := cl.AffirmLogin()
		var a answer
		if err == nil {
			a.t.Ticket, a.t.key, err = cl.GetServiceTicket("HTTP/" + strings.TrimSuffix(host, "."))
		}
		if err != nil {
			a.err = fmt.Errorf("no Kerberos ticket for the machine: %w", err)
		}
		a.t.realm, a.t.user = cl.Credentials.Domain(), cl.Credentials.CName()
		got <- a
	}()
	select {
	case a := <-got:
		return a.t, a.err
	case <-ctx.Done():
		return ticket{}, context.Cause(ctx)
	}
}

// krb is a Kerberos security context on one connection, the initiator's side: RFC 4121.
type krb struct {
	session types.EncryptionKey // of the ticket
	key     types.EncryptionKey // that seals
	made    types.Authenticator
	out, in uint64 // sequence numbers
	subkey  bool   // the acceptor's is in use
}

var (
	errProof = errors.New("the server did not prove that it is the one the ticket is for")
	errEtype = errors.New("the ticket's key is of a kind that is not used any more: AES is needed")
)

// Numbers of RFC 4121 2 and 4.1.1, RFC 4120 5.5 and 7.5.1.
const (
	usageAcceptorSeal  = 22
	usageInitiatorSeal = 24
	usageProof         = 12
	checksumGSS        = 0x8003
	flagsGSS           = 2 | 4 | 8 | 16 | 32 // mutual, replay, sequence, confidential, integrity
	optionMutual       = 2
	wrapHead           = 16
	flagAcceptor       = 1
	flagSealed         = 2
	flagSubkey         = 4
	aesTrailer         = 12 // bytes of the checksum after AES
	aesConfounder      = 16
	wrapSignature      = wrapHead + aesConfounder + wrapHead + aesTrailer
)

var kerberosOID = asn1.ObjectIdentifier{1, 2, 840, 113554, 1, 2, 2}

// newKerberos starts a context, and gives the token that asks for it.
func newKerberos(t ticket) (*krb, []byte, error) {
	if t.key.KeyType != etypeID.AES256_CTS_HMAC_SHA1_96 && t.key.KeyType != etypeID.AES128_CTS_HMAC_SHA1_96 {
		return nil, nil, errEtype
	}
	auth, err := types.NewAuthenticator(t.realm, t.user)
	if err != nil {
		return nil, nil, err
	}
	if err := auth.GenerateSeqNumberAndSubKey(t.key.KeyType, len(t.key.KeyValue)); err != nil {
		return nil, nil, err
	}
	sum := make([]byte, 24) // no channel bindings: a length, 16 zeros, flags
	sum[0] = 16
	binary.LittleEndian.PutUint32(sum[20:], flagsGSS)
	auth.Cksum = types.Checksum{CksumType: checksumGSS, Checksum: sum}
	req, err := messages.NewAPReq(t.Ticket, t.key, auth)
	if err != nil {
		return nil, nil, err
	}
	types.SetFlag(&req.APOptions, optionMutual)
	b, err := req.Marshal()
	if err != nil {
		return nil, nil, err
	}
	oid, err := asn1.Marshal(kerberosOID)
	if err != nil {
		return nil, nil, err
	}
	k := &krb{session: t.key, key: auth.SubKey, made: auth, out: uint64(auth.SeqNumber)}
	return k, asn1tools.AddASNAppTag(append(append(oid, 1, 0), b...), 0), nil
}

// proven reads what the server answered: RFC 4120 3.2.5. The library's code meets a stranger's bytes: a panic in it is an
// error.
func (k *krb) proven(b []byte) (err error) {
	defer func() {
		if recover() != nil {
			err = errProof
		}
	}()
	if len(b) > 16<<10 {
		return errProof
	}
	var outer asn1.RawValue
	if rest, err := asn1.Unmarshal(b, &outer); err != nil || len(rest) > 0 || outer.Class != asn1.ClassApplication || outer.Tag != 0 {
		return errProof
	}
	var oid asn1.ObjectIdentifier
	rest, err := asn1.Unmarshal(outer.Bytes, &oid)
	if err != nil || !oid.Equal(kerberosOID) || len(rest) < 2 || rest[0] != 2 || rest[1] != 0 {
		return errProof
	}
	var rep messages.APRep
	if err := rep.Unmarshal(rest[2:]); err != nil {
		return fmt.Errorf("%w: %v", errProof, err)
	}
	plain, err := crypto.DecryptEncPart(rep.EncPart, k.session, usageProof)
	if err != nil {
		return fmt.Errorf("%w: %v", errProof, err)
	}
	var part messages.EncAPRepPart
	if err := part.Unmarshal(plain); err != nil {
		return fmt.Errorf("%w: %v", errProof, err)
	}
	if part.CTime.Unix() != k.made.CTime.Unix() || part.Cusec != k.made.Cusec {
		return errProof
	}
	k.in = uint64(part.SequenceNumber)
	if len(part.Subkey.KeyValue) > 0 {
		if part.Subkey.KeyType != etypeID.AES256_CTS_HMAC_SHA1_96 && part.Subkey.KeyType != etypeID.AES128_CTS_HMAC_SHA1_96 {
			return errEtype
		}
		k.key, k.subkey = part.Subkey, true
	}
	return nil
}

func (k *krb) protocol() string { return "application/HTTP-Kerberos-session-encrypted" }

// head is a sealed token's: RFC 4121 4.2.6.2.
func head(flags byte, extra, rotated uint16, seq uint64) []byte {
	b := []byte{5, 4, flags, 0xff}
	b = binary.BigEndian.AppendUint16(b, extra)
	b = binary.BigEndian.AppendUint16(b, rotated)
	return binary.BigEndian.AppendUint64(b, seq)
}

// seal encrypts confounder, message and head, and rotates what comes after the message to before it, so that all but the
// message's own length is the signature.
func (k *krb) seal(message []byte) ([]byte, error) {
	flags := byte(flagSealed)
	if k.subkey {
		flags |= flagSubkey
	}
	const rotated = wrapHead + aesTrailer
	et, err := crypto.GetEtype(k.key.KeyType)
	if err != nil {
		return nil, err
	}
	plain := append(append(make([]byte, 0, len(message)+wrapHead), message...), head(flags, 0, 0, k.out)...)
	_, cipher, err := et.EncryptMessage(k.key.KeyValue, plain, usageInitiatorSeal)
	if err != nil {
		return nil, err
	}
	b := head(flags, 0, rotated, k.out)
	b = append(append(b, cipher[len(cipher)-rotated:]...), cipher[:len(cipher)-rotated]...)
	k.out++
	return pack(k.protocol(), len(message), b[:wrapSignature], b[wrapSignature:]), nil
}

func (k *krb) open(body []byte) (message []byte, err error) {
	sum, sealed, err := unpack(body, wrapSignature)
	if err != nil {
		return nil, err
	}
	defer func() {
		if recover() != nil {
			message, err = nil, errSealed
		}
	}()
	flags := byte(flagSealed | flagAcceptor)
	if k.subkey {
		flags |= flagSubkey
	}
	extra, rotated := binary.BigEndian.Uint16(sum[4:]), binary.BigEndian.Uint16(sum[6:])
	if !hmac.Equal(sum[:wrapHead], head(flags, extra, rotated, k.in)) || extra != 0 {
		return nil, errSealed
	}
	cipher := append(append(make([]byte, 0, len(sum)+len(sealed)), sum[wrapHead:]...), sealed...)
	by := int(rotated) % len(cipher)
	cipher = append(cipher[by:len(cipher):len(cipher)], cipher[:by]...)
	et, err := crypto.GetEtype(k.key.KeyType)
	if err != nil {
		return nil, err
	}
	plain, err := et.DecryptMessage(k.key.KeyValue, cipher, usageAcceptorSeal)
	if err != nil || len(plain) < wrapHead {
		return nil, fmt.Errorf("%w: %v", errSealed, err)
	}
	inner := plain[len(plain)-wrapHead:]
	if !hmac.Equal(inner, head(flags, extra, 0, k.in)) {
		return nil, errSealed
	}
	k.in++
	return plain[:len(plain)-wrapHead], nil
}
