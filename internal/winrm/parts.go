package winrm

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"strconv"
)

// A message that is encrypted goes as two parts: what it was, and its bytes. [MS-WSMV] 2.2.9.1.
const (
	plainType = "application/soap+xml;charset=UTF-8"
	boundary  = "--Encrypted Boundary"
)

func sealedType(protocol string) string {
	return `multipart/encrypted;protocol="` + protocol + `";boundary="Encrypted Boundary"`
}

// pack makes the body of a request. Length is that of the message before it was sealed.
func pack(protocol string, length int, sum, sealed []byte) []byte {
	var b bytes.Buffer
	fmt.Fprintf(&b, boundary+"\r\n\tContent-Type: %s\r\n\tOriginalContent: type=%s;Length=%d\r\n"+
		boundary+"\r\n\tContent-Type: application/octet-stream\r\n", protocol, plainType, length)
	b.Write(binary.LittleEndian.AppendUint32(nil, uint32(len(sum))))
	b.Write(sum)
	b.Write(sealed)
	b.WriteString(boundary + "--\r\n")
	return b.Bytes()
}

// unpack finds a signature of so many bytes, and what is sealed. Its length is known from the header: it may hold anything,
// also what looks like a boundary.
func unpack(body []byte, signature int) (sum, sealed []byte, err error) {
	head, rest, ok := bytes.Cut(body, []byte(boundary+"\r\n"))
	if !ok || len(head) > 0 {
		return nil, nil, errSealed
	}
	head, rest, ok = bytes.Cut(rest, []byte(boundary+"\r\n"))
	if !ok {
		return nil, nil, errSealed
	}
	_, length, ok := bytes.Cut(head, []byte("Length="))
	n, err := strconv.ParseUint(string(bytes.TrimSpace(length)), 10, 31)
	if !ok || err != nil {
		return nil, nil, errSealed
	}
	_, rest, ok = bytes.Cut(rest, []byte("application/octet-stream\r\n"))
	if !ok || len(rest) < 4+signature || binary.LittleEndian.Uint32(rest) != uint32(signature) || uint64(len(rest)-4-signature) < n {
		return nil, nil, errSealed
	}
	sum, sealed = rest[4:4+signature], rest[4+signature:4+signature+int(n)]
	if end := bytes.TrimSpace(rest[4+signature+int(n):]); string(end) != boundary+"--" {
		return nil, nil, errSealed
	}
	return sum, sealed, nil
}
