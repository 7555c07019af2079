package listener

import (
	"bytes"
	"crypto/hmac"
	"crypto/md5"
	"crypto/rand"
	"crypto/rc4"
	"encoding/binary"
	"errors"
	"strings"
	"unicode/utf16"

	"golang.org/x/crypto/md4" //lint:ignore SA1019 NTLM is made of it
)

// ntlmServer is the other side of NTLMv2 on one connection: [MS-NLMP] 3.3.2, 3.4.
type ntlmServer struct {
	user, password string
	flags          uint32 // offered
	challenge      [8]byte
	done           bool

	in, out         *rc4.Cipher
	inSign, outSign []byte
	inSeq, outSeq   uint32
}

const strongFlags = 1<<0 | 1<<2 | 1<<4 | 1<<5 | 1<<9 | 1<<15 | 1<<17 | 1<<19 | 1<<23 | 1<<25 | 1<<29 | 1<<30 | 1<<31

func wide(s string) []byte {
	var b []byte
	for _, u := range utf16.Encode([]rune(s)) {
		b = binary.LittleEndian.AppendUint16(b, u)
	}
	return b
}

func narrow(b []byte) string {
	u := make([]uint16, len(b)/2)
	for i := range u {
		u[i] = binary.LittleEndian.Uint16(b[2*i:])
	}
	return string(utf16.Decode(u))
}

func mac(key []byte, parts ...[]byte) []byte {
	h := hmac.New(md5.New, key)
	for _, p := range parts {
		h.Write(p)
	}
	return h.Sum(nil)
}

func field(b []byte, length, offset int) []byte {
	b = binary.LittleEndian.AppendUint16(b, uint16(length))
	b = binary.LittleEndian.AppendUint16(b, uint16(length))
	return binary.LittleEndian.AppendUint32(b, uint32(offset))
}

// offer is the challenge.
func (n *ntlmServer) offer() []byte {
	rand.Read(n.challenge[:])
	pair := func(id uint16, v []byte) []byte {
		b := binary.LittleEndian.AppendUint16(nil, id)
		return append(binary.LittleEndian.AppendUint16(b, uint16(len(v))), v...)
	}
	name := wide("WEB1")
	info := append(append(append(pair(2, name), pair(1, name)...), pair(7, make([]byte, 8))...), 0, 0, 0, 0)
	b := append([]byte("NTLMSSP\x00"), 2, 0, 0, 0)
	b = field(b, len(name), 56)
	b = binary.LittleEndian.AppendUint32(b, n.flags)
	b = append(b, n.challenge[:]...)
	b = append(b, make([]byte, 8)...)
	b = field(b, len(info), 56+len(name))
	b = append(b, 10, 0, 0x63, 0x45, 0, 0, 0, 15)
	return append(append(b, name...), info...)
}

var errLogon = errors.New("logon refused")

func part(b []byte, at int) []byte {
	n, o := int(binary.LittleEndian.Uint16(b[at:])), int(binary.LittleEndian.Uint32(b[at+4:]))
	if o+n > len(b) {
		return nil
	}
	return b[o : o+n]
}

// accept judges what a client answered.
func (n *ntlmServer) accept(b []byte) error {
	if len(b) < 64 || string(b[:8]) != "NTLMSSP\x00" || b[8] != 3 {
		return errLogon
	}
	response, domain, user, key := part(b, 20), part(b, 28), part(b, 36), part(b, 52)
	if len(response) < 24 || narrow(user) != n.user || len(key) != 16 {
		return errLogon
	}
	h := md4.New()
	h.Write(wide(n.password))
	owf := mac(h.Sum(nil), wide(strings.ToUpper(n.user)), domain)
	proof := mac(owf, n.challenge[:], response[16:])
	if !hmac.Equal(proof, response[:16]) {
		return errLogon
	}
	base := mac(owf, proof)
	session := make([]byte, 16)
	c, _ := rc4.NewCipher(base)
	c.XORKeyStream(session, key)
	derive := func(words string) []byte {
		sum := md5.Sum(append(bytes.Clone(session), words+"\x00"...))
		return sum[:]
	}
	n.inSign = derive("session key to client-to-server signing key magic constant")
	n.outSign = derive("session key to server-to-client signing key magic constant")
	n.in, _ = rc4.NewCipher(derive("session key to client-to-server sealing key magic constant"))
	n.out, _ = rc4.NewCipher(derive("session key to server-to-client sealing key magic constant"))
	n.done = true
	return nil
}

func sum(c *rc4.Cipher, key []byte, seq uint32, message []byte) []byte {
	number := binary.LittleEndian.AppendUint32(nil, seq)
	check := mac(key, number, message)[:8]
	c.XORKeyStream(check, check)
	return append(append([]byte{1, 0, 0, 0}, check...), number...)
}

func (n *ntlmServer) seal(message []byte) (signature, sealed []byte) {
	sealed = make([]byte, len(message))
	n.out.XORKeyStream(sealed, message)
	signature = sum(n.out, n.outSign, n.outSeq, message)
	n.outSeq++
	return signature, sealed
}

func (n *ntlmServer) open(signature, sealed []byte) ([]byte, error) {
	message := make([]byte, len(sealed))
	n.in.XORKeyStream(message, sealed)
	want := sum(n.in, n.inSign, n.inSeq, message)
	n.inSeq++
	if !hmac.Equal(want, signature) {
		return nil, errors.New("a message was changed on its way")
	}
	return message, nil
}

func (n *ntlmServer) size() int { return 16 }

func (n *ntlmServer) protocol() string { return "application/HTTP-SPNEGO-session-encrypted" }
