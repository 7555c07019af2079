package nfc

import (
	"encoding/binary"
	"io"
)

// Classic messages are 264 bytes: a type, and fields of that type's own; the rest is zeros. Numbers are little-endian.
const (
	classicLen = 264

	classicComplete      = 4  // the session is over
	classicParams        = 33 // asks for the session's parameters
	classicParamsReply   = 36 // 1 at 16
	classicHandshake     = 43 // "PlainText" at 4
	classicVersion       = 51 // the version at 4, both ways
	classicAIO           = 52 // from here on frames, both ways
	classicConnection    = 54 // lengths of two names at 4 and 8; the names follow bare
	classicFeatures      = 55 // bits at 4
	ourVersion           = 11
	oldestVersion        = 3 // the first that is told who connects
	newestVersion        = 1 << 16
	featuresInterruption = 3 // interruption and switching, as VMware's own library says them
)

type classic [classicLen]byte

func newClassic(kind uint32, fields ...uint32) *classic {
	var m classic
	binary.LittleEndian.PutUint32(m[:], kind)
	for i, f := range fields {
		binary.LittleEndian.PutUint32(m[4+4*i:], f)
	}
	return &m
}

func (m *classic) kind() uint32 { return binary.LittleEndian.Uint32(m[:]) }

// field is the ith number after the type.
func (m *classic) field(i int) uint32 { return binary.LittleEndian.Uint32(m[4+4*i:]) }

func handshakeMessage() *classic {
	m := newClassic(classicHandshake)
	copy(m[4:], "PlainText") // of the protocol's own encoding; it says nothing of TLS below
	return m
}

// connectionMessage tells who connects, for the host's log.
func connectionMessage(client, opID string) []byte {
	m := newClassic(classicConnection, uint32(len(client)), uint32(len(opID)))
	return append(append(m[:], client...), opID...)
}

// shakeHands runs the classic part of a session, after which only frames go over the connection.
func shakeHands(conn io.ReadWriter, client, opID string) error {
	if err := exchange(conn, append(handshakeMessage()[:], newClassic(classicParams)[:]...), classicParamsReply, nil); err != nil {
		return err
	}
	var version classic
	if err := exchange(conn, newClassic(classicVersion, ourVersion)[:], classicVersion, &version); err != nil {
		return err
	}
	if v := version.field(0); v < oldestVersion || v > newestVersion {
		return broken("the host speaks version %d", v)
	}
	last := append(connectionMessage(client, opID), newClassic(classicFeatures, featuresInterruption)[:]...)
	return exchange(conn, append(last, newClassic(classicAIO)[:]...), classicAIO, nil)
}

// exchange sends messages and takes one of the given type.
func exchange(conn io.ReadWriter, send []byte, want uint32, reply *classic) error {
	if _, err := conn.Write(send); err != nil {
		return err
	}
	if reply == nil {
		reply = new(classic)
	}
	if _, err := io.ReadFull(conn, reply[:]); err != nil {
		return err
	}
	if reply.kind() != want {
		return broken("a message of type %d where %d was due", reply.kind(), want)
	}
	return nil
}
