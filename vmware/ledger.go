package vmware

import (
	"fmt"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/hikae/hikae"
)

// moment is what the ledger knows of one disk at the moment of a snapshot. It stands in the restore point itself, as the
// disk's hikae.ChangeID, so it is committed with the point and with nothing else:
//
//	vmware2:at=TIME&change=UUID%2FN&disk=KEY&file=NAME&first=BYTES&host=VERSION-BUILD&number=N&on=MOREF&restored=TIME&size=BYTES&vm=VM
//
// The server's change id alone would not do: servers have told wrong changes for ids that they took for good, after a
// disk was extended or a VM reverted (VMware KB 2090639, 2137546, 1021607).
type moment struct {
	at     time.Time // when the snapshot was made, by the server's clock
	change serverID
	disk   string // its key
	file   string // that the guest wrote to up to that moment: its name without datastore and folder
	first  int64  // bytes: the disk's size when change.uuid was seen first
	host   release
	number int32  // of our snapshot: those of a VM count up, whatever its hosts' clocks say
	on     string // the snapshot that the VM stood on; empty: none
	vm     string // which VM: see identity
	size   int64  // bytes
	// restored is the VM's word for when a restore last wrote over it, empty where none did. A tracker does not see such writes,
	// or not all of them. The words are compared and not the times: snapshots are stamped by another clock.
	restored string
}

const (
	momentPrefix = "vmware2:"
	oldMoment    = "vmware1:" // it does not say which VM it is of
	maxMoment    = 2048       // bytes of one id
)

// id is the moment in a restore point.
func (m moment) id() hikae.ChangeID {
	v := url.Values{
		"at": {m.at.UTC().Format(time.RFC3339Nano)}, "change": {m.change.String()}, "disk": {m.disk}, "file": {m.file},
		"first": {strconv.FormatInt(m.first, 10)}, "host": {m.host.String()},
		"number": {strconv.FormatInt(int64(m.number), 10)}, "on": {m.on}, "restored": {m.restored}, "size": {strconv.FormatInt(m.size, 10)}, "vm": {m.vm},
	}
	return hikae.ChangeID(momentPrefix + v.Encode())
}

// parseMoment takes what id made, and nothing else.
func parseMoment(id hikae.ChangeID) (m moment, err error) {
	if len(id) > maxMoment {
		return m, fmt.Errorf("it is %d bytes long", len(id))
	}
	if strings.HasPrefix(string(id), oldMoment) {
		return m, fmt.Errorf("an older version of this program wrote it, and it does not say which VM it is of")
	}
	text, ok := strings.CutPrefix(string(id), momentPrefix)
	if !ok {
		return m, fmt.Errorf("it is not one of this hypervisor's")
	}
	v, err := url.ParseQuery(text)
	if err != nil {
		return m, fmt.Errorf("it is damaged: %w", err)
	}
	m.disk, m.file, m.on, m.restored, m.vm = v.Get("disk"), v.Get("file"), v.Get("on"), v.Get("restored"), v.Get("vm")
	number, err := strconv.ParseInt(v.Get("number"), 10, 32)
	if err != nil {
		return m, fmt.Errorf("it is damaged: number is %.32q", v.Get("number"))
	}
	m.number = int32(number)
	if m.at, err = time.Parse(time.RFC3339Nano, v.Get("at")); err != nil {
		return m, fmt.Errorf("it is damaged: %w", err)
	}
	if m.change, err = parseServerID(v.Get("change")); err != nil {
		return m, fmt.Errorf("it is damaged: %w", err)
	}
	if m.host, err = parseRelease(v.Get("host")); err != nil {
		return m, fmt.Errorf("it is damaged: %w", err)
	}
	for name, to := range map[string]*int64{"size": &m.size, "first": &m.first} {
		if *to, err = strconv.ParseInt(v.Get(name), 10, 64); err != nil || *to < 0 {
			return m, fmt.Errorf("it is damaged: %s is %.32q", name, v.Get(name))
		}
	}
	if m.id() != id {
		return m, fmt.Errorf("it is damaged: it is not written as this program writes it")
	}
	return m, nil
}

// serverID is a change id as servers write it: a UUID that stays until tracking is reset, and a number that counts up.
type serverID struct {
	uuid string
	n    uint64
}

const maxServerID = 128 // bytes

func (s serverID) String() string { return s.uuid + "/" + strconv.FormatUint(s.n, 10) }

func parseServerID(text string) (serverID, error) {
	if len(text) > maxServerID {
		return serverID{}, fmt.Errorf("a change id of %d bytes", len(text))
	}
	cut := strings.LastIndexByte(text, '/')
	if cut <= 0 {
		return serverID{}, fmt.Errorf("change id %q is not UUID/N", text)
	}
	n, err := strconv.ParseUint(text[cut+1:], 10, 64)
	if id := (serverID{text[:cut], n}); err == nil && id.String() == text {
		return id, nil
	}
	return serverID{}, fmt.Errorf("change id %q is not UUID/N", text)
}
